"""Solid things on the floor between the camera and people: cupboards, tables, benches and pillars, made of cuboids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synth.light import Light, shade
from training.synth.placing import Placed
from training.synth.render import NEAR_M, rasterise

_TRIES = 100
_MARGIN_M = 0.05
_WIDE, _PILLAR = (0.3, 0.8), (0.1, 0.25)
"""Widths, of the body's height as it looks from the camera."""
_HIDDEN = (0.2, 0.8)
"""The part of one person in one frame that lies behind a thing, by the box around it."""
_CEILING_M = 2.5
_FLOOR_SHADE, _FLOOR_BLUR_PX = 0.35, 6.0
_AXES = np.array([[axis, sign] for axis in range(3) for sign in (-1, 1)])
Cuboid = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class Thing:
    """A mesh, camera frame. vertices, normals, colours (V, 3), metres, unit, [0, 1]; faces (F, 3)."""

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    colours: NDArray[np.float32]
    faces: NDArray[np.int32]


def furnish(rng: np.random.Generator, placed: Placed, count: int) -> list[Thing] | None:
    """Put `count` things before people, far ones first; each hides a part of somebody. None: there is no room.

    All are nearer to the camera than anybody ever is, so that painting them last is exact.
    """
    outlines = [track.outline @ placed.turn for track in placed.tracks]  # the floor's axes, about the camera
    nearest = min(float(np.linalg.norm(points[..., [0, 2]], axis=-1).min()) for points in outlines)
    taken: list[tuple[NDArray[np.float64], float, Thing]] = []
    for _ in range(_TRIES):
        if len(taken) == count:
            break
        points = outlines[rng.integers(len(outlines))]
        body = points[rng.integers(len(points))]
        made = _before(rng, body, nearest - _MARGIN_M, float(placed.shift @ placed.turn[:, 1]), placed)
        if made is not None and all(np.linalg.norm(made[0] - at) > made[1] + radius for at, radius, _ in taken):
            taken.append(made)
    if len(taken) < count:
        return None
    taken.sort(key=lambda item: -float(np.linalg.norm(item[0])))
    return [thing for _, _, thing in taken]


def _before(
    rng: np.random.Generator, body: NDArray[np.floating], limit: float, floor: float, placed: Placed
) -> tuple[NDArray[np.float64], float, Thing] | None:
    """A thing before the body (M, 3): where it stands (x, z), the radius that it takes, and its mesh.

    body: in the floor's axes about the camera; limit: metres from the camera, that nothing may reach; floor: its y.
    """
    low, high = body.min(axis=0), body.max(axis=0)
    middle = ((low + high) / 2)[[0, 2]]
    distance = float(np.linalg.norm(middle))
    share = rng.uniform(0.5, 0.95) * limit / distance  # everything looks larger by as much as it is nearer
    kind = str(rng.choice(list(_KINDS)))
    top = low[1] + (high[1] - low[1]) * rng.uniform(0.35, 0.7)
    height = floor - top * share
    if kind == "pillar":
        height = max(_CEILING_M, height)
    wide = rng.uniform(*(_PILLAR if kind == "pillar" else _WIDE)) * (high[1] - low[1]) * share
    deep = min(rng.uniform(0.4, 1.0) * wide, 0.8 * limit * share)
    radius = float(np.hypot(wide, deep)) / 2
    at = middle * share + rng.normal(0, 0.2, 2) * (high[1] - low[1]) * share
    away = float(np.linalg.norm(at))
    if height < 0.15 or away + radius > limit or away - radius < 8 * NEAR_M:
        return None
    forward = at / away
    turn = rng.uniform(-0.5, 0.5)
    along = np.array([np.cos(turn) * forward[1] + np.sin(turn) * forward[0],
                      np.cos(turn) * -forward[0] + np.sin(turn) * forward[1]])  # fmt: skip
    axes = np.array([[along[0], 0, along[1]], [0, 1, 0], [-along[1], 0, along[0]]])  # rows: across, down, forward
    vertices, normals, faces = _mesh(_KINDS[kind](wide, height, deep))
    vertices = (vertices @ axes + (at[0], floor, at[1])) @ placed.turn.T
    if vertices[:, 2].min() < 2 * NEAR_M:
        return None
    camera = placed.view.camera
    pixels, corners = camera.project(body @ placed.turn.T), camera.project(vertices)
    hidden = ((pixels > corners.min(axis=0)) & (pixels < corners.max(axis=0))).all(axis=1).mean()
    if not _HIDDEN[0] <= hidden <= _HIDDEN[1]:
        return None
    colour = np.clip(rng.uniform(0.1, 0.9) + rng.uniform(-0.2, 0.2, 3), 0.02, 0.98)
    colours = np.broadcast_to(colour, vertices.shape)
    normals = normals @ axes @ placed.turn.T
    thing = Thing(
        vertices.astype(np.float32), normals.astype(np.float32), colours.astype(np.float32), faces.astype(np.int32)
    )
    return at, radius, thing


