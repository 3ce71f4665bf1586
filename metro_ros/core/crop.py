"""The square crop that the network sees: where it lies in the image, and its pixels.

Conventions, shared by training and running. Integer coordinates are pixel centres (as in a ROS camera matrix), so an
image covers [-0.5, width - 0.5]. Normalised crop coordinates (u, v) lie in [-1, 1]:

    U = cx + u·size/2,  V = cy + v·size/2.

Crop pixel p of S has u = (2p + 1)/S - 1. Outside of the image is black.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.errors import ConfigError, ImageError


@dataclass(frozen=True, slots=True)
class Box:
    """A square in the image: centre (cx, cy) and side `size` in pixels. Raises ConfigError unless finite, size > 0."""

    cx: float
    cy: float
    size: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cx) and math.isfinite(self.cy) and math.isfinite(self.size) and self.size > 0):
            raise ConfigError("a box must be finite and have a positive side", got=(self.cx, self.cy, self.size))

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, px."""
        half = self.size / 2
        return self.cx - half, self.cy - half, self.cx + half, self.cy + half

    def to_pixels(self, points_uv: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Normalised crop coordinates (..., 2) → image pixels (..., 2)."""
        return points_uv * (self.size / 2) + np.array((self.cx, self.cy))

    def to_crop(self, points_px: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Image pixels (..., 2) → normalised crop coordinates (..., 2)."""
        return (points_px - np.array((self.cx, self.cy))) * (2 / self.size)


def whole_image_box(width: int, height: int) -> Box:
    """The smallest square around the whole image (black bars on its shorter side), both sizes in pixels."""
    return Box((width - 1) / 2, (height - 1) / 2, float(max(width, height)))


def bounds_of_points(points_px: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Left, top, right and bottom, (4,) float64 px, of the finite ones of points (N, 2) px.

    Raises ConfigError when no point is finite.
    """
    finite = points_px if np.isfinite(points_px).all() else points_px[np.isfinite(points_px).all(axis=1)]
    if not len(finite):
        raise ConfigError("no box without a finite point", got=f"{len(points_px)} points")
    xy = np.ascontiguousarray(finite.T, np.float64)  # along rows, ten times as fast
    return np.concatenate((xy.min(axis=1), xy.max(axis=1)))


def box_around(bounds: npt.NDArray[np.floating], padding: float) -> Box:
    """Square around left, top, right and bottom (4,) px, its side the larger extent, at least 1 px, times `padding`."""
    left, top, right, bottom = map(float, bounds)
    return Box((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top, 1.0) * padding)


def box_from_points(points_px: npt.NDArray[np.floating], padding: float) -> Box:
    """Square around the finite ones of points (N, 2) px, see `box_around`. Raises ConfigError when none is finite."""
    return box_around(bounds_of_points(points_px), padding)


def crop_image(
    image_bgr: npt.NDArray[np.uint8], box: Box, size: int, out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Pixels of `box` as the network wants them: uint8 (H, W, 3) BGR → uint8 (size, size, 3) RGB.

    Bilinear where the crop enlarges. Where it shrinks by a, blocks of ceil(a/2) pixels are averaged first, and the
    rest, at most 2, is sampled bilinearly twice as finely and averaged in pairs: exact geometry, hardly any aliasing,
    and 1 ms for 640 → 128 pixels, a quarter of what sampling every source pixel takes. out: uint8 (size, size, 3),
    C-contiguous, is written to and returned, for example a row of a batch. Raises ImageError for another type or shape
    of either.
    """
    check_image(image_bgr)
    if out is None:
        out = np.empty((size, size, 3), np.uint8)
    elif out.dtype != np.uint8 or out.shape != (size, size, 3) or not out.flags.c_contiguous:
        raise ImageError("place for a crop", expected=f"uint8 ({size}, {size}, 3)", got=f"{out.dtype} {out.shape}")
    shrink = box.size / size
    block = min(max(1, math.ceil(shrink / 2)), max(image_bgr.shape))  # a huge box does not make a huge array
    reduced, origin = _averaged_blocks(image_bgr, box, block)
    if not reduced.size:
        out.fill(0)
        return out
    oversampling = 2 if shrink > 1 + 1e-6 else 1
    samples = size * oversampling
    step = box.size / samples  # image pixels between samples
    reduced_from_sample = np.array(
        (
            (step / block, 0.0, (box.cx + (step - box.size) / 2 - origin[0]) / block),
            (0.0, step / block, (box.cy + (step - box.size) / 2 - origin[1]) / block),
        )
    )
    crop = cv2.warpAffine(
        reduced, reduced_from_sample, (samples, samples), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    if oversampling > 1:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=out)
    return out


def check_image(image_bgr: npt.NDArray[np.uint8]) -> None:
    """Raises ImageError unless the image is uint8 (H, W, 3) and not empty."""
    if not isinstance(image_bgr, np.ndarray):
        raise ImageError("not a colour image", expected="uint8 array (H, W, 3)", got=type(image_bgr).__name__)
    if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3:
        raise ImageError("not a colour image", expected="uint8 (H, W, 3)", got=f"{image_bgr.dtype} {image_bgr.shape}")
    if 0 in image_bgr.shape:
        raise ImageError("the image is empty", expected="at least one pixel", got=image_bgr.shape)


def _averaged_blocks(
    image: npt.NDArray[np.uint8], box: Box, block: int
) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """The image under the box in means of block by block pixels, and the image position of the first mean."""
    height, width = image.shape[:2]
    margin = box.size / 2 + 2 * block  # more than the bilinear neighbours reach
    left, right = max(0, math.floor(box.cx - margin)), min(width, math.ceil(box.cx + margin) + 1)
    top, bottom = max(0, math.floor(box.cy - margin)), min(height, math.ceil(box.cy + margin) + 1)
    if left >= right or top >= bottom:
        return np.empty((0, 0, 3), np.uint8), (0.0, 0.0)
    right = min(width, right + (left - right) % block)  # whole blocks, where the image has them
    bottom = min(height, bottom + (top - bottom) % block)
    part = image[top:bottom, left:right]
    if block > 1:
        missing_rows, missing_columns = -part.shape[0] % block, -part.shape[1] % block
        if missing_rows or missing_columns:  # outside of the image is black, in whole blocks
            part = np.asarray(
                cv2.copyMakeBorder(part, 0, missing_rows, 0, missing_columns, cv2.BORDER_CONSTANT), np.uint8
            )
        part = np.asarray(
            cv2.resize(part, (part.shape[1] // block, part.shape[0] // block), interpolation=cv2.INTER_AREA), np.uint8
        )
    return part, (left + (block - 1) / 2, top + (block - 1) / 2)
