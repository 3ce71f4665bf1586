"""What stands behind and before people: rooms, streets, clutter, and things that hide a part of them."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
"""(H, W, 3) in [0, 1], RGB."""


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Picture:
    """Smooth noise (height, width, 3) about zero."""
    coarse = rng.normal(0, 1, (max(2, cells * height // width), cells, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _pink(rng: np.random.Generator, width: int, height: int) -> Picture:
    """Noise about zero with as much contrast at every scale, as natural pictures have it, one tint."""
    total = np.zeros((height, width, 3), np.float32)
    cells = 3
    while cells < width // 2:
        total += _noise(rng, width, height, cells)
        cells *= 3
    grey = total.mean(axis=2, keepdims=True)
    return np.asarray(0.22 * (grey + rng.uniform(0, 0.3) * (total - grey)), np.float32)


def _tinted(rng: np.random.Generator, spread: float = 0.3) -> NDArray[np.float64]:
    return np.clip(rng.uniform(0.05, 0.98) + rng.uniform(-spread, spread, 3) * rng.random(), 0.0, 1.0)


def _stripes(rng: np.random.Generator, width: int, height: int) -> Picture:
    """Boards, blinds, tiles, bricks or cloth: 0 to 1, one period repeated."""
    period = rng.uniform(5, 60)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.choice([0.0, math.pi / 2, rng.uniform(0, math.pi)])
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    kind = rng.random()
    if kind < 0.4:
        value = np.sin(along * (2 * math.pi / period)) > rng.uniform(-0.9, 0.9)
    elif kind < 0.75:
        half = (np.floor(across / (0.5 * period)) % 2) * 0.5 * period * rng.integers(2)
        joint = rng.uniform(0.04, 0.15)
        value = (np.mod(along + half, period) > joint * period) & (np.mod(across, 0.5 * period) > joint * period)
    else:
        return np.asarray(0.5 + 0.5 * np.sin(along * (2 * math.pi / period)), np.float32)[..., None]
    return value.astype(np.float32)[..., None]


def texture(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A surface: plain, worn, striped, tiled or blotched."""
    base = _tinted(rng, 0.25).astype(np.float32)
    surface = np.broadcast_to(base, (height, width, 3)).copy()
    kind = rng.random()
    if kind < 0.35:
        surface += np.float32(rng.normal(0, 0.12)) * np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    elif kind < 0.6:
        other = np.clip(base + rng.normal(0, 0.25) + rng.normal(0, 0.08, 3), 0, 1).astype(np.float32)
        surface += (other - base) * _stripes(rng, width, height)
    else:
        surface += np.float32(rng.uniform(0.2, 1.0)) * _pink(rng, width, height)
    if rng.random() < 0.5:
        surface += np.float32(rng.uniform(0.0, 0.35)) * _pink(rng, width, height)
    return surface


def _floor(rng: np.random.Generator, width: int, rows: int) -> Picture:
    """A textured ground in perspective, (rows, width, 3)."""
    flat = texture(rng, 256, 256)
    if rows < 2:
        return np.asarray(cv2.resize(flat, (width, max(rows, 1))), np.float32)[:rows]
    narrow = rng.uniform(0.05, 0.4)  # of the far edge
    near = np.array([[-0.6 * width, rows], [1.6 * width, rows], [width, 0], [0, 0]], np.float32)
    far = np.array([[0, 255], [255, 255], [127 + 128 * narrow, 0], [127 - 128 * narrow, 0]], np.float32)
    matrix = cv2.getPerspectiveTransform(far, near)
    return np.asarray(cv2.warpPerspective(flat, matrix, (width, rows), borderMode=cv2.BORDER_REFLECT), np.float32)


def _shape_mask(rng: np.random.Generator, width: int, height: int, size: float) -> tuple[NDArray[np.uint8], int, int]:
    """A solid outline of about `size` px somewhere in the picture: its mask, and where its upper left corner is."""
    w, h = (max(3, round(size * rng.uniform(0.4, 1.6))) for _ in range(2))
    mask = np.zeros((h, w), np.uint8)
    kind = rng.random()
    if kind < 0.5:
        mask[:] = 255
    elif kind < 0.75:
        cv2.ellipse(mask, (w // 2, h // 2), (max(1, w // 2 - 1), max(1, h // 2 - 1)), 0, 0, 360, 255, -1)
    else:
        corners = rng.uniform(0, 1, (int(rng.integers(3, 8)), 1, 2)) * [w, h]
        cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.int32)), 255)
    return mask, int(rng.uniform(-0.3, 1.0) * width), int(rng.uniform(-0.3, 1.0) * height)


def _lay(scene: Picture, surface: Picture, mask: NDArray[np.uint8], x: int, y: int) -> None:
    """Paint `surface` where `mask` is, at (x, y) of the scene, in place; what sticks out is cut off."""
    height, width = scene.shape[:2]
    h, w = mask.shape
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if left >= right or top >= bottom:
        return
    part = (slice(top - y, bottom - y), slice(left - x, right - x))
    where = mask[part] > 0
    scene[top:bottom, left:right][where] = surface[part][where]


