"""Numbers out of the labels of others: arrays of a known shape, finite, or one clear error that names the row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import Box
from metro_ros.core.errors import ConfigError
from training.datasets.sample import SampleError

_LARGEST = 1e9
"""No pixel, metre or radian is larger: whatever is would only overflow later."""


def take_numbers(value: Any, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    """Nested lists, or an array, as float32 of `shape`; leading axes of length 1 may come on top.

    Raises SampleError, naming `what`, for another shape, for what is no number, for NaN, infinity and numbers beyond
    a thousand million.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"values of type {array.dtype}")
    except (TypeError, ValueError, OverflowError) as cause:
        raise SampleError(what, expected=f"numbers {shape}", got=cause) from cause
    surplus = array.ndim - len(shape)
    if surplus < 0 or array.shape != (1,) * surplus + shape:
        raise SampleError(what, expected=f"numbers {shape}", got=array.shape)
    # NaN is not below any bound.
    if not (np.abs(array.astype(np.float64)) < _LARGEST).all():
        raise SampleError(what, expected="finite numbers", got="NaN, infinity, or one beyond a thousand million")
    return array.reshape(shape).astype(np.float32)


def make_box(cx: float, cy: float, size: float, what: str) -> Box:
    """A box. Raises SampleError, naming `what`, where `Box` refuses it."""
    try:
        return Box(float(cx), float(cy), float(size))
    except ConfigError as cause:
        raise SampleError(f"{what}: {cause.what}", expected=cause.expected, got=cause.got) from cause


def project(
    points: NDArray[np.floating], matrix: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Points (N, 3) in metres, camera frame, by a camera matrix (3, 3).

    Returns:
        (N, 2) float32 pixels, 0 for what is not at least a centimetre in front of the camera; (N,) which ones are.
    """
    points = points.astype(np.float64)
    seen = points[:, 2] > 0.01
    depth = np.where(seen, points[:, 2], 1.0)[:, None]
    pixels = (points @ matrix.astype(np.float64).T)[:, :2] / depth
    return np.where(seen[:, None], pixels, 0.0).astype(np.float32), seen
