"""Timing in turns: order, pairing, and the small statistics."""

import time

import pytest

from benchmarks.turns import LEAST_ROUNDS, Times, percentiles, slope, take_turns


def test_every_round_times_everyone_once_and_every_other_backwards() -> None:
    calls: list[str] = []

    def work(name: str) -> None:
        calls.append(name)
        time.sleep(0.21)  # slow enough for one call a turn, and none to warm up again

    times = take_turns({name: lambda name=name: work(name) for name in "ab"}, rounds=3)
    assert "".join(calls[4:]) == "abbaab", "after two calls each to warm up"
    assert [len(rounds) for rounds in times.rounds_ms.values()] == [3, 3]
    assert all(ms > 200 for rounds in times.rounds_ms.values() for ms in rounds)


def test_no_round_begins_late_but_some_are_always_there() -> None:
    times = take_turns({"a": lambda: time.sleep(0.05)}, rounds=50, limit_s=0)
    assert len(times.rounds_ms["a"]) == LEAST_ROUNDS


def test_a_ratio_is_that_of_the_rounds() -> None:
    noisy = Times({"slow": [30.0, 300.0, 33.0], "fast": [10.0, 100.0, 11.0]})
    assert noisy.ratio("slow", "fast") == pytest.approx(3)
    assert noisy.median_ms("slow") == 33


def test_percentiles_and_slopes() -> None:
    assert percentiles([1.0, 2.0, 3.0], 50, 100) == (2, 3)
    assert slope([0, 1, 2], [5, 7, 9]) == pytest.approx(2)
    with pytest.raises(ValueError, match="nothing"):
        percentiles([], 50)
    with pytest.raises(ValueError, match="two different"):
        slope([1, 1], [2, 3])
