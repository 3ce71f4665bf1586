"""What the finder's maps should be for given boxes: Gaussians at the centres, distances to the sides around them.

Gaussians take the shape of their box and teach the sides within, as in TTFNet (Liu et al., Training-Time-Friendly
Network for Real-Time Object Detection, 2020).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.finder.network import STRIDE

WIDTH = 0.54 / 6
"""Standard deviation of a Gaussian over its box's side."""
CENTRE = 0.8
"""The height above which a cell counts as the centre of the box: nobody can tell the exact one of someone large."""
TAUGHT = 0.3
"""The height of the Gaussian above which cells learn the sides of its box."""


class Targets(NamedTuple):
    """Of one image, in cells of STRIDE pixels.

    heat: (h, w) in 0..1, 1 in the cells around a box's centre; counts: (h, w) weights of the heat, 0 where nobody
    knows, 1 a box in sum where the heat is 1, else 1; sides: (4, h, w)
    pixels from the cell's centre to left, top, right, bottom; taught: (h, w) weights of the sides, 1 a box in sum.
    """

    heat: NDArray[np.float32]
    counts: NDArray[np.float32]
    sides: NDArray[np.float32]
    taught: NDArray[np.float32]


def make_targets(boxes: NDArray[np.float32], ignored: NDArray[np.bool_], width: int, height: int) -> Targets:
    """Maps for boxes (N, 4), left, top, right, bottom, px, inside of an image of width x height px.

    ignored: (N,), whose box shall be neither found nor missed. Where boxes share cells, the smaller one has them.
    """
    columns, rows = width // STRIDE, height // STRIDE
    heat, counts = np.zeros((rows, columns), np.float32), np.ones((rows, columns), np.float32)
    sides, taught = np.ones((4, rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    x = (np.arange(columns, dtype=np.float32) + 0.5) * STRIDE
    y = (np.arange(rows, dtype=np.float32) + 0.5) * STRIDE
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for index in np.lexsort((-areas, ~ignored)):  # the ignored first: who is to be found counts even within them
        left, top, right, bottom = boxes[index]
        if ignored[index]:
            counts[(y >= top) & (y <= bottom)] *= ~((x >= left) & (x <= right))
            continue
        column = min(int((left + right) / 2 / STRIDE), columns - 1)
        row = min(int((top + bottom) / 2 / STRIDE), rows - 1)
        across = np.exp(-0.5 * ((x - x[column]) / max((right - left) * WIDTH, 1e-3)) ** 2)
        down = np.exp(-0.5 * ((y - y[row]) / max((bottom - top) * WIDTH, 1e-3)) ** 2)
        bump = (down[:, None] * across[None]).astype(np.float32)
        centre = bump > CENTRE
        centre[row, column] = True
        np.maximum(heat, np.where(centre, 1, bump), out=heat)
        counts[centre] = 1 / np.count_nonzero(centre)
        inside = ((x > left) & (x < right))[None] & ((y > top) & (y < bottom))[:, None]
        inside[row, column] = True
        mine = (bump > TAUGHT) & inside
        taught[mine] = bump[mine] / bump[mine].sum()
        distances = (x - left)[None], (y - top)[:, None], (right - x)[None], (bottom - y)[:, None]
        for side, distance in enumerate(distances):
            sides[side][mine] = np.broadcast_to(distance, mine.shape)[mine]
    return Targets(heat, counts, np.maximum(sides, 0.25), taught)
