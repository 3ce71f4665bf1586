"""Changes are drawn as METRO and the project say."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from metro_ros.core.errors import ConfigError
from training.datasets.augment import DEFAULT, NONE, PAPER_BODY, PAPER_HAND, AugmentConfig, Change

COUNT = 4000


def _draws(config: AugmentConfig) -> list[Change]:
    rng = np.random.default_rng(0)
    return [config.draw(rng) for _ in range(COUNT)]


def _normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


@pytest.mark.parametrize(("config", "sigma", "limit"), [(PAPER_BODY, 30.0, 60.0), (PAPER_HAND, 90.0, 180.0)])
def test_the_papers_turns(config: AugmentConfig, sigma: float, limit: float) -> None:
    turns = np.array([change.rotation_deg for change in _draws(config)])
    assert (turns == 0).mean() == pytest.approx(0.6, abs=0.03)
    turned = turns[turns != 0]
    assert np.abs(turned).max() == limit
    assert (np.abs(turned) == limit).mean() == pytest.approx(2 * _normal_cdf(-2.0), abs=0.02)
    assert np.median(np.abs(turned)) == pytest.approx(0.6745 * sigma, rel=0.08)
    assert abs(turned.mean()) < 0.1 * sigma


def test_the_papers_scales_mirrors_and_gains() -> None:
    draws = _draws(PAPER_BODY)
    scales = np.array([change.scale for change in draws])
    assert scales.min() == 0.75 and scales.max() == 1.25
    for end in (0.75, 1.25):  # one sigma away
        assert (scales == end).mean() == pytest.approx(_normal_cdf(-1.0), abs=0.025)
    inside = scales[(scales > 0.75) & (scales < 1.25)]
    assert np.quantile(inside, 0.25) == pytest.approx(1 - 0.25 * 0.4307, abs=0.015)  # of a normal cut at one sigma
    assert np.mean([change.flip for change in draws]) == pytest.approx(0.5, abs=0.03)
    gains = np.array([change.gain for change in draws])
    assert 0.6 <= gains.min() < 0.602 and 1.398 < gains.max() <= 1.4
    assert gains.std() == pytest.approx(0.8 / math.sqrt(12), rel=0.03)
    assert abs(np.corrcoef(gains.T)[0, 1]) < 0.05  # each channel by itself
    assert not any(change.flip for change in _draws(PAPER_HAND))
    assert all((change.channels == [0, 1, 2]).all() for change in draws)


def test_the_projects_own_changes() -> None:
    draws = _draws(DEFAULT)
    turns = np.array([change.rotation_deg for change in draws])
    assert (turns == 0).mean() == pytest.approx(0.4, abs=0.03) and np.abs(turns).max() <= 30
    assert turns[turns != 0].std() == pytest.approx(10.0, rel=0.06)
    scales = np.log([change.scale for change in draws])
    assert scales.std() == pytest.approx(0.07, rel=0.05) and abs(scales.mean()) < 0.005
    gains = np.array([change.gain for change in draws])
    assert gains.min() >= 0.63 and gains.max() <= 1.35 * 1.1
    assert np.corrcoef(gains.T)[0, 1] > 0.8  # the light changes more than its colour
    swapped = np.mean([(change.channels != [0, 1, 2]).any() for change in draws])
    assert swapped == pytest.approx(0.15 * 5 / 6, abs=0.02)  # one order of six is the old one
    assert not any(change.flip for change in draws)


def test_none_changes_nothing() -> None:
    for change in _draws(NONE)[:100]:
        assert (change.scale, change.rotation_deg, change.flip) == (1.0, 0.0, False)
        assert (change.gain == 1.0).all() and (change.channels == [0, 1, 2]).all()


def test_the_same_state_gives_the_same_change_and_settings_leave_the_others_alone() -> None:
    first, second = (PAPER_BODY.draw(np.random.default_rng(3)) for _ in range(2))
    assert repr(first) == repr(second)
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    NONE.draw(rng), PAPER_BODY.draw(other)
    assert rng.random() == other.random()


@pytest.mark.parametrize(
    "bad",
    [
        {"flip": 1.5},
        {"rotation_deg": float("nan")},
        {"rotation_limit_deg": 200.0},
        {"upright": -0.1},
        {"scale": -1.0},
        {"scale_limits": (1.2, 0.8)},
        {"scale_limits": (0.0, 2.0)},
        {"gain": (0.5, float("inf"))},
        {"channel_gain": (-1.0, 1.0)},
        {"swap_channels": 2.0},
        {"scale_law": "uniform"},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        dataclasses.replace(DEFAULT, **bad)
