"""`augment.augment` for a whole batch of letterboxed frames, on the device that they lie on: no step waits for the CPU.

Every change is made to every image and then chosen by a mask. Blocks of JPEG are left to the painted frames, which have
them; the rest is drawn from the same ranges.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.finder.augment import AugmentConfig

_PATCHES = 3
_OCTAVES, _FINEST = 4, 6
_BLUR_PX, _ALIAS_PX = 5, 3
"""Reach of the kernels."""


class Examples(NamedTuple):
    """N images (N, H, W, 3) uint8 RGB, and of P places for people in each:

    boxes: (N, P, 4) float32, left, top, right, bottom, px, clipped to the image; visible: (N, P) float32, the seen part
    of each; present: (N, P) bool, who is in the image at all; ignored: (N, P) bool, who is to be neither found nor
    missed. Boxes and visible are 0 where nobody is present.
    """

    images: Tensor
    boxes: Tensor
    visible: Tensor
    present: Tensor
    ignored: Tensor


@torch.no_grad()
def augment_batch(rows: dict[str, Tensor], generator: torch.Generator, config: AugmentConfig) -> Examples:
    """Examples of the size of the rows.

    Args:
        rows: as `stream.lay_out` makes them, on any device, N of 2 or more. Each frame hides parts of the next.
        generator: of that device.
    """
    images, content, boxes, visible, present = (
        rows[name] for name in ("image", "content", "boxes", "visible", "present")
    )
    draw = _Draws(len(images), images.device, generator)
    if config.hidden:
        images, visible = _hide(images, content, boxes, visible, draw, draw.below(config.hidden))
    width = images.shape[2]
    pixels = images.permute(0, 3, 1, 2).to(torch.float32).contiguous()
    if config.flip:  # the content lies in the middle, so that it is its own mirror image
        flipped = draw.below(config.flip)
        pixels = torch.where(_each(flipped, 4), pixels.flip(3), pixels)
        left, top, right, bottom = boxes.unbind(2)
        mirrored = torch.stack([width - right, top, width - left, bottom], dim=2)
        boxes = torch.where(_each(flipped, 3), mirrored, boxes)
    for change, probability in (
        (_texture, config.textured),
        (_recolour, config.recoloured),
        (_degrade, config.degraded),
    ):
        if probability:
            pixels = torch.where(_each(draw.below(probability), 4), change(pixels, draw), pixels)
    pixels = pixels.masked_fill(~_near(content, pixels), 0.0)  # the bars stay black
    if config.zoomed:
        pixels, boxes, visible = _zoom(pixels, content, boxes, visible, draw, config)
    tall, wide = boxes[:, :, 3] - boxes[:, :, 1], boxes[:, :, 2] - boxes[:, :, 0]
    present = present & (wide > 1) & (tall > 1)
    ignored = present & ((visible < config.least_visible) | (tall < config.least_px))
    return Examples(
        pixels.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8, memory_format=torch.contiguous_format),
        boxes.masked_fill(~present[:, :, None], 0.0),
        visible.masked_fill(~present, 0.0),
        present,
        ignored,
    )


class _Draws:
    """Random numbers for N images, made on their device."""

    def __init__(self, count: int, device: torch.device, generator: torch.Generator) -> None:
        self.count, self.device, self.generator = count, device, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(N, *shape) float32."""
        drawn = torch.rand((self.count, *shape), generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) float32."""
        return torch.randn((self.count, *shape), generator=self.generator, device=self.device)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """(N, *shape) int64, `high` left out."""
        return torch.randint(low, high, (self.count, *shape), generator=self.generator, device=self.device)

    def below(self, probability: float) -> Tensor:
        """(N,) bool."""
        return self.uniform(0, 1) < probability


def _each(values: Tensor, dimensions: int) -> Tensor:
    """(N,) for every image of a tensor of so many dimensions."""
    return values.reshape(-1, *[1] * (dimensions - 1))


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _shared(boxes: Tensor, left: Tensor, top: Tensor, right: Tensor, bottom: Tensor) -> Tensor:
    """Areas (N, P) that boxes (N, P, 4) share with one an image, edges (N,)."""
    across = torch.minimum(boxes[:, :, 2], right[:, None]) - torch.maximum(boxes[:, :, 0], left[:, None])
    down = torch.minimum(boxes[:, :, 3], bottom[:, None]) - torch.maximum(boxes[:, :, 1], top[:, None])
    return across.clamp(min=0) * down.clamp(min=0)


def _near(content: Tensor, pixels: Tensor) -> Tensor:
    """(N, 1, H, W) bool: pixels (N, C, H, W) of the content, and those it fades out in."""
    height, width = pixels.shape[2:]
    x = torch.arange(width, dtype=torch.float32, device=pixels.device) + 0.5
    y = torch.arange(height, dtype=torch.float32, device=pixels.device) + 0.5
    left, top, right, bottom = (edge[:, None] for edge in content.unbind(1))
    across, down = (x > left - 1) & (x < right + 1), (y > top - 1) & (y < bottom + 1)
    return (down[:, :, None] & across[:, None, :])[:, None]


def _hide(
    images: Tensor, content: Tensor, boxes: Tensor, visible: Tensor, draw: _Draws, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Rectangles of the background of the frame before over each that is `hidden` (N,): images and visible."""
    height, width = images.shape[1:3]
    others, their_boxes = images.roll(1, 0), boxes.roll(1, 0)
    columns, rows = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    first, last = content[:, :2].ceil(), content[:, 2:].floor()
    size, their_first, their_size = last - first, first.roll(1, 0), (last - first).roll(1, 0)
    areas = _areas(boxes).clamp(min=1e-6)
    number = torch.arange(draw.count, device=images.device)[:, None, None]
    patches = draw.whole(1, _PATCHES + 1)
    changed = images
    for patch in range(_PATCHES):
        w_h = torch.minimum((size * draw.uniform(0.04, 0.35, 2)).floor(), their_size)
        u_v = their_first + ((their_size - w_h + 1) * draw.uniform(0, 1, 2)).floor().minimum(their_size - w_h)
        x_y = first + ((size - w_h) * draw.uniform(0, 1, 2)).floor()
        edges, their_edges = torch.cat([x_y, x_y + w_h], 1).unbind(1), torch.cat([u_v, u_v + w_h], 1).unbind(1)
        free = (_shared(their_boxes, *their_edges) == 0).all(1)
        pasted = hidden & (patch < patches) & free
        left, top, right, bottom = (edge[:, None] for edge in edges)
        covered = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
        shift = (u_v - x_y).long()
        from_columns = (columns + shift[:, :1]).clamp(0, width - 1)
        from_rows = (rows + shift[:, 1:]).clamp(0, height - 1)
        moved = others[number, from_rows[:, :, None], from_columns[:, None, :]]
        changed = torch.where((covered & _each(pasted, 3))[..., None], moved, changed)
        left_over = (1 - _shared(boxes, *edges) / areas).clamp(0, 1)
        visible = torch.where(pasted[:, None], visible * left_over, visible)
    return changed, visible


