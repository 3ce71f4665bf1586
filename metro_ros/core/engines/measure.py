"""How long an engine takes on this machine, by number of crops, and where that is kept."""

import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import cache, machine
from metro_ros.core.engines.base import Engine
from metro_ros.core.errors import EngineError

BATCHES = (1, 2, 4, 8, 16)
FOLDER = "measured"
WORTH_WAITING = 1.05
"""The largest batch is the smallest one that costs no more than this times the cheapest, by crop."""

log = logging.getLogger(__name__)


def median_ms(
    engines: Sequence[Engine], crops: int = 1, rounds: int = 9, limit_s: float = 3.0
) -> list[float | EngineError]:
    """Median milliseconds that each engine takes for so many crops, or how it failed.

    They take turns, so that whatever else the machine does meets all alike. A round before the first only warms up; no
    round begins after `limit_s` seconds a contender, but one does.
    """
    batches = {size: np.full((crops, size, size, 3), 127, np.uint8) for size in {e.crop_size for e in engines}}
    times_ms: list[list[float]] = [[] for _ in engines]
    failed: dict[int, EngineError] = {}
    started = time.perf_counter()
    for index in range(1 + rounds):
        if index > 1 and time.perf_counter() - started > limit_s * len(engines):
            break
        for place, engine in enumerate(engines):
            if place in failed:
                continue
            before = time.perf_counter()
            try:
                engine.infer(batches[engine.crop_size])
            except EngineError as error:
                failed[place] = error
            if index > 0:
                times_ms[place].append((time.perf_counter() - before) * 1e3)
    return [failed.get(place) or statistics.median(times) for place, times in enumerate(times_ms)]


def best_batch(engine: Engine, bundle: Bundle, limit_s: float = 1.0) -> int:
    """The most crops that are worth one call: 1, 2, 4, 8 or 16. Measured once per machine, engine and model.

    A batch that would take longer than `limit_s` is not tried. Raises EngineError when the engine fails on one crop.
    """
    parts = ("batch", engine.name, engine.version, engine.precision, engine.threads, bundle.manifest.sha256)
    known = remembered(*parts)
    costs = {int(count): float(ms) for count, ms in known.items()} if known else {}
    if sorted(costs) != sorted(BATCHES[: len(costs)]) or not costs:
        costs = {}
        for count in BATCHES:
            if costs and count * min(costs.values()) > 1e3 * limit_s:
                break
            (took,) = median_ms([engine], count, rounds=5)
            if isinstance(took, EngineError):
                if not costs:
                    raise took
                break  # no memory for so many
            costs[count] = took / count
        remember(costs, *parts)
    cheapest = min(costs.values())
    best = next(count for count in sorted(costs) if costs[count] <= WORTH_WAITING * cheapest)
    told = ", ".join(f"{ms:.1f} ms a crop by {count}" for count, ms in sorted(costs.items()))
    log.info("engine %s %s: at most %d crops a call (%s)", engine.name, engine.precision, best, told)
    return best


def remember(figures: Mapping[Any, Any], *parts: object) -> None:
    """Keep figures for the next start. parts: all that they depend on besides the processor."""
    cache.store(_path(parts), json.dumps(figures).encode())


def remembered(*parts: object) -> dict[str, float] | None:
    """The numbers that were kept for these parts, or None."""
    content = cache.recall(_path(parts))
    if content is None:
        return None
    try:
        figures = json.loads(content)
    except ValueError:
        return None
    sound = isinstance(figures, dict) and all(isinstance(value, int | float) for value in figures.values())
    return figures if sound else None


def _path(parts: tuple[object, ...]) -> Path:
    return cache.cache_root() / FOLDER / f"{machine.key(*parts)}.json"
