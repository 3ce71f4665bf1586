"""Light: a lamp, a fill light and a sky, and where a body stands in its own shadow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synth.render import rasterise

_MAP_SIZE = 96
_LAMP_DISTANCE_M = 40.0
_BIAS_M = 0.03


@dataclass(frozen=True, slots=True)
class Light:
    """One scene's light.

    Attributes:
        lamp, fill: (3,) unit, from the scene to the light, camera frame.
        lamp_colour, fill_colour, ambient, sky: (3,) each, multiplied with colours in [0, 1].
        hard: how dark a shadow is, 0 to 1.
        softness_px: of shadows on the floor, in pixels of the reduced picture that they are drawn in.
    """

    lamp: NDArray[np.float64]
    fill: NDArray[np.float64]
    lamp_colour: NDArray[np.float64]
    fill_colour: NDArray[np.float64]
    ambient: NDArray[np.float64]
    sky: NDArray[np.float64]
    hard: float
    softness_px: float


def _unit(vector: NDArray) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def sample_light(rng: np.random.Generator) -> Light:
    """Rooms with one lamp, bright days, dull days, light from behind."""
    lamp = _unit(np.array([rng.normal(), -abs(rng.normal()) - 0.3, -rng.uniform(-0.6, 1.2)]))
    fill = _unit(rng.normal((0.0, -0.3, -0.5), 1.0))
    warmth = rng.normal(0.0, 0.07, 3)
    exposure = rng.uniform(0.75, 1.1)
    strength = rng.uniform(0.2, 1.1)
    return Light(
        lamp=lamp,
        fill=fill,
        lamp_colour=exposure * strength * (1.0 + warmth),
        fill_colour=exposure * rng.uniform(0.0, 0.35) * (1.0 + rng.normal(0.0, 0.12, 3)),
        ambient=exposure * rng.uniform(0.3, 0.65) * (1.0 - 0.5 * warmth),
        sky=exposure * rng.uniform(0.0, 0.25) * (1.0 + rng.normal(0.0, 0.05, 3)),
        hard=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.7 else 0.0,
        softness_px=float(rng.uniform(0.6, 2.5)),
    )


def shade(
    light: Light, colours: NDArray[np.float32], normals: NDArray[np.float32], lit: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Colours (V, 3) in [0, 1] under a light.

    Args:
        normals: (V, 3) unit, outward, camera frame.
        lit: (V,) 0 in the lamp's shadow to 1, or None for everywhere 1; see `self_shadow`.
    """
    lamp = np.clip(normals @ light.lamp, 0.0, None)
    if lit is not None:
        lamp = lamp * lit
    total = (
        light.ambient
        + light.sky * (1.0 - normals[:, 1:2])
        + lamp[:, None] * light.lamp_colour
        + np.clip(normals @ light.fill, 0.0, None)[:, None] * light.fill_colour
    )
    return np.clip(colours * total, 0.0, 1.0).astype(np.float32)


def self_shadow(light: Light, vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """(V,) 0 where the mesh itself keeps the lamp away, to 1: a shadow map, as seen from a lamp far off.

    Of a mesh with V vertices (V, 3) metres: a coarse level will do.
    """
    centre = 0.5 * (vertices.max(axis=0) + vertices.min(axis=0))
    across = _unit(np.cross(light.lamp, [0.3, 0.2, 0.9]))
    axes = np.stack([across, np.cross(-light.lamp, across), -light.lamp])  # rows: the lamp's x, y and view direction
    seen = (vertices - centre) @ axes.T + [0, 0, _LAMP_DISTANCE_M]
    extent = np.abs(seen[:, :2]).max() + 0.05
    focal = _LAMP_DISTANCE_M * (_MAP_SIZE / 2 - 1) / extent
    middle = (_MAP_SIZE - 1) / 2
    matrix = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])
    depth = np.repeat(seen[:, 2:3], 3, axis=1).astype(np.float32)
    nearest, covered = rasterise(seen.astype(np.float32), faces, depth, matrix, _MAP_SIZE, _MAP_SIZE)
    column, row = np.rint(focal * seen[:, :2] / seen[:, 2:3] + middle).astype(int).clip(0, _MAP_SIZE - 1).T
    front = np.where(covered, nearest[..., 0], _LAMP_DISTANCE_M * 2)
    front = np.asarray(cv2.blur(front.astype(np.float32), (3, 3)))
    behind = seen[:, 2] - front[row, column] - _BIAS_M
    return (1.0 - light.hard * np.clip(behind / 0.03, 0.0, 1.0)).astype(np.float32)