def _texture(pixels: Tensor, draw: _Draws) -> Tensor:
    """Light and dark patches of every size, see `augment._texture`."""
    octaves = torch.arange(_OCTAVES, device=pixels.device)
    powers = octaves + draw.whole(1, 4, _OCTAVES)  # a grid of 2^power cells for each octave
    used = octaves < draw.whole(1, _OCTAVES + 1, 1)
    # Octaves of one grid size are one grid: normal variables add up by their variances.
    variances = used * 0.64**octaves
    total = torch.zeros_like(pixels[:, :1])
    for power in range(1, _FINEST + 1):
        deviation = (variances * (powers == power)).sum(1).sqrt()
        coarse = draw.normal(1, 2**power, 2**power) * _each(deviation, 4)
        total = total + F.interpolate(coarse, pixels.shape[2:], mode="bilinear", align_corners=False)
    return (pixels * torch.exp(_each(draw.uniform(0.03, 0.25), 4) * total)).clamp(0, 255)


def _recolour(pixels: Tensor, draw: _Draws) -> Tensor:
    """Exposure, contrast, cast, saturation, hue, or no colour at all, see `augment._recolour`."""
    gain = draw.uniform(0.5, 1.5, 1, 1, 1) * draw.uniform(0.8, 1.2, 3, 1, 1)
    curved = (pixels / 255).clamp(0, 1) ** draw.uniform(0.6, 1.6, 1, 1, 1)
    pixels = (255 * (curved * gain + draw.uniform(-0.15, 0.15, 1, 1, 1))).clamp(0, 255)
    same = torch.eye(3, device=pixels.device)
    grey = torch.full((3, 3), 1 / 3, device=pixels.device)
    saturation = draw.uniform(0.2, 1.6, 1, 1)
    permuted = same[draw.uniform(0, 1, 3).argsort(1)]  # (N, 3, 3)
    kind = draw.uniform(0, 1, 1, 1)
    mixed = torch.where(kind < 0.65, permuted, same)
    mixed = torch.where(kind < 0.5, saturation * same + (1 - saturation) * grey, mixed)
    mixed = torch.where(kind < 0.15, grey, mixed)
    red, green, blue = (mixed[:, :, channel, None, None] * pixels[:, channel : channel + 1] for channel in range(3))
    return (red + green + blue).clamp(0, 255)


