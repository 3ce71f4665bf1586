"""Does a confidence mean what it says: reliability bins, and the expected calibration error.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2: answers are sorted into bins of equal
width by their confidence; in a calibrated model the mean confidence of each bin is the share of its answers that are
right. The expected calibration error is the mean difference of both over the bins, weighed by their answers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.errors import ConfigError, SourceError

BINS = 10
THRESHOLD_MM = 50.0
"""A joint is right within this distance of the truth, both root-relative; PCK and AUC of 3D pose centre on it."""
MM_PER_M = 1e3


class Judged(NamedTuple):
    """Answers with their truth. confidence: (N,) in 0..1; right: (N,) bool."""

    confidence: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Bins of equal width from 0 to 1. counts: (B,) answers in each; confidence, right: (B,) their mean confidence and
    the share that is right, 0 where there are none."""

    counts: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]

    @property
    def ece(self) -> float:
        """The expected calibration error, 0..1."""
        return float(self._mean(np.abs(self.confidence - self.right)))

    @property
    def mean_confidence(self) -> float:
        """Of all answers."""
        return float(self._mean(self.confidence))

    @property
    def share_right(self) -> float:
        """Of all answers."""
        return float(self._mean(self.right))

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "joints": int(self.counts.sum()),
            "mean_confidence": self.mean_confidence,
            "share_right": self.share_right,
            "bins": [
                {"count": int(count), "confidence": float(confidence), "right": float(right)}
                for count, confidence, right in zip(self.counts, self.confidence, self.right, strict=True)
            ],
        }

    def _mean(self, values: npt.NDArray[np.float64]) -> np.floating:
        return np.average(values, weights=self.counts)


def reliability(answers: Judged, bins: int = BINS) -> Reliability:
    """Sort answers into bins; one of confidence 1 belongs to the last.

    Raises ConfigError when confidences and verdicts are not as many, or a confidence is no probability, SourceError
    when there are no answers.
    """
    confidence, right = np.asarray(answers.confidence, np.float64), np.asarray(answers.right, bool)
    if confidence.ndim != 1 or confidence.shape != right.shape:
        raise ConfigError("answers", expected="a verdict for each", got=f"{confidence.shape} and {right.shape}")
    if not len(confidence):
        raise SourceError("no confidence to judge", expected="one joint or more", got="none")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ConfigError("confidence", expected="0 to 1", got=f"{confidence.min():g} to {confidence.max():g}")
    if bins < 1:
        raise ConfigError("bins", expected="1 or more", got=bins)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    divisor = np.maximum(counts, 1)
    return Reliability(
        counts,
        np.bincount(place, confidence, bins) / divisor,
        np.bincount(place, right, bins) / divisor,
    )


def judge_joints(
    confidence: npt.NDArray[np.float32],
    joints: npt.NDArray[np.floating],
    truth: npt.NDArray[np.floating],
    threshold_mm: float = THRESHOLD_MM,
) -> Judged:
    """The joints of one person, each right or not.

    confidence: (J,); joints, truth: (J, 3) metres, both relative to their roots and in the same axes.
    """
    return Judged(confidence, np.linalg.norm(joints - truth, axis=1) * MM_PER_M < threshold_mm)


def join(answers: Iterable[Judged]) -> Judged:
    """All answers as one; of none, none."""
    parts = list(answers)
    if not parts:
        return Judged(np.zeros(0, np.float32), np.zeros(0, bool))
    return Judged(np.concatenate([part.confidence for part in parts]), np.concatenate([part.right for part in parts]))
