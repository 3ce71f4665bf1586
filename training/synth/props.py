"""Things that people wear or carry: low-polygon solids that hang on a bone, and skirts that hang between the legs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.body import BodyBank

_RINGS = 7
_SPOKES = 20


class Solid(NamedTuple):
    """vertices (V, 3) float32 metres, faces (F, 3) int32 outward, colours (V, 3) float32 sRGB in [0, 1]."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    colours: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prop:
    """A solid in the rest frame of a body: it moves with `bone`."""

    bone: int
    solid: Solid


@dataclass(frozen=True, slots=True)
class Skirt:
    """A skirt or an open coat around the legs.

    hem: how far down, 0 at the hips to 1 at the ankles; flare: metres that it stands off at the hem; colours: (rings *
    spokes, 3) sRGB.
    """

    hem: float
    flare: float
    colours: NDArray[np.float32]


def ellipsoid(centre: NDArray, radii: NDArray, colour: NDArray) -> Solid:
    """A sphere of 8 by 12 faces, stretched along the axes."""
    rings, spokes = 7, 12
    polar = np.linspace(0, math.pi, rings + 2)[1:-1]
    around = np.arange(spokes) * (2 * math.pi / spokes)
    ring = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(around),
            np.broadcast_to(-np.cos(polar)[:, None], (rings, spokes)),
            np.sin(polar)[:, None] * np.sin(around),
        ],
        axis=-1,
    )
    points = np.concatenate([ring.reshape(-1, 3), [[0, -1, 0], [0, 1, 0]]]) * radii + centre
    caps = [
        face
        for spoke in range(spokes)
        for face in (
            (rings * spokes, spoke, (spoke + 1) % spokes),
            (rings * spokes + 1, (rings - 1) * spokes + (spoke + 1) % spokes, (rings - 1) * spokes + spoke),
        )
    ]
    faces = np.concatenate([tube_faces(rings, spokes), np.array(caps)])
    return _solid(points, faces, colour)


