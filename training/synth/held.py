"""Things in a hand: balls, cans, sticks and boxes that just fit between palm and fingers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from training.mesh_spec import HAND_21_NAMES

_FLESH_M = 0.009
"""Half a finger's thickness, adult: nothing comes nearer to a joint."""
_RADII_M = (0.006, 0.045)
_KNUCKLES = [HAND_21_NAMES.index(f"{finger}_1") for finger in ("Index", "Middle", "Ring", "Pinky")]


class Thing(NamedTuple):
    """vertices (V, 3), normals (V, 3), metres; faces (F, 3) int32; patches (V,) int: which vertices share a colour."""

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]
    patches: NDArray[np.int64]


def hold_something(rng: np.random.Generator, joints: NDArray[np.float32], size: float) -> Thing | None:
    """A thing as thick as the pose leaves room for, or None where it leaves none.

    joints: (21, 3) of a right hand, metres; size: the hand's over an adult's.
    """
    knuckles = joints[_KNUCKLES].astype(np.float64)
    wrist = joints[HAND_21_NAMES.index("Wrist")]
    across = knuckles[-1] - knuckles[0]
    out_of_palm = np.cross(knuckles[0] - wrist, knuckles[-1] - wrist)  # on a right hand
    across, out_of_palm = (vector / np.linalg.norm(vector) for vector in (across, out_of_palm))
    along = np.cross(out_of_palm, across)
    middle = 0.8 * knuckles.mean(axis=0) + 0.2 * wrist + size * rng.uniform(0.018, 0.055) * out_of_palm
    axis = across + rng.normal(0.0, 0.25) * along + rng.normal(0.0, 0.15) * out_of_palm
    axis /= np.linalg.norm(axis)
    bones = np.concatenate([joints, 0.5 * (joints[1:] + joints[:-1])[np.arange(20) % 4 != 0]])
    spokes = bones - middle
    round_one = rng.random() < 0.25
    if not round_one:
        spokes = spokes - np.outer(spokes @ axis, axis)
    radius = min(float(np.linalg.norm(spokes, axis=1).min()) - size * _FLESH_M, _RADII_M[1] * size)
    if radius < _RADII_M[0] * size:
        return None
    if round_one:
        return _ball(middle, radius)
    half = size * rng.uniform(0.04, 0.12)
    sides = int(rng.choice([4, 6, 20], p=[0.35, 0.1, 0.55]))
    return _prism(middle + half * rng.uniform(-0.5, 0.5) * axis, axis, radius, half, sides, rng.uniform(0.0, math.pi))


def _ball(middle: NDArray[np.float64], radius: float, rings: int = 10, sectors: int = 16) -> Thing:
    polar, round_ = np.linspace(0.0, math.pi, rings + 1), np.arange(sectors) * (2 * math.pi / sectors)
    ups, outs = np.cos(polar)[:, None], np.sin(polar)[:, None]
    normals = np.stack([outs * np.cos(round_), outs * np.sin(round_), np.broadcast_to(ups, (rings + 1, sectors))], 2)
    normals = normals.reshape(-1, 3)
    vertices = middle + radius * normals
    patches = np.repeat(np.arange(rings + 1) // 4, sectors)
    return Thing(vertices.astype(np.float32), normals.astype(np.float32), _grid(rings + 1, sectors), patches)


def _prism(
    middle: NDArray[np.float64], axis: NDArray[np.float64], radius: float, half: float, sides: int, turn: float
) -> Thing:
    """A can (many sides) or a box (four), closed; edges are sharp, so each side has vertices of its own."""
    to_axis, _ = Rotation.align_vectors(axis[None], np.array([[0.0, 0.0, 1.0]]))
    angles = turn + np.arange(sides + 1) * (2 * math.pi / sides)
    corners = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vertices, normals, faces, patches = [], [], [], []
    for side in range(sides):
        (x0, y0), (x1, y1) = corners[side], corners[side + 1]
        base = 4 * side
        vertices += [(x0, y0, -half), (x1, y1, -half), (x1, y1, half), (x0, y0, half)]
        middle_angle = 0.5 * (angles[side] + angles[side + 1])
        smooth = sides > 8
        for angle in (angles[side], angles[side + 1], angles[side + 1], angles[side]):
            normal = angle if smooth else middle_angle
            normals.append((math.cos(normal), math.sin(normal), 0.0))
        faces += [(base, base + 1, base + 2), (base, base + 2, base + 3)]
        patches += [0] * 4
    for end in (-1.0, 1.0):
        base = len(vertices)
        vertices += [(x, y, end * half) for x, y in corners[:-1]]
        normals += [(0.0, 0.0, end)] * sides
        patches += [1] * sides
        fan = [(base, base + 1 + i, base + 2 + i) for i in range(sides - 2)]
        faces += fan if end > 0 else [(a, c, b) for a, b, c in fan]
    return Thing(
        (to_axis.apply(np.array(vertices)) + middle).astype(np.float32),
        to_axis.apply(np.array(normals)).astype(np.float32),
        np.array(faces, np.int32),
        np.array(patches),
    )


def _grid(rows: int, columns: int) -> NDArray[np.int32]:
    """Faces of a sheet of (rows, columns) vertices, closed across its columns."""
    faces = []
    for row in range(rows - 1):
        for column in range(columns):
            a, b = row * columns + column, row * columns + (column + 1) % columns
            faces += [(a, a + columns, b), (b, a + columns, b + columns)]
    return np.array(faces, np.int32)
