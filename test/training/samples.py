"""Hand-made samples for the tests of datasets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import Box
from training.datasets.sample import Dense, Sample

NAMES = ("Pelvis", "L_Hip", "R_Hip", "Head")


def draw_dots(points_px: NDArray[np.floating], width: int, height: int, sigma: float = 3.0) -> NDArray[np.uint8]:
    """(height, width, 3) black with a bright round dot at each point, to a fraction of a pixel."""
    rows, columns = np.mgrid[:height, :width]
    light = np.zeros((height, width))
    for x, y in points_px:
        light += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.clip(250 * light, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def find_dot(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """(2,) centre of the only bright dot of an (S, S, 3) crop, in crop coordinates."""
    size = len(image)
    light = np.where(image[..., 0] > 20, image[..., 0], 0).astype(np.float64)
    rows, columns = np.mgrid[:size, :size]
    centre = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
    return (2 * centre + 1) / size - 1


def make_sample(seed: int = 0, width: int = 96, height: int = 80, **changes: Any) -> Sample:
    """Four random joints, each on its place in the image as a camera far away sees it, 40 px a metre."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-0.6, 0.6, (len(NAMES), 3)).astype(np.float32)
    centre = np.array([width / 2, height / 2])
    fields: dict[str, Any] = {
        "key": f"made/{seed}",
        "image": rng.integers(0, 256, (height, width, 3), np.uint8),
        "box": Box(centre[0], centre[1], 70.0),
        "keypoints_px": (centre + 40 * joints[:, :2]).astype(np.float32),
        "keypoint_confidence": rng.uniform(0.2, 1.0, len(NAMES)).astype(np.float32),
        "joints": joints,
        "joint_confidence": rng.uniform(0.2, 1.0, len(NAMES)).astype(np.float32),
    }
    return Sample(**{**fields, **changes})


def make_dense(seed: int = 0, cells: int = 16) -> Dense:
    rng = np.random.default_rng(seed)
    return Dense(
        rng.random((cells, cells)).astype(np.float32), rng.uniform(-1, 1, (3, cells, cells)).astype(np.float32)
    )
