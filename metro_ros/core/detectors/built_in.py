"""The bundle's own detector: its finder, and whoever is prominent beside those."""

import numpy as np
import numpy.typing as npt

from metro_ros.core.detect import Detections
from metro_ros.core.finder import Finder
from metro_ros.core.prominent import ProminentPeople
from metro_ros.core.tracking_metrics import box_iou

LEAST_IOU = 0.2
"""Of boxes of one person at least: two networks draw them, one of which knows no more than a circle."""

ALONE = 0.5
"""Score at most of whom the pose detector alone sees: in parts of an image it takes much for a person. Whom the finder
sees, too, is doubted so much less."""


class BuiltIn:
    """Two networks' people; satisfies `metro_ros.core.detect.Detector`. Not for several threads at once.

    The finder has learned from synthetic crowds, the pose detector from photographs: either sees whom the other misses.
    """

    def __init__(self, finder: Finder, prominent: ProminentPeople) -> None:
        self.finder, self.prominent = finder, prominent

    def detect(self, image: npt.NDArray[np.uint8]) -> Detections:
        """Everyone in an image, uint8 (H, W, 3) BGR, the likeliest first. Raises as both do."""
        found, (others, heads) = self.finder.detect(image), self.prominent.find(image)
        edges = np.array((image.shape[1], image.shape[0]) * 2) - 0.5
        seen = np.clip(others.boxes, -0.5, edges)  # the finder's end at the image
        known = _contains(found.boxes, heads) & (box_iou(found.boxes, seen) >= LEAST_IOU)
        new = ~known.any(axis=0)
        wholes = np.full_like(found.boxes, np.nan)
        rows, columns = np.nonzero(known)
        wholes[rows[::-1]] = others.boxes[columns[::-1]]  # of several the likeliest, which is assigned last
        boxes = np.concatenate([found.boxes, others.boxes[new]])
        agreed = 1 - (1 - found.scores) * np.where(known.any(axis=1), 1 - ALONE, 1)
        scores = np.concatenate([agreed, others.scores[new].clip(max=ALONE)])
        wholes = np.concatenate([wholes, np.full_like(others.boxes[new], np.nan)])
        order = np.argsort(-scores, kind="stable")
        return Detections(boxes[order], scores[order], wholes[order])

    def close(self) -> None:
        """Give both networks' memory back."""
        self.finder.close()
        self.prominent.close()


def _contains(boxes: npt.NDArray[np.float32], points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(N, M), whether each of boxes (N, 4) has each of points (M, 2) in it."""
    inside = (boxes[:, None, :2] <= points) & (points <= boxes[:, None, 2:])
    return np.asarray(inside.all(axis=2), np.bool_)
