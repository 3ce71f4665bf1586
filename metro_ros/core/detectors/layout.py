"""What every layout of a detector's outputs is: how its image is prepared, and how boxes and scores are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.detectors.config import Family

Outputs = Mapping[str, npt.NDArray]


class Candidates(NamedTuple):
    """Boxes (N, 4) float32, left, top, right, bottom; scores (N,) float32 of being a person."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to say what was found.

    name: for the log; family: how such a network usually wants its image; read: (outputs, index of the person's class)
    → Candidates; parts: whether boxes are parts of the input's sides, not its pixels; imagenet: whether the image comes
    less ImageNet's mean; overlapping: whether one person may come in several boxes; person: its index where COCO's
    classes are meant; classes: how many there are, where the outputs tell.
    """

    name: str
    family: Family
    read: Callable[[Outputs, int], Candidates]
    parts: bool = False
    imagenet: bool = False
    overlapping: bool = False
    person: int = 0
    classes: int | None = None


def corners(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Boxes (N, 4), centre and size → left, top, right, bottom."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate((centre - half, centre + half), axis=1, dtype=np.float32)


def of_class(boxes: npt.NDArray, scores: npt.NDArray, classes: npt.NDArray, person: int) -> Candidates:
    """Those of boxes (N, 4), scores (N,) and classes (N,), whole numbers of any type, that are of the class."""
    chosen = np.rint(classes).astype(np.int64) == person
    return Candidates(boxes[chosen].astype(np.float32), scores[chosen].astype(np.float32))
