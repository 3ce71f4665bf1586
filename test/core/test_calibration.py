"""Reliability bins and the expected calibration error, against cases that can be worked out by hand."""

import numpy as np
import pytest

from metro_ros.core.calibration import Judged, join, judge_joints, reliability
from metro_ros.core.errors import ConfigError, SourceError


def judged(confidence: list[float], right: list[int]) -> Judged:
    return Judged(np.array(confidence, np.float32), np.array(right, bool))


def test_a_perfect_model_has_no_error() -> None:
    """Of ten answers at 0.25, 0.75 and 1 as many are right as is said."""
    answers = judged([0.25] * 4 + [0.75] * 4 + [1.0] * 2, [1, 0, 0, 0, 1, 1, 1, 0, 1, 1])
    measured = reliability(answers)
    assert measured.ece == pytest.approx(0, abs=1e-7)
    assert measured.share_right == pytest.approx(0.6) and measured.mean_confidence == pytest.approx(0.6)
    assert measured.counts.tolist() == [0, 0, 4, 0, 0, 0, 0, 4, 0, 2], "1 belongs to the last bin"


def test_overconfidence_is_the_error() -> None:
    assert reliability(judged([0.95] * 20, [1] * 12 + [0] * 8)).ece == pytest.approx(0.35)


def test_bins_weigh_by_their_answers_and_errors_of_both_signs_do_not_cancel() -> None:
    measured = reliability(judged([0.2, 0.2, 0.2, 0.8], [1, 1, 1, 0]), bins=2)
    assert measured.mean_confidence == pytest.approx(0.35) and measured.share_right == pytest.approx(0.75)
    assert measured.ece == pytest.approx((3 * 0.8 + 1 * 0.8) / 4)
    told = measured.as_dict()
    assert told["bins"][0] == {"count": 3, "confidence": pytest.approx(0.2), "right": 1.0} and told["joints"] == 4


def test_within_one_bin_only_the_means_count() -> None:
    """0.71 and 0.79 with one right of two: 0.75 against 0.5. Finer bins ask more."""
    answers = judged([0.71, 0.79], [1, 0])
    assert reliability(answers).ece == pytest.approx(0.25)
    assert reliability(answers, bins=100).ece == pytest.approx((0.29 + 0.79) / 2)


def test_joints_are_right_within_the_threshold() -> None:
    truth = np.zeros((3, 3), np.float32)
    joints = np.array([(0.03, 0.0, 0.039), (0.03, 0.0, 0.041), (0, 0, 0)], np.float32)
    confidence = np.array((0.1, 0.2, 0.3), np.float32)
    assert judge_joints(confidence, joints, truth).right.tolist() == [True, False, True]
    assert judge_joints(confidence, joints, truth, threshold_mm=45).right.tolist() == [False, False, True]
    twice = join([judge_joints(confidence, joints, truth)] * 2)
    np.testing.assert_array_equal(twice.confidence, np.tile(confidence, 2))
    assert twice.right.tolist() == [True, False, True] * 2


def test_bad_input() -> None:
    with pytest.raises(SourceError, match="one joint or more"):
        reliability(join([]))
    with pytest.raises(ConfigError, match=r"0 to 1, got 0\.5 to 1\.5"):
        reliability(judged([0.5, 1.5], [1, 0]))
    with pytest.raises(ConfigError, match="0 to 1"):
        reliability(judged([0.5, float("nan")], [1, 0]))
    with pytest.raises(ConfigError, match="a verdict for each"):
        reliability(judged([0.5, 0.5], [1]))
    with pytest.raises(ConfigError, match="bins"):
        reliability(judged([0.5], [1]), bins=0)
