"""Detectors that answer for every cell of their grids: YOLOX, and YOLOv5 to YOLO11 without NMS."""

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.detectors.layout import Candidates, Layout, Outputs, corners

GRIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Strides of the cells in pixels: of the usual heads, of P6, of P2, and of tiny ones."""
ANCHORS = (1, 3)
"""Rows for each cell: one since YOLOX, three in YOLOv5 and YOLOv7."""
BOX = 4


class Cells(NamedTuple):
    """origin: (N, 2) float32, column and row of each cell in its grid; stride: (N, 1) float32, px."""

    origin: npt.NDArray[np.float32]
    stride: npt.NDArray[np.float32]


def recognise_dense(name: str, rows: npt.NDArray, size: tuple[int, int], classes: int | None) -> Layout | None:
    """The layout of output `name`, `rows` (1, N, K) or (1, K, N) to a grey image of `size` (height, width) px.

    Each row is centre x, y, width, height[, objectness], a probability for each class[, more]. classes: how many the
    file names. None when N is the number of cells of no grid.
    """
    standing, lying = _grid(rows.shape[1], size), _grid(rows.shape[2], size)
    strides, anchors = standing or lying or ((), 0)
    answer = rows[0] if standing else rows[0].T
    columns = answer.shape[1]
    # What came before YOLOv8 has an objectness; since then rows lie, unless someone turned them.
    objectness = standing is not None and (classes is None or columns != BOX + classes)
    if not strides or columns < BOX + objectness + 1:
        return None
    first_class = BOX + objectness
    classes = columns - first_class  # at most: a pose or a mask may follow
    read = partial(_read, name=name, standing=standing is not None, first_class=first_class)
    # YOLOX and YOLOv6 have the same shapes, but YOLOv6 is sure that there is something in every cell.
    if not objectness or anchors > 1 or (answer[:, BOX] == 1).all():
        kind = "YOLO with objectness" if objectness else "YOLO"
        return Layout(kind, "yolo", read, overlapping=True, classes=classes)
    cells = _cells(strides, size)
    if _counts_in_cells(answer[:, :2], cells):
        return Layout("YOLOX, undecoded", "yolox", partial(read, cells=cells), overlapping=True, classes=classes)
    return Layout("YOLOX", "yolox", read, overlapping=True, classes=classes)


def _grid(rows: int, size: tuple[int, int]) -> tuple[tuple[int, ...], int] | None:
    """Strides and anchors of a head that has so many rows for an input of `size`."""
    for strides in GRIDS:
        cells = sum((size[0] // stride) * (size[1] // stride) for stride in strides)
        if cells and rows in (anchors * cells for anchors in ANCHORS):
            return strides, rows // cells
    return None


def _cells(strides: tuple[int, ...], size: tuple[int, int]) -> Cells:
    """In YOLOX's order: the finest grid first, each row by row (YOLOX, demo_utils.demo_postprocess)."""
    grids = [np.indices((size[0] // stride, size[1] // stride))[::-1].reshape(2, -1).T for stride in strides]
    stride = np.repeat(np.array(strides), [len(grid) for grid in grids])
    return Cells(np.concatenate(grids).astype(np.float32), stride[:, None].astype(np.float32))


def _counts_in_cells(centres: npt.NDArray, cells: Cells) -> bool:
    """Whether centres (N, 2) lie near (0, 0), by the cell, and not each near its own cell, in pixels."""
    in_pixels = np.abs(centres / cells.stride - cells.origin)
    return float(np.median(np.abs(centres))) < float(np.median(in_pixels))


def _read(
    outputs: Outputs, person: int, *, name: str, standing: bool, first_class: int, cells: Cells | None = None
) -> Candidates:
    rows = outputs[name][0] if standing else outputs[name][0].T
    scores = rows[:, first_class + person]
    if first_class > BOX:
        scores = scores * rows[:, BOX]
    boxes = rows[:, :BOX]
    if cells is not None:
        sides = np.exp(np.minimum(boxes[:, 2:], 20))  # of any size, but finite
        boxes = np.concatenate((boxes[:, :2] + cells.origin, sides), axis=1) * cells.stride
    return Candidates(corners(boxes), scores.astype(np.float32))
