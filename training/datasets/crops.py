"""The crop around a subject, turned and scaled, in two styles: as METRO was trained, and as exact as can be.

Both take a `Box` and a turn about its centre, counter-clockwise as seen, and give float32 pixels and keypoints in crop
coordinates (see `metro_ros.core.crop`).

"smooth" is that module's own geometry to a fraction of a pixel: crop pixel i has u = (2i + 1)/S - 1, and what shrinks
is averaged, not skipped.

"paper" follows the pixel maths of the original code, which counts from 1 and truncates toward zero. The crop's corners
are whole pixels, trunc(c - h/2) and trunc(c + h/2), the second exclusive, resized without averaging; a keypoint lies
at p = trunc((x - c + h/2)·S/h) + 1, and u = 2p/S - 1. Against the exact position, where coordinates are positive and
nothing turns, this moves a keypoint by 0 to 1 crop pixel to the right and down, 1/2 in the mean (one for counting from
1, less the fraction cut off), and the picture the same way by 1/2 to 3/2 image pixels, S/h crop pixels in the mean (the
fraction cut off at two corners, and half because pixels' corners are taken for their centres). So in the mean label and
picture agree to within half a crop pixel wherever the crop does not enlarge, exactly where it halves, and the two
styles to within one. A turn takes the picture's shift with it but not the label's: at half a turn,
1/2 + S/h crop pixels lie between them along each axis.
"""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import Box, crop_image
from metro_ros.core.errors import ConfigError
from training.datasets.sample import Dense, SampleError

CropStyle = Literal["paper", "smooth"]

_MARGIN = 1.5  # a square this much larger holds the crop at every turn: more than √2
_NO_ALIASING = 1.25  # bilinear sampling skips hardly anything up to this many image pixels a step
_MAX_SIDE = 8192  # of the paper's padded crop, which is as large as the box: 800 MB


