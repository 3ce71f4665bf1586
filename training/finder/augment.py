"""A stored frame as a training example: shifted, zoomed, mirrored, and put through the looks of many cameras."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synth.frames import Frame


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How far examples leave the stored frames.

    Attributes:
        zoomed: probability of another scale and place than the plain letterbox.
        zoom: of that scale, over the letterbox's.
        flip: probability of the mirror image.
        recoloured, textured, hidden, degraded: probabilities of each.
        least_visible: who is seen less is ignored.
        least_px: whose box is lower is ignored.
    """

    zoomed: float = 0.6
    zoom: tuple[float, float] = (0.65, 1.8)
    flip: float = 0.5
    recoloured: float = 0.8
    textured: float = 0.5
    hidden: float = 0.3
    degraded: float = 0.5
    least_visible: float = 0.2
    least_px: float = 12.0


def letterbox(image_width: int, image_height: int, width: int, height: int) -> tuple[float, float, float]:
    """Scale and offsets (x, y) that lay an image, centred, into width x height: out = scale * in + offset, of edges."""
    scale = min(width / image_width, height / image_height)
    return scale, (width - scale * image_width) / 2, (height - scale * image_height) / 2


def warp(frame: Frame, scale: float, x: float, y: float, width: int, height: int) -> Frame:
    """The frame at `scale`, its corner at (x, y), in a black image; who leaves it is seen by so much less."""
    affine = np.array([[scale, 0.0, x + (scale - 1) / 2], [0.0, scale, y + (scale - 1) / 2]])
    image = frame.image
    if scale < 0.7:  # bilinear sampling alone would alias
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / scale), np.uint8)
    image = np.asarray(cv2.warpAffine(image, affine, (width, height), flags=cv2.INTER_LINEAR), np.uint8)
    moved = frame.boxes * np.float32(scale) + np.array([x, y, x, y], np.float32)
    clipped = moved.clip(0, np.array([width, height, width, height], np.float32))
    left = (_areas(clipped) / np.maximum(_areas(moved), 1e-6)).astype(np.float32)
    return Frame(image, clipped, frame.visible * left)


def augment(
    frame: Frame, other: Callable[[], Frame], width: int, height: int, rng: np.random.Generator, config: AugmentConfig
) -> tuple[Frame, NDArray[np.bool_]]:
    """An example of width x height px, and who is to be ignored in it.

    other: draws the frame that lends what hides a part of this one.
    """
    if rng.random() < config.hidden:
        frame = _hide(frame, other(), rng)
    image, boxes, visible = frame
    image_height, image_width = image.shape[:2]
    if rng.random() < config.flip:
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = np.stack([image_width - boxes[:, 2], boxes[:, 1], image_width - boxes[:, 0], boxes[:, 3]], axis=1)
    for change, probability in (
        (_texture, config.textured),
        (_recolour, config.recoloured),
        (_degrade, config.degraded),
    ):
        if rng.random() < probability:
            image = change(image, rng)
    scale, x, y = letterbox(image_width, image_height, width, height)
    if rng.random() < config.zoomed:
        scale *= math.exp(rng.uniform(*np.log(config.zoom)))
        rooms = width - scale * image_width, height - scale * image_height
        x, y = (rng.uniform(min(0.0, room), max(0.0, room)) for room in rooms)
    image, boxes, visible = warp(Frame(image, boxes, visible), scale, x, y, width, height)
    kept = (boxes[:, 2] - boxes[:, 0] > 1) & (boxes[:, 3] - boxes[:, 1] > 1)
    boxes, visible = boxes[kept], visible[kept]
    ignored = (visible < config.least_visible) | (boxes[:, 3] - boxes[:, 1] < config.least_px)
    return Frame(image, boxes, visible), ignored


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _hide(frame: Frame, other: Frame, rng: np.random.Generator) -> Frame:
    """Rectangles of another frame's background over this one."""
    image, boxes, visible = frame.image.copy(), frame.boxes, frame.visible.copy()
    height, width = image.shape[:2]
    for _ in range(rng.integers(1, 4)):
        w, h = (int(side * rng.uniform(0.04, 0.35)) for side in (width, height))
        w, h = min(w, other.image.shape[1]), min(h, other.image.shape[0])
        u, v = rng.integers(other.image.shape[1] - w + 1), rng.integers(other.image.shape[0] - h + 1)
        if _overlap(other.boxes, u, v, u + w, v + h).any():
            continue
        x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
        image[y : y + h, x : x + w] = other.image[v : v + h, u : u + w]
        visible *= 1 - _overlap(boxes, x, y, x + w, y + h) / np.maximum(_areas(boxes), 1e-6)
    return Frame(image, boxes, visible)


def _overlap(boxes: NDArray[np.float32], left: float, top: float, right: float, bottom: float) -> NDArray[np.float32]:
    """Areas (N,) that boxes (N, 4) share with one."""
    across = np.minimum(boxes[:, 2], right) - np.maximum(boxes[:, 0], left)
    down = np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top)
    return np.asarray(across.clip(0) * down.clip(0), np.float32)


def _texture(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light and dark patches of every size, as surfaces and shadows have them: plain paint is what networks overfit."""
    height, width = image.shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in range(int(rng.integers(1, 5))):
        cells = 2 ** (octave + int(rng.integers(1, 4)))
        coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        total += np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)) * 0.8**octave
    strength = rng.uniform(0.03, 0.25)
    return _bytes(image * np.exp(strength * total)[..., None])


def _recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, contrast, cast, saturation, hue, or no colour at all: one table a channel, one matrix."""
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    gain = rng.uniform(0.5, 1.5) * rng.uniform(0.8, 1.2, 3)
    table = (levels ** rng.uniform(0.6, 1.6) * gain + rng.uniform(-0.15, 0.15)) * 255
    image = np.stack([cv2.LUT(image[..., c], _bytes(table[:, c])) for c in range(3)], axis=2)
    grey = np.full((3, 3), 1 / 3)
    kind = rng.random()
    if kind < 0.15:
        mixed = grey
    elif kind < 0.5:
        saturation = rng.uniform(0.2, 1.6)
        mixed = saturation * np.eye(3) + (1 - saturation) * grey
    elif kind < 0.65:
        mixed = np.eye(3)[rng.permutation(3)]
    else:
        return image
    return np.asarray(cv2.transform(image, mixed), np.uint8)


def _degrade(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What cheap cameras and slow networks do: a blur, sensor noise, blocks."""
    height, width = image.shape[:2]
    kind = rng.random()
    if kind < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    elif kind < 0.5:
        part = rng.uniform(0.4, 0.9)
        small = cv2.resize(image, (int(width * part), int(height * part)), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    elif kind < 0.65:  # sharpened, as most cameras do
        soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 1.5))
        image = np.asarray(cv2.addWeighted(image, 1.0 + (more := rng.uniform(0.3, 1.2)), soft, -more, 0.0), np.uint8)
    if rng.random() < 0.4:
        grain = rng.normal(0, rng.uniform(2, 12), (height, width, 1 if rng.random() < 0.5 else 3))
        image = _bytes(image + grain)
    if rng.random() < 0.4:
        quality = int(rng.integers(25, 85))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def _bytes(values: NDArray) -> NDArray[np.uint8]:
    return values.clip(0, 255).astype(np.uint8)
