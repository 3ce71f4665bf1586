"""What someone wears: the colours along the bones, by which people who cross are told apart."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ALONG = np.array([0.25, 0.5, 0.75], np.float32)
"""Where on a bone, from the joint to its parent, the image is looked at."""
LEAST_SHARED = 3
"""Bones that both must show."""


def bone_colours(
    image: npt.NDArray[np.uint8], joints_px: npt.NDArray[np.floating], parents: Sequence[int]
) -> npt.NDArray[np.float32]:
    """(B, 3) float32, 0 to 1, BGR: the mean along each bone; NaN where one leaves the image.

    image: uint8 (H, W, 3) BGR; joints_px: (J, 2), may be NaN; parents: of each joint, -1 for a root.
    """
    children = [joint for joint, parent in enumerate(parents) if parent >= 0]
    ends = joints_px[[parents[joint] for joint in children]]
    points = joints_px[children][:, None] + ALONG[:, None] * (ends - joints_px[children])[:, None]
    height, width = image.shape[:2]
    edges = np.array((width, height)) - 0.5
    with np.errstate(invalid="ignore"):
        inside = np.all((points > -0.5) & (points < edges), axis=2)
    columns, rows = np.where(inside[..., None], points, 0).round().astype(np.intp).transpose(2, 0, 1)
    colours = image[rows, columns].mean(axis=1, dtype=np.float32) / np.float32(255)
    return np.where(np.all(inside, axis=1)[:, None], colours, np.float32(np.nan))


def difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """The median over the bones of both, (B, 3), of the distance of their colours; NaN where they share too few."""
    apart = np.linalg.norm(one - other, axis=1)
    apart = apart[np.isfinite(apart)]
    return float(np.median(apart)) if len(apart) >= LEAST_SHARED else float("nan")


def blend(known: npt.NDArray[np.float32], shown: npt.NDArray[np.float32], part: float) -> npt.NDArray[np.float32]:
    """`known` moved by `part` of the way to what is shown, (B, 3); what either does not have is the other's."""
    moved = known + np.float32(part) * (shown - known)
    return np.where(np.isfinite(moved), moved, np.where(np.isfinite(known), known, shown))
