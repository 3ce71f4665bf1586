"""Detections: what is no box is refused."""

import numpy as np
import pytest

from metro_ros.core.detect import Detections, no_detections
from metro_ros.core.errors import ConfigError


def test_detections_are_float32() -> None:
    found = Detections(np.array([[1, 2, 3, 4]]), np.array([0.5]))
    assert len(found) == 1 and len(no_detections()) == 0
    assert found.boxes.dtype == found.scores.dtype == np.float32


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [
        ([[1, 2, 3]], [0.5]),
        ([[1, 2, 3, 4]], [0.5, 0.6]),
        ([[1, 2, 1, 4]], [0.5]),
        ([[1, 2, np.nan, 4]], [0.5]),
        ([[1, 2, 3, 4]], [np.inf]),
    ],
)
def test_what_is_no_box_is_refused(boxes: list, scores: list) -> None:
    with pytest.raises(ConfigError, match="detections"):
        Detections(np.array(boxes), np.array(scores))