def paint_thing(
    scene: NDArray[np.float32], thing: Thing, matrix: NDArray[np.float64], light: Light
) -> NDArray[np.bool_]:
    """Paint a thing into a scene (H, W, 3), in place; (H, W) bool, where it is."""
    colours = shade(light, thing.colours, thing.normals)
    picture, covered = rasterise(thing.vertices, thing.faces, colours, matrix, scene.shape[1], scene.shape[0])
    scene[covered] = picture[covered]
    return covered


def shade_floor(scene: NDArray[np.float32], thing: Thing, placed: Placed, light: Light) -> None:
    """Darken the floor where the thing stands between it and the lamp, in place."""
    down = placed.down
    away = -light.lamp + 1.5 * down
    heights = placed.shift @ down - thing.vertices @ down
    fallen = thing.vertices + (heights / (away @ down))[:, None] * away
    if fallen[:, 2].min() < 2 * NEAR_M:
        return
    dark = np.zeros(scene.shape[:2], np.float32)
    outline = cv2.convexHull(placed.view.camera.project(fallen).round().astype(np.int32))
    cv2.fillConvexPoly(dark, outline, 1.0)
    scene *= 1.0 - _FLOOR_SHADE * cv2.GaussianBlur(dark, (0, 0), _FLOOR_BLUR_PX)[..., None]


def _mesh(cuboids: list[Cuboid]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (24 n, 3), outward unit normals and faces (12 n, 3) of cuboids given by two opposite corners."""
    vertices: list[NDArray[np.float64]] = []
    normals: list[NDArray[np.float64]] = []
    faces: list[list[int]] = []
    for low, high in cuboids:
        corners = np.array([low, high])
        for axis, sign in _AXES:
            u, v = (axis + 1) % 3, (axis + 2) % 3
            side = np.empty((4, 3))
            side[:, axis] = corners[(sign + 1) // 2, axis]
            side[:, u], side[:, v] = corners[[0, 1, 1, 0], u], corners[[0, 0, 1, 1], v]
            base = 4 * len(vertices)
            vertices.append(side)
            normals.append(np.tile(np.eye(3)[axis] * sign, (4, 1)))
            order = ((0, 1, 2), (0, 2, 3)) if sign > 0 else ((0, 2, 1), (0, 3, 2))
            faces += [[base + corner for corner in face] for face in order]
    return np.concatenate(vertices), np.concatenate(normals), np.array(faces)


def _cupboard(wide: float, height: float, deep: float) -> list[Cuboid]:
    return [((-wide / 2, -height, -deep / 2), (wide / 2, 0.0, deep / 2))]


def _table(wide: float, height: float, deep: float) -> list[Cuboid]:
    leg, board = 0.06 * wide, -0.92 * height
    legs = [
        ((x - leg / 2, board, z - leg / 2), (x + leg / 2, 0.0, z + leg / 2))
        for x in (-wide / 2 + leg, wide / 2 - leg)
        for z in (-deep / 2 + leg, deep / 2 - leg)
    ]
    return [*legs, ((-wide / 2, -height, -deep / 2), (wide / 2, board, deep / 2))]


def _bench(wide: float, height: float, deep: float) -> list[Cuboid]:
    seat = ((-wide / 2, -0.5 * height, -deep / 2), (wide / 2, 0.0, deep / 2))
    return [seat, ((-wide / 2, -height, -deep / 2), (wide / 2, -0.5 * height, -0.25 * deep))]


_KINDS: dict[str, Callable[[float, float, float], list[Cuboid]]] = {
    "cupboard": _cupboard,
    "table": _table,
    "bench": _bench,
    "pillar": _cupboard,
}
"""Width, height and depth in metres → cuboids about a place on the floor, y down."""
