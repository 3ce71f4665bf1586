"""Timing in turns: contenders run one after the other, round by round, so that noise of the machine meets all alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TURN_S = 0.05
"""A turn of quick work holds so many seconds of calls, and its figure is their median."""
MAX_CALLS = 25
SLOW_S = 0.2
"""Work that takes longer needs no call to warm the caches that the contender before it used."""
LEAST_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one call by contender, one figure a round; figures of one round belong together."""

    rounds_ms: Mapping[str, Sequence[float]]

    def median_ms(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.rounds_ms[name])

    def ratio(self, slower: str, faster: str) -> float:
        """How many times longer `slower` takes: the median of the rounds' ratios."""
        return paired_ratio(self.rounds_ms[slower], self.rounds_ms[faster])


def take_turns(work: Mapping[str, Callable[[], object]], rounds: int, limit_s: float = math.inf) -> Times:
    """Time every entry of `work` in each of `rounds`, every other round backwards, after a call to warm up.

    limit_s: no round begins after so many seconds, but the first LEAST_ROUNDS do. Work on a GPU must wait for its end.
    """
    call_s = {name: _warm_up(one) for name, one in work.items()}
    rounds_ms: dict[str, list[float]] = {name: [] for name in work}
    began = time.perf_counter()
    for index in range(rounds):
        if index >= LEAST_ROUNDS and time.perf_counter() - began > limit_s:
            break
        for name in list(work)[:: -1 if index % 2 else 1]:
            rounds_ms[name].append(_turn_ms(work[name], call_s[name]))
    return Times(rounds_ms)


def median_ms(work: Callable[[], object], calls: int) -> float:
    """Median milliseconds of so many calls, after one that warms up."""
    work()
    return statistics.median(_timed_ms(work) for _ in range(calls))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the quotients of what was measured in the same round. Raises ValueError unless both are as long."""
    return statistics.median(above / below for above, below in zip(numerators, denominators, strict=True))


def percentiles(values: Sequence[float], *ranks: float) -> tuple[float, ...]:
    """The values that `ranks` percent of all are below, interpolated. Raises ValueError without values."""
    if not len(values):
        raise ValueError("percentiles of nothing")
    return tuple(float(value) for value in np.percentile(values, ranks))


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line through the points that fits best by least squares. Raises ValueError for fewer than two xs."""
    if len(set(xs)) < 2:
        raise ValueError("a slope takes two different xs")
    return float(np.polyfit(xs, ys, 1)[0])


def _warm_up(work: Callable[[], object]) -> float:
    """Seconds of a call; the first one, which compiles and allocates, counts only where it is slow all the same."""
    seconds = _timed_ms(work) / 1e3
    return seconds if seconds > 5 * SLOW_S else _timed_ms(work) / 1e3


def _turn_ms(work: Callable[[], object], call_s: float) -> float:
    if call_s < SLOW_S:
        work()
    calls = min(MAX_CALLS, max(1, round(TURN_S / call_s)))
    return statistics.median(_timed_ms(work) for _ in range(calls))


def _timed_ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)
