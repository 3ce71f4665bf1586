"""A forearm for a hand: the hand's mesh ends at the wrist, and a cut in mid-air is nothing that a camera ever sees."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

_JOINT_RINGS = 3
"""Rings over which the wrist's bend is spread, so that the skin does not fold."""
_RING_STEP_M = 0.012
_BULGE = 1.45
"""A forearm's girth at its thickest over the wrist's."""
_BULGE_M = 0.14
"""How far from the wrist that is, on an adult."""


class Tube(NamedTuple):
    """A part of a scene. vertices (V, 3) and normals (V, 3), metres; faces (F, 3) int32; along (V,) from the wrist."""

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]
    along: NDArray[np.float32]


def wrist_ring(faces: NDArray[np.int32]) -> NDArray[np.int64]:
    """(R,) vertices of the open rim of a hand's mesh, in order, turning right as seen from the forearm.

    Each edge of the rim runs as in the one face that has it; counter-clockwise faces of the hand make it so.
    """
    starts, ends = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    edges = set(zip(starts.tolist(), ends.tolist(), strict=True))
    following = {start: end for start, end in edges if (end, start) not in edges}
    first = min(following)
    ring = [first]
    while following[ring[-1]] != first:
        ring.append(following[ring[-1]])
    return np.array(ring)


def forearm_axis(rest_ring: NDArray[np.float32]) -> NDArray[np.float64]:
    """(3,) unit, out of the rim (R, 3) away from the hand: what its opening faces, by its area's direction."""
    spokes = rest_ring.astype(np.float64) - rest_ring.mean(axis=0)
    area = np.cross(spokes, np.roll(spokes, -1, axis=0)).sum(axis=0)
    return -area / np.linalg.norm(area)


def make_forearm(
    ring: NDArray[np.float32],
    axis: NDArray[np.float64],
    bend: Rotation,
    length_m: float,
    cuff_m: float,
    cloth_m: float,
    size: float,
) -> Tube:
    """A tube from the wrist, closed at its end.

    Args:
        ring: (R, 3) the posed rim, metres, in order; the tube's first ring is just this.
        axis: (3,) unit, where the forearm points while the wrist is straight.
        bend: what the wrist turns it by.
        length_m: of the tube.
        cuff_m: where the sleeve begins, from the wrist; at `length_m` or more there is none.
        cloth_m: how far the sleeve stands off.
        size: the hand's over an adult's.
    """
    step = _RING_STEP_M * size
    stations = np.arange(1, max(2, math.ceil(length_m / step)) + 1) * step
    if stations[0] < cuff_m < stations[-1]:
        stations = np.sort(np.append(stations, (cuff_m - 1e-4, cuff_m)))
    middle, turn = ring.mean(axis=0).astype(np.float64), bend.as_rotvec()
    offsets = ring - middle
    flat = offsets - np.outer(offsets @ axis, axis)  # the rim is not quite plane; the forearm's rings are
    rings, normals, along = [ring.astype(np.float64)], [flat], [0.0]
    travelled = 0.0
    for number, station in enumerate(stations, start=1):
        share = min(1.0, number / _JOINT_RINGS)
        turned = Rotation.from_rotvec(share * turn)
        middle = middle + (station - travelled) * turned.apply(axis)
        travelled = station
        swell = 1.0 + (_BULGE - 1.0) * math.sin(0.5 * math.pi * min(1.0, station / (_BULGE_M * size)))
        outward = turned.apply(share * flat + (1.0 - share) * offsets)
        away = outward / np.linalg.norm(outward, axis=1, keepdims=True)
        rings.append(middle + swell * outward + (cloth_m if station >= cuff_m else 0.0) * away)
        normals.append(outward)
        along.append(station)
    count = len(ring)
    points = np.concatenate([*rings, middle[None]])
    directions = np.concatenate([*normals, Rotation.from_rotvec(turn).apply(axis)[None]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Tube(
        points.astype(np.float32),
        directions.astype(np.float32),
        _tube_faces(len(rings), count),
        np.append(np.repeat(along, count), travelled).astype(np.float32),
    )


def _tube_faces(rings: int, count: int) -> NDArray[np.int32]:
    """(F, 3) int32, counter-clockwise seen from outside; the last ring is closed by the vertex behind it."""
    here = np.arange(count)
    following = (here + 1) % count
    faces = []
    for ring in range(rings - 1):
        base, above = ring * count, (ring + 1) * count
        faces += [
            np.stack([base + following, base + here, above + here], axis=1),
            np.stack([base + following, above + here, above + following], axis=1),
        ]
    last = (rings - 1) * count
    faces.append(np.stack([last + following, last + here, np.full(count, rings * count)], axis=1))
    return np.concatenate(faces).astype(np.int32)
