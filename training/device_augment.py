"""Whole batches of crops changed anew on the device that trains: what `datasets.prepare` does to one, and then some.

Turn, scale and colours are those of `datasets.augment`; a crop that is drawn again and again from a pool also gets what
the renderer would otherwise have to draw anew: things before it, and another camera's tones, blur and noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metro_ros.core.config import check_settings, setting
from metro_ros.core.errors import ConfigError
from training.datasets.augment import AugmentConfig
from training.datasets.mixture import Batch
from training.masking import sample_token_mask
from training.mesh_spec import MeshSpec


@dataclass(frozen=True, slots=True)
class CameraChanges:
    """What changes a drawn crop beside AugmentConfig. Raises ConfigError when a value is outside of its range."""

    hidden: float = setting(0.35, "share of crops with something more in front", 0, 1)
    hidden_side: tuple[float, float] = setting((0.15, 0.6), "its half sides, of the crop's")
    toned: float = setting(0.6, "share with another gamma, contrast, brightness and saturation", 0, 1)
    grey: float = setting(0.06, "share without colour", 0, 1)
    soft: float = setting(0.25, "share that is blurred, half of them by fewer pixels", 0, 1)
    noisy: float = setting(0.35, "share with noise", 0, 1)
    noise: float = setting(12.0, "most of its standard deviation, of 255", 0, 255)

    def __post_init__(self) -> None:
        check_settings(self)


def augment(
    rows: Mapping[str, Tensor],
    mesh: MeshSpec,
    config: AugmentConfig,
    camera: CameraChanges,
    mask_ratio: float,
    generator: torch.Generator,
    position: int = 0,
) -> Batch:
    """Rows as `pack` made them -> a batch to train on, on their device.

    Args:
        mesh: whose tokens are masked.
        mask_ratio: see training.masking.
        generator: of the rows' device.
        position: of the batch's first sample.

    Raises:
        ConfigError: a mirror is asked for, or a row has a pose: those change one by one, in `datasets.prepare`.
    """
    if config.flip:
        raise ConfigError("AugmentConfig.flip on the device", expected="0", got=config.flip)
    image = rows["image"].permute(0, 3, 1, 2).float()
    count, device = len(image), image.device

    draw = _Draw(count, generator)
    angle, scale = _draw_turn(config, draw)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # u in the new crop shows what lay at scale * R^T u in the old one; points go the other way. See datasets.crops.
    turn = torch.stack([cosine, sine, -sine, cosine], dim=1).view(-1, 2, 2)
    affine = torch.cat([scale[:, None, None] * turn.transpose(1, 2), torch.zeros_like(turn[:, :, :1])], dim=2)
    # Mirrored beyond the old crop: a camera never shows black corners that are turned.
    image = _sample(image, affine, "reflection")
    turn_3d = torch.stack([cosine, sine, zero, -sine, cosine, zero, zero, zero, zero + 1], dim=1).view(-1, 3, 3)
    keypoints = rows["keypoints"] @ turn.transpose(1, 2) / scale[:, None, None]
    confidence = rows["keypoint_confidence"]
    if config.hide_outside:
        confidence = confidence * (keypoints.abs() < 1.0).all(dim=2)
    mask, surface = rows.get("mask"), rows.get("surface")
    if mask is not None and surface is not None:
        cells = _sample(torch.cat([mask[:, None].float() / 255.0, surface.float()], dim=1), affine, "zeros")
        mask, surface = cells[:, 0], cells[:, 1:]

    image, covered = _hide(_recolour(image, config, draw), camera, draw)
    if mask is not None:
        mask = mask * (1.0 - F.interpolate(covered, mask.shape[1:], mode="area")[:, 0])
    image = _photograph(image, camera, draw)
    vertices = rows.get("vertices")
    tokens = sample_token_mask(
        count, mesh.joint_count, mesh.level_sizes[0], mask_ratio, device=device, generator=generator
    )
    return Batch(
        image=image.permute(0, 2, 3, 1),
        keypoints=keypoints,
        keypoint_confidence=confidence,
        joints=rows["joints"] @ turn_3d.transpose(1, 2),
        joint_confidence=rows["joint_confidence"],
        has_joints=rows["has_joints"],
        vertices=None if vertices is None else vertices @ turn_3d.transpose(1, 2),
        has_vertices=rows["has_vertices"],
        pose=None,
        betas=None,
        has_pose=torch.zeros_like(rows["has_joints"]),
        mask=mask,
        surface=surface,
        has_dense=rows["has_dense"],
        person=rows["person"],
        token_mask=tokens,
        first=position,
    )


def pack(batch: Batch) -> dict[str, Tensor]:
    """A batch as rows of a pool: a body takes 140 kB. Raises ConfigError where it has poses."""
    if batch.pose is not None:
        raise ConfigError("a pool of samples with poses", expected="vertices in their place", got="pose and betas")
    rows = {name: getattr(batch, name) for name in _KEPT}
    rows["image"] = batch.image.round().to(torch.uint8)
    if batch.vertices is not None:
        rows["vertices"] = batch.vertices
    if batch.mask is not None and batch.surface is not None:
        rows["mask"] = (batch.mask * 255.0).round().to(torch.uint8)
        rows["surface"] = batch.surface.half()
    return rows


_KEPT = (
    "keypoints", "keypoint_confidence", "joints", "joint_confidence", "has_joints", "has_vertices", "has_dense",
    "person",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Draw:
    """Random numbers for each of `count` crops, on the generator's device."""

    count: int
    generator: torch.Generator

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(N, *shape) float32."""
        drawn = torch.rand(self.count, *shape, generator=self.generator, device=self.generator.device)
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) float32."""
        return torch.randn(self.count, *shape, generator=self.generator, device=self.generator.device)

    def some(self, share: float) -> Tensor:
        """(N, 1, 1, 1) bool."""
        return self.uniform(1, 1, 1) < share