def _clutter(rng: np.random.Generator, scene: Picture, count: int) -> None:
    """Things of all sizes, the large ones first: sizes follow a power law, as in pictures of the world."""
    height, width = scene.shape[:2]
    sizes = np.sort(0.04 * width / rng.uniform(0.08, 1.0, count))[::-1]
    for size in sizes:
        mask, x, y = _shape_mask(rng, width, height, size)
        h, w = mask.shape
        if rng.random() < 0.4 and w * h > 400:
            surface = texture(rng, w, h)
        else:
            surface = np.broadcast_to(_tinted(rng, 0.4).astype(np.float32), (h, w, 3))
            surface = surface * np.linspace(1, rng.uniform(0.6, 1.3), h, dtype=np.float32)[:, None, None]
        _lay(scene, surface, mask, x, y)
        if rng.random() < 0.3:
            cv2.rectangle(scene, (x, y), (x + w, y + h), tuple(map(float, _tinted(rng))), int(rng.integers(1, 4)))


def _room(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A wall and a floor, with doors, pictures and cupboards."""
    scene = texture(rng, width, height)
    horizon = int(height * rng.uniform(0.35, 0.95))
    if rng.random() < 0.4:  # another wall, beyond a corner
        corner = int(width * rng.uniform(0.15, 0.85))
        scene[:, corner:] = scene[:, corner:] * np.float32(rng.uniform(0.6, 1.2)) + np.float32(rng.normal(0, 0.03))
    scene[horizon:] = _floor(rng, width, height - horizon)
    if rng.random() < 0.5:
        skirting = max(1, int(rng.uniform(1, 8)))
        scene[max(horizon - skirting, 0) : horizon] = _tinted(rng)
    _clutter(rng, scene, int(rng.integers(0, 14)))
    return scene


def _outdoors(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A sky over houses or trees and a ground."""
    zenith, low = np.array([0.25, 0.5, 0.85]), np.array([0.75, 0.85, 0.95])
    grey, dull = rng.uniform(0.5, 1.0), rng.random()
    top, bottom = ((1 - dull) * colour + dull * grey for colour in (zenith, low))
    ramp = np.linspace(0, 1, height)[:, None, None]
    scene = np.broadcast_to(top + (bottom - top) * ramp, (height, width, 3)).astype(np.float32).copy()
    scene += np.float32(rng.uniform(0, 0.12)) * _noise(rng, width, height, int(rng.integers(3, 12)))
    horizon = int(height * rng.uniform(0.25, 0.75))
    for _ in range(int(rng.integers(2, 12))):
        w, h = int(width * rng.uniform(0.05, 0.5)), int(height * rng.uniform(0.05, 0.9))
        x = int(rng.uniform(-0.2, 1.0) * width)
        if rng.random() < 0.5:  # a house
            mask = np.full((h, w), 255, np.uint8)
            surface = texture(rng, w, h)
        else:  # a tree
            mask = np.zeros((h, w), np.uint8)
            for _ in range(6):
                centre = (int(rng.uniform(0.2, 0.8) * w), int(rng.uniform(0.1, 0.6) * h))
                cv2.circle(mask, centre, max(2, int(0.3 * min(w, h) * rng.uniform(0.5, 1.2))), 255, -1)
            cv2.rectangle(mask, (int(0.45 * w), h // 2), (int(0.55 * w), h), 255, -1)
            green = np.array([0.2, 0.35, 0.12]) * rng.uniform(0.5, 1.8)
            surface = (green + rng.uniform(0.2, 0.6) * _pink(rng, w, h)).astype(np.float32)
        _lay(scene, surface, mask, x, horizon - h + int(0.1 * h))
    scene[horizon:] = _floor(rng, width, height - horizon)
    _clutter(rng, scene, int(rng.integers(0, 8)))
    return scene


def make_room(rng: np.random.Generator, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
    """A room, a street or mere clutter: uint8 (height, width, 3) RGB."""
    kind = rng.random()
    if kind < 0.6:
        scene = _room(rng, width, height)
    elif kind < 0.85:
        scene = _outdoors(rng, width, height)
    else:
        scene = texture(rng, width, height)
        _clutter(rng, scene, int(rng.integers(10, 60)))
    if rng.random() < 0.3:
        scene *= 1.0 + np.float32(rng.uniform(0, 0.3)) * _noise(rng, width, height, 3).mean(
            axis=2, keepdims=True
        )  # light falls unevenly
    if rng.random() < 0.5:  # out of focus
        scene = np.asarray(cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.5, 5.0)), np.float32)
    return (np.clip(scene, 0.0, 1.0) * 255).astype(np.uint8)


def occluder_mask(
    rng: np.random.Generator, width: int, height: int, box: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """A random solid shape that overlaps the square box (cx, cy, size): uint8 (height, width), 255 inside.

    Some stand in the way as a table, a counter or a wall does: the whole side of the box is behind them.
    """
    cx, cy, size = box
    mask = np.zeros((height, width), np.uint8)
    if rng.random() < 0.25:
        edge = size * rng.uniform(0.05, 0.45)
        if rng.random() < 0.7:
            mask[max(0, round(cy + edge)) :] = 255
        elif rng.random() < 0.5:
            mask[:, max(0, round(cx + edge)) :] = 255
        else:
            mask[:, : max(0, round(cx - edge))] = 255
        return mask
    centre = (round(cx + size * rng.uniform(-0.5, 0.5)), round(cy + size * rng.uniform(-0.5, 0.6)))
    axes = (max(2, round(size * rng.uniform(0.06, 0.28))), max(2, round(size * rng.uniform(0.06, 0.28))))
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.4:
        cv2.ellipse(mask, centre, axes, angle, 0, 360, 255, -1)
    else:
        corners = cv2.boxPoints((centre, (axes[0] * 2, axes[1] * 2), angle if rng.random() < 0.3 else 0.0))
        cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 255)
    return mask
