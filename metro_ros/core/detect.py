"""What finds people in a whole image: the interface between detectors of any kind and the estimator."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N people found in one image.

    boxes: (N, 4) float32, left, top, right, bottom, pixels of that image, around each, or what can be seen of each
    (see `metro_ros.core.crop.Box` for the square that is cropped); scores: (N,) float32 in 0..1; wholes: (N, 4) as
    boxes, another guess of where each is with all that is hidden or outside, NaN where there is none. Raises
    ConfigError when the shapes do not fit, when a number is not finite, or when a box has no area.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    wholes: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        boxes, scores = np.asarray(self.boxes, np.float32), np.asarray(self.scores, np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
            raise ConfigError(
                "detections", expected="boxes (N, 4) and scores (N,)", got=f"{boxes.shape} and {scores.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ConfigError("detections", expected="finite boxes and scores", got="NaN or infinity")
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise ConfigError("detections", expected="left < right and top < bottom", got="a box without area")
        if self.wholes is not None:
            wholes = np.asarray(self.wholes, np.float32)
            told = wholes[~np.isnan(wholes).all(axis=-1)] if wholes.shape == boxes.shape else wholes[:0]
            if wholes.shape != boxes.shape or not (np.isfinite(told).all() and (told[:, 2:] > told[:, :2]).all()):
                raise ConfigError(
                    "wholes of detections", expected=f"boxes {boxes.shape} with an area, or NaN", got=f"{wholes.shape}"
                )
            object.__setattr__(self, "wholes", wholes)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.boxes)


def no_detections() -> Detections:
    """Nobody."""
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def suppress(boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], max_iou: float) -> npt.NDArray[np.int64]:
    """Indices of boxes (N, 4) left, top, right, bottom that no likelier one overlaps by more, the likeliest first."""
    sizes = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
    kept = cv2.dnn.NMSBoxes(sizes.tolist(), scores.tolist(), 0.0, max_iou)
    return np.asarray(kept, np.int64).ravel()


class Detector(Protocol):
    """Finds people in whole images. Not for use by several threads at once."""

    def detect(self, image: npt.NDArray[np.uint8]) -> Detections:
        """Everyone in an image, uint8 (H, W, 3) BGR, the likeliest first. Raises EngineError when the network fails."""

    def close(self) -> None:
        """Give the network's memory back."""
