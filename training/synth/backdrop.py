"""What stands behind and before people: plain rooms, and things that hide a part of them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> NDArray[np.float32]:
    """Smooth noise (height, width, 3) about zero."""
    coarse = rng.normal(0, 1, (max(2, cells * height // width), cells, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _tinted(rng: np.random.Generator, spread: float = 0.3) -> NDArray[np.float64]:
    return np.clip(rng.uniform(0.1, 0.95) + rng.uniform(-spread, spread, 3) * rng.random(), 0.0, 1.0)


def _floor(rng: np.random.Generator, width: int, rows: int) -> NDArray[np.float32]:
    """Boards or tiles in perspective, (rows, width, 3)."""
    floor = np.broadcast_to(_tinted(rng), (rows, width, 3)).astype(np.float32).copy()
    depth = 1.0 / (np.arange(rows, dtype=np.float32)[:, None] + 6.0)
    across = (np.arange(width, dtype=np.float32)[None] - width / 2) * depth * rng.uniform(1.0, 6.0)
    along = depth * rng.uniform(60, 400)
    kind = rng.random()
    if kind < 0.35:
        floor[(np.floor(across) + np.floor(along)) % 2 > 0] *= rng.uniform(0.6, 0.95)
    elif kind < 0.7:
        floor *= (1.0 - 0.25 * rng.random() * (np.mod(across, 1.0) < 0.08))[..., None].astype(np.float32)
    return floor


def make_room(rng: np.random.Generator, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
    """A wall, a floor and a few things on them: uint8 (height, width, 3) BGR."""
    wall = np.broadcast_to(_tinted(rng), (height, width, 3)).astype(np.float32).copy()
    wall += rng.normal(0, 0.08) * np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    horizon = int(height * rng.uniform(0.35, 0.95))
    wall[horizon:] = _floor(rng, width, height - horizon)
    for _ in range(rng.integers(0, 9)):  # doors, pictures, cupboards, lamps
        w, h = int(width * rng.uniform(0.03, 0.3)), int(height * rng.uniform(0.05, 0.6))
        x, y = int(rng.uniform(-0.1, 1.0) * width), int(rng.uniform(-0.1, 0.9) * height)
        colour = tuple(float(c) for c in _tinted(rng, 0.5))
        if rng.random() < 0.75:
            cv2.rectangle(wall, (x, y), (x + w, y + h), colour, -1)
            if rng.random() < 0.5:
                cv2.rectangle(wall, (x, y), (x + w, y + h), tuple(c * 0.6 for c in colour), int(rng.integers(1, 6)))
        else:
            cv2.ellipse(wall, (x, y), (w // 2, h // 3), float(rng.uniform(0, 180)), 0, 360, colour, -1)
    wall += rng.uniform(0, 0.04) * _noise(rng, width, height, int(rng.integers(3, 40)))
    if rng.random() < 0.15:
        wall += rng.uniform(0, 0.06) * _noise(rng, width, height, int(rng.integers(40, 160)))
    if rng.random() < 0.5:
        wall = np.asarray(cv2.GaussianBlur(wall, (0, 0), rng.uniform(0.5, 4.0)), np.float32)
    return (np.clip(wall, 0.0, 1.0) * 255).astype(np.uint8)


def occluder_mask(
    rng: np.random.Generator, width: int, height: int, box: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """A random solid shape that overlaps the square box (cx, cy, size): uint8 (height, width), 255 inside."""
    cx, cy, size = box
    mask = np.zeros((height, width), np.uint8)
    centre = (round(cx + size * rng.uniform(-0.5, 0.5)), round(cy + size * rng.uniform(-0.5, 0.6)))
    axes = (max(2, round(size * rng.uniform(0.06, 0.28))), max(2, round(size * rng.uniform(0.06, 0.28))))
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.4:
        cv2.ellipse(mask, centre, axes, angle, 0, 360, 255, -1)
    else:
        corners = cv2.boxPoints((centre, (axes[0] * 2, axes[1] * 2), angle if rng.random() < 0.3 else 0.0))
        cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 255)
    return mask