def _draw_turn(config: AugmentConfig, draw: _Draw) -> tuple[Tensor, Tensor]:
    """(N,) radians counter-clockwise, and (N,) the box's growth; see AugmentConfig.draw."""
    spread = config.scale * draw.normal()
    scale = (1.0 + spread if config.scale_law == "normal" else spread.exp()).clamp(*config.scale_limits)
    limit = config.rotation_limit_deg
    degrees = (config.rotation_deg * draw.normal()).clamp(-limit, limit)
    return torch.where(draw.uniform() < config.upright, 0.0, degrees) * (math.pi / 180.0), scale


def _sample(maps: Tensor, affine: Tensor, beyond: str) -> Tensor:
    grid = F.affine_grid(affine, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode=beyond, align_corners=False)


def _recolour(image: Tensor, config: AugmentConfig, draw: _Draw) -> Tensor:
    order = draw.uniform(3).argsort(dim=1)
    plain = torch.arange(3, device=image.device).expand_as(order)
    order = torch.where(draw.uniform(1) < config.swap_channels, order, plain)
    image = image.gather(1, order[:, :, None, None].expand_as(image))
    gain = draw.uniform(1, low=config.gain[0], high=config.gain[1])
    gain = gain * draw.uniform(3, low=config.channel_gain[0], high=config.channel_gain[1])
    return (image * gain[:, :, None, None]).clamp(0.0, 255.0)


def _hide(image: Tensor, camera: CameraChanges, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Something before a part of each crop, and (N, 1, S, S) where it is: 0 or 1.

    A rectangle or an ellipse, or all that lies beyond a line; of what the next crop shows there, or of one colour.
    """
    side = image.shape[2]
    at = (2.0 * torch.arange(side, device=image.device) + 1.0) / side - 1.0
    low, high = camera.hidden_side
    x, y = (draw.uniform(1, 1, low=-0.9, high=0.9) for _ in range(2))
    half_width, half_height = (draw.uniform(1, 1, low=low, high=high) for _ in range(2))
    across, down = ((at[None, None] - x) / half_width).abs(), ((at[None, :, None] - y) / half_height).abs()
    kind = draw.uniform(1, 1)
    inside = torch.where(kind < 0.5, torch.maximum(across, down), across.square() + down.square()) < 1.0
    way = draw.uniform(1, 1, high=2.0 * math.pi)
    beyond = at[None, None] * way.cos() + at[None, :, None] * way.sin() > draw.uniform(1, 1, low=0.35, high=0.9)
    inside = torch.where(kind < 0.85, inside, beyond) & (draw.uniform(1, 1) < camera.hidden)
    covered = inside[:, None].float()
    colour = 255.0 * draw.uniform(3, 1, 1) * torch.ones_like(image)
    front = torch.where(draw.some(0.35), colour, image.roll(1, dims=0))
    return torch.lerp(image, front, covered), covered


def _photograph(image: Tensor, camera: CameraChanges, draw: _Draw) -> Tensor:
    """Another camera's tones, blur and noise; what is black, as all beyond the image is, stays black."""
    is_black = image.amax(dim=1, keepdim=True) == 0
    tones = (image / 255.0).clamp(min=1e-4) ** draw.uniform(1, 1, 1, low=0.6, high=1.6)
    contrast, light = draw.uniform(1, 1, 1, low=0.6, high=1.25), draw.uniform(1, 1, 1, low=-0.12, high=0.12)
    tones = 0.5 + contrast * (tones - 0.5) + light
    grey = tones.mean(dim=1, keepdim=True)
    tones = grey + draw.uniform(1, 1, 1, low=0.3, high=1.4) * (tones - grey)
    image = torch.where(draw.some(camera.toned), 255.0 * tones, image)
    image = torch.where(draw.some(camera.grey), image.mean(dim=1, keepdim=True), image)
    coarse = F.interpolate(F.interpolate(image, scale_factor=0.5, mode="area"), image.shape[2:], mode="bilinear")
    kernel = 0.5 - 0.25 * (torch.arange(3, device=image.device) - 1.0).abs()
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    blurred = F.conv2d(padded, torch.outer(kernel, kernel).expand(3, 1, 3, 3), groups=3)
    image = torch.where(draw.some(camera.soft), torch.where(draw.some(0.5), coarse, blurred), image)
    sigma = torch.where(draw.some(camera.noisy), draw.uniform(1, 1, 1, high=camera.noise), 0.0)
    image = image + sigma * draw.normal(*image.shape[1:])
    return image.clamp(0.0, 255.0).masked_fill(is_black, 0.0)
