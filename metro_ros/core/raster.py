"""Which pixels a triangle covers, for many small triangles at once, in NumPy.

OpenCV's polygon fill is no help: it adds the outline, half a pixel all around; many contours in one call cancel each
other; and one call a triangle takes 22 ms for the visible half of the finest mesh, where this takes 10.
"""

import numpy as np
import numpy.typing as npt

TESTS_AT_A_TIME = 1 << 20
"""Bounds the memory of one step: pixel tests, some 20 bytes each."""


def covered_pixels(
    corners_px: npt.NDArray[np.floating], width: int, height: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pixels whose centre lies in or on a triangle: corners (F, 3, 2) px → pixel indices (P,), triangle indices (P,).

    A pixel's index is row · width + column. A pixel comes once for each triangle that covers it, in no order. Triangles
    with a corner that is not finite, and those without area, cover nothing.
    """
    # (3, x and y, F), since NumPy is fast along the last axis.
    corners = np.ascontiguousarray(np.asarray(corners_px, np.float64).transpose(1, 2, 0))
    last = np.array(((width - 1.0,), (height - 1.0,)))
    low = np.clip(np.ceil(np.minimum(np.minimum(corners[0], corners[1]), corners[2])), 0, last + 1)
    high = np.clip(np.floor(np.maximum(np.maximum(corners[0], corners[1]), corners[2])), -1, last)
    seen = ((high >= low) & np.isfinite(corners).all(axis=0)).all(axis=0)
    triangles = np.flatnonzero(seen)
    low, high = low[:, seen].astype(np.int64), high[:, seen].astype(np.int64)
    extent = high - low + 1  # (2, F): whole pixels in the bounding box
    edges = _edge_functions(corners[:, :, seen] - low)
    # Bounding boxes of about the same size are tested together, as one dense block of pixels each.
    power = np.ceil(np.log2(extent)).astype(np.int64)
    bucket = power[0] * 64 + power[1]
    pixels, owners = [], []
    for key in np.flatnonzero(np.bincount(bucket)):
        columns, rows = 1 << int(key) // 64, 1 << int(key) % 64
        members = np.flatnonzero(bucket == key)
        at_a_time = max(1, TESTS_AT_A_TIME // (columns * rows))
        for start in range(0, len(members), at_a_time):
            some = members[start : start + at_a_time]
            y, x, which = _inside(edges[:, :, some], extent[:, some], columns, rows)
            hit = some[which]
            pixels.append((low[1, hit] + y) * width + low[0, hit] + x)
            owners.append(triangles[hit])
    if not pixels:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(pixels), np.concatenate(owners)


def _edge_functions(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(3 edges, 3, F): a, b, c of a·x + b·y + c, at least 0 on the inner side of each edge; NaN without an area."""
    along = corners[(1, 2, 0),] - corners
    area = along[0, 0] * along[1, 1] - along[0, 1] * along[1, 0]
    side = np.where(area > 0, 1.0, np.where(area < 0, -1.0, np.nan))
    a, b = -along[:, 1] * side, along[:, 0] * side
    return np.stack((a, b, -(a * corners[:, 0] + b * corners[:, 1])), axis=1).astype(np.float32)


def _inside(
    edges: npt.NDArray[np.float32], extent: npt.NDArray[np.int64], columns: int, rows: int
) -> tuple[npt.NDArray[np.intp], ...]:
    """(row, column, triangle) of the pixels in a block of rows by columns that lie inside of all three edges."""
    x, y = np.arange(columns, dtype=np.float32)[:, None], np.arange(rows, dtype=np.float32)[:, None]
    inside = (x < extent[0]) & (y < extent[1])[:, None]
    for a, b, c in edges:
        inside &= (b * y)[:, None] >= -(a * x + c)
    return inside.nonzero()