def _degrade(pixels: Tensor, draw: _Draws) -> Tensor:
    """A blur, a lower resolution or sharpening, and sensor noise, see `augment._degrade`."""
    kind, part = draw.uniform(0, 1), draw.uniform(0.4, 0.9)
    blurred, small, sharpened = kind < 0.3, (kind >= 0.3) & (kind < 0.5), (kind >= 0.5) & (kind < 0.65)
    none = torch.zeros_like(kind)
    # What a pixel of 1 / part averages over is as wide as a Gaussian of 0.29 times that.
    sigma = torch.where(blurred, draw.uniform(0.4, 1.6), torch.where(small, 0.29 / part, none))
    sigma = torch.where(sharpened, draw.uniform(0.7, 1.5), sigma)
    more = torch.where(sharpened, draw.uniform(0.3, 1.2), -torch.ones_like(kind))
    soft = _blur(pixels, sigma, _BLUR_PX)
    pixels = torch.where(_each(sharpened | blurred | small, 4), pixels + _each(more, 4) * (pixels - soft), pixels)
    zero = torch.zeros_like(kind)
    low = _resample(pixels, part, zero, zero, "border")
    pixels = torch.where(_each(small, 4), _resample(low, 1 / part, zero, zero, "border"), pixels)
    height, width = pixels.shape[2:]
    grain = draw.normal(3, height, width)
    grain = torch.where(_each(draw.below(0.5), 4), grain[:, :1], grain)
    strength = torch.where(draw.below(0.4), draw.uniform(2, 12), none)
    return (pixels.clamp(0, 255) + _each(strength, 4) * grain).clamp(0, 255)


def _zoom(
    pixels: Tensor, content: Tensor, boxes: Tensor, visible: Tensor, draw: _Draws, config: AugmentConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Another scale and place for some: pixels, boxes and visible; who leaves the image is seen by so much less."""
    height, width = pixels.shape[2:]
    # Filled there: a tensor from the host would make the host wait.
    whole = torch.cat([torch.full((1,), float(side), device=pixels.device) for side in (width, height)])
    low, high = (math.log(factor) for factor in config.zoom)
    scale = torch.exp(draw.uniform(low, high, 1))
    rooms = whole - scale * (content[:, 2:] - content[:, :2])
    corner = rooms.clamp(max=0) + (rooms.clamp(min=0) - rooms.clamp(max=0)) * draw.uniform(0, 1, 2)
    offset = corner - scale * content[:, :2]
    zoomed = draw.below(config.zoomed)
    scale, offset = scale.masked_fill(~zoomed[:, None], 1.0), offset.masked_fill(~zoomed[:, None], 0.0)
    factor = scale[:, 0]
    # Bilinear sampling alone would alias.
    sharp = _blur(pixels, torch.where(factor < 0.7, 0.4 / factor, torch.zeros_like(factor)), _ALIAS_PX)
    pixels = _resample(sharp, factor, offset[:, 0], offset[:, 1], "zeros")
    moved = boxes * scale[:, :, None] + offset.repeat(1, 2)[:, None]
    clipped = torch.minimum(moved.clamp(min=0), whole.repeat(2))
    return pixels, clipped, visible * _areas(clipped) / _areas(moved).clamp(min=1e-6)


def _resample(pixels: Tensor, scale: Tensor, x: Tensor, y: Tensor, outside: str) -> Tensor:
    """Each of (N, C, H, W) at its scale (N,), its corner at (x, y) px, (N,) both; outside: of `grid_sample`."""
    height, width = pixels.shape[2:]
    columns = torch.arange(width, dtype=torch.float32, device=pixels.device) + 0.5
    rows = torch.arange(height, dtype=torch.float32, device=pixels.device) + 0.5
    across = ((columns - x[:, None]) / scale[:, None]) * (2 / width) - 1
    down = ((rows - y[:, None]) / scale[:, None]) * (2 / height) - 1
    grid = torch.stack([across[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], dim=3)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def _blur(pixels: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Each of (N, C, H, W) through a Gaussian of its own standard deviation (N,) px; 0 leaves it."""
    steps = torch.arange(reach + 1, dtype=torch.float32, device=pixels.device)
    weights = torch.exp(-0.5 * (steps / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
    for axis in (2, 3):
        size = pixels.shape[axis]
        padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        padded = F.pad(pixels, padding, mode="reflect")
        total = _each(weights[:, 0], 4) * pixels
        for step in range(1, reach + 1):
            both = padded.narrow(axis, reach - step, size) + padded.narrow(axis, reach + step, size)
            total = total + _each(weights[:, step], 4) * both
        pixels = total
    return pixels