def cuboid(centre: NDArray, half: NDArray, colour: NDArray) -> Solid:
    """A box with half extents `half` (3,)."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    faces = np.array(
        [
            [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
            [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
        ]
    )  # fmt: skip
    return _solid(corners * half + centre, faces, colour)


def _solid(points: NDArray, faces: NDArray, colour: NDArray) -> Solid:
    colours = np.broadcast_to(np.asarray(colour, np.float32), points.shape)
    return Solid(points.astype(np.float32), faces.astype(np.int32), np.ascontiguousarray(colours))


def tube_faces(rings: int, spokes: int) -> NDArray[np.int64]:
    """(2 (rings - 1) spokes, 3): the wall of a tube whose vertices come ring by ring, downwards, from x to z."""
    ring, spoke = np.meshgrid(np.arange(rings - 1), np.arange(spokes), indexing="ij")
    a = (ring * spokes + spoke).ravel()
    b = (ring * spokes + (spoke + 1) % spokes).ravel()
    return np.concatenate([np.stack([a, a + spokes, b], 1), np.stack([b, a + spokes, b + spokes], 1)])


def sample_props(
    rng: np.random.Generator, bank: BodyBank, identity: int, hair: NDArray, cloth: NDArray
) -> tuple[Prop, ...]:
    """Hair that stands off, hats, rucksacks, bags and whatever hands hold: most people have none of it."""
    heads = bank.rest_heads[identity].astype(np.float64)
    rest = bank.rest_vertices[identity]
    stature = float(np.ptp(rest[:, 1]))
    head, neck = bank.bone("head"), bank.bone("neck01")
    crown = float(rest[:, 1].min())
    skull = 0.5 * (heads[head] + [heads[head][0], crown, heads[head][2]])  # its middle
    radius = 0.5 * abs(crown - heads[head][1])
    props = []

    def add(bone: int, solid: Solid) -> None:
        props.append(Prop(bone, solid))

    # y points down and a body at rest faces the camera, towards -z.
    kind = rng.random()
    if kind < 0.12:  # hair down to the shoulders
        centre = skull + radius * rng.uniform([0, 0.5, 0.25], [0, 1.5, 0.5])
        add(head, ellipsoid(centre, radius * rng.uniform([0.7, 1.0, 0.5], [1.1, 1.8, 0.8]), hair))
    elif kind < 0.17:  # a bun or a pony tail
        centre = skull + radius * rng.uniform([0, -0.9, 0.8], [0, 0.5, 1.1])
        add(head, ellipsoid(centre, radius * rng.uniform([0.25, 0.25, 0.25], [0.5, 0.9, 0.5]), hair))
    elif kind < 0.23:  # big hair
        add(head, ellipsoid(skull - [0, 0.35 * radius, -0.25 * radius], radius * rng.uniform(0.9, 1.25, 3), hair))
    elif kind < 0.33:  # a hat, with a brim or without
        top = skull - [0, 0.75 * radius, 0]
        add(head, ellipsoid(top, radius * rng.uniform([0.8, 0.4, 0.8], [1.0, 0.8, 1.05]), cloth))
        if rng.random() < 0.5:
            add(head, ellipsoid(top, radius * np.array([1, 0.08, 1]) * rng.uniform(1.3, 1.9), cloth))
    if rng.random() < 0.07:  # a rucksack
        spine = heads[bank.bone("spine01")]
        half = stature * rng.uniform([0.07, 0.09, 0.03], [0.1, 0.16, 0.07])
        behind = np.array([0.0, 0.4 * half[1], 0.06 * stature + half[2]])
        add(bank.bone("spine02"), cuboid(spine + behind, half, rng.random(3)))
    if rng.random() < 0.04:  # a scarf
        add(neck, ellipsoid(heads[neck], stature * rng.uniform([0.05, 0.02, 0.05], [0.07, 0.04, 0.07]), rng.random(3)))
    for side in "LR":
        if rng.random() < 0.08:  # a bag, a tool, a ball or a box in a hand
            at = heads[bank.bone(f"finger3-1.{side}")]
            half = stature * rng.uniform([0.01, 0.01, 0.01], [0.08, 0.12, 0.08])
            make = ellipsoid if rng.random() < 0.4 else cuboid
            reach = half * rng.normal(0, 0.5, 3)
            add(bank.bone(f"wrist.{side}"), make(at + reach, half, rng.random(3)))
    return tuple(props)


def place(prop: Prop, transforms: NDArray[np.float32]) -> Solid:
    """The prop where the bone has taken it; transforms: (B, 3, 4)."""
    matrix = transforms[prop.bone]
    return prop.solid._replace(vertices=prop.solid.vertices @ matrix[:, :3].T + matrix[:, 3])


def hang(skirt: Skirt, vertices: NDArray[np.float32], along_leg: NDArray[np.float32], axes: NDArray) -> Solid:
    """The cloth of a skirt around a posed body: rings that reach around both legs.

    Args:
        vertices: (V, 3) posed, metres.
        along_leg: (V,) 0 at the hip to 1 at the ankle, -1 off the legs.
        axes: (3, 3) of the pelvis, columns to its left, down and backwards.
    """
    levels = np.linspace(0.02, skirt.hem, _RINGS)
    around = np.arange(_SPOKES) * (2 * math.pi / _SPOKES)
    points = np.empty((_RINGS, _SPOKES, 3))
    legs = along_leg > -1
    local, place_on_leg = vertices[legs] @ axes, along_leg[legs]
    directions = np.stack([np.cos(around), np.sin(around)])
    for ring, level in enumerate(levels):
        band = local[np.abs(place_on_leg - level) < 0.06]
        if len(band) < 4:
            band = local
        flat = band[:, [0, 2]]
        centre = 0.5 * (flat.max(axis=0) + flat.min(axis=0))
        reach = ((flat - centre) @ directions).max(axis=0)
        # The support function bounds the hull; its points lie within reach of cos(half a step).
        reach = reach + 0.004 + skirt.flare * level / skirt.hem
        ring_points = centre + directions.T * reach[:, None]
        points[ring] = np.column_stack([ring_points[:, 0], np.full(_SPOKES, np.median(band[:, 1])), ring_points[:, 1]])
    return Solid(
        (points.reshape(-1, 3) @ axes.T).astype(np.float32),
        tube_faces(_RINGS, _SPOKES).astype(np.int32),
        skirt.colours,
    )


def skirt_shape() -> tuple[int, int]:
    """Rings and spokes of a skirt: `Skirt.colours` has a row for each of their crossings."""
    return _RINGS, _SPOKES