def turn(rotation_deg: float) -> NDArray[np.float64]:
    """(3, 3) what a counter-clockwise turn of the picture does to points: Rz(-rotation), because y points down."""
    cosine, sine = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    return np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def crop_pixels(
    image: NDArray[np.uint8], box: Box, rotation_deg: float, size: int, style: CropStyle
) -> NDArray[np.float32]:
    """(H, W, 3) uint8 → (size, size, 3) float32, black outside of the image, channels as they come.

    Raises:
        SampleError: "paper" only: the box is smaller than a pixel, or more than 8192 px with its corners.
        ConfigError: another style, or no size.
    """
    _check(size, style)
    if style == "paper":
        return _paper_pixels(image, box, rotation_deg, size)
    if not rotation_deg:
        return crop_image(image, box, size)[..., ::-1].astype(np.float32)  # it swaps channels: swap them back
    if box.size > _NO_ALIASING * size:
        samples = math.ceil(_MARGIN * size)
        image = crop_image(image, Box(box.cx, box.cy, _MARGIN * box.size), samples)[..., ::-1]
        middle = (samples - 1) / 2
        box = Box(middle, middle, samples / _MARGIN)
    source_from_crop = _pixels_from_crop(_image_from_crop(box, rotation_deg), size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    turned = cv2.warpAffine(np.ascontiguousarray(image), source_from_crop, (size, size), flags=flags)
    return np.asarray(turned, np.float32)


def crop_keypoints(
    points_px: NDArray[np.floating], box: Box, rotation_deg: float, size: int, style: CropStyle
) -> NDArray[np.float32]:
    """(J, 2) image pixels → (J, 2) float32 crop coordinates in [-1, 1]. Raises ConfigError as `crop_pixels` does."""
    _check(size, style)
    around = turn(rotation_deg)[:2, :2]
    if style == "smooth":
        return (box.to_crop(points_px.astype(np.float64)) @ around.T).astype(np.float32)
    exact_px = points_px.astype(np.float64) * (size / box.size) + size * (0.5 - np.array((box.cx, box.cy)) / box.size)
    if rotation_deg:
        exact_px = (exact_px - size / 2) @ around.T + size / 2
    return (2.0 * (np.trunc(exact_px) + 1.0) / size - 1.0).astype(np.float32)


def crop_dense(dense: Dense, width: int, height: int, box: Box, rotation_deg: float, style: CropStyle) -> Dense:
    """What is known of every cell of the image (width, height px) for every cell of its crop, as many a side.

    Bilinear, and nothing outside of the image. Follows the picture of the style, whole-pixel corners included.
    """
    cells = len(dense.mask)
    rectangle = _paper_corners(box) if style == "paper" else None
    image_from_crop = _image_from_crop(box, rotation_deg, rectangle)
    cells_from_image = np.array([cells / width, cells / height])[:, None]
    source_from_crop = _pixels_from_crop(image_from_crop, cells) * cells_from_image
    source_from_crop[:, 2] += cells_from_image[:, 0] / 2 - 0.5  # cell i covers (i ± 1/2), as a pixel does
    maps = np.concatenate([dense.mask[None], dense.surface]).transpose(1, 2, 0)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(np.ascontiguousarray(maps), source_from_crop, (cells, cells), flags=flags)
    warped = np.asarray(warped, np.float32).transpose(2, 0, 1)
    return Dense(np.ascontiguousarray(warped[0]), np.ascontiguousarray(warped[1:]))


def _check(size: int, style: CropStyle) -> None:
    if style not in ("paper", "smooth"):
        raise ConfigError("style of crops", expected="paper or smooth", got=style)
    if size < 1:
        raise ConfigError("size of crops", expected="at least 1 pixel", got=size)


def _image_from_crop(
    box: Box, rotation_deg: float, rectangle: tuple[int, int, int, int] | None = None
) -> NDArray[np.float64]:
    """(2, 3) crop coordinates → image pixels, of a box or of the whole pixels left, top, right, bottom."""
    centre, half = np.array((box.cx, box.cy)), np.full(2, box.size / 2)
    if rectangle is not None:
        corners = np.array(rectangle, np.float64).reshape(2, 2)
        centre, half = corners.mean(axis=0) - 0.5, (corners[1] - corners[0]) / 2
    return np.column_stack([turn(rotation_deg)[:2, :2].T * half, centre])


def _pixels_from_crop(image_from_crop: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(2, 3) crop pixels of `size` a side → image pixels."""
    linear, offset = image_from_crop[:, :2], image_from_crop[:, 2]
    return np.column_stack([linear * (2 / size), linear.sum(axis=1) * (1 / size - 1) + offset])


def _paper_corners(box: Box) -> tuple[int, int, int, int]:
    """Left, top, right and bottom as array indices, the latter two exclusive."""
    half = box.size / 2
    return math.trunc(box.cx - half), math.trunc(box.cy - half), math.trunc(box.cx + half), math.trunc(box.cy + half)


def _paper_pixels(image: NDArray[np.uint8], box: Box, rotation_deg: float, size: int) -> NDArray[np.float32]:
    left, top, right, bottom = _paper_corners(box)
    padding = math.ceil((_MARGIN - 1) / 2 * max(right - left, bottom - top)) if rotation_deg else 0
    left, top, right, bottom = left - padding, top - padding, right + padding, bottom + padding
    width, height = right - left, bottom - top
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise SampleError("box for a crop", expected=f"a side of 1 to {_MAX_SIDE} px", got=f"{box.size:.1f} px")
    padded = np.zeros((height, width, 3), np.float32)
    rows, columns = image.shape[:2]
    inside = image[max(top, 0) : max(min(bottom, rows), 0), max(left, 0) : max(min(right, columns), 0)]
    if inside.size:
        at_row, at_column = max(-top, 0), max(-left, 0)
        padded[at_row : at_row + inside.shape[0], at_column : at_column + inside.shape[1]] = inside
    if rotation_deg:
        about_centre = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rotation_deg, 1.0)
        turned = cv2.warpAffine(padded, about_centre, (width, height), flags=cv2.INTER_LINEAR)
        padded = np.ascontiguousarray(np.asarray(turned, np.float32)[padding:-padding, padding:-padding])
    return np.asarray(cv2.resize(padded, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
