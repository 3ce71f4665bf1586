"""`python -m benchmarks.timed_node REPORT.json ROS-ARGUMENTS…`: the node itself, with a watch on it.

At its end it writes, for each frame: milliseconds from arrival to publication, those of them in the networks, and
the memory that it held.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.memory import resident_mb
from metro_ros.core.detect import Detector
from metro_ros.core.engines import Engine
from metro_ros.ros import feed, node

Answer = TypeVar("Answer")

EVERY = 25
"""Frames between two looks at the memory."""


class Watch:
    """Lists that grow by one a frame."""

    def __init__(self) -> None:
        self.frame_ms: list[float] = []
        self.engine_ms: list[float] = []
        self.rss_mb: list[tuple[int, float]] = []
        self._in_engine_ms = 0.0

    def open_engine(self, *arguments: Any) -> Engine:
        """The node's engine, each call of it timed."""
        engine = open_engine(*arguments)
        engine.infer = self._timed(engine.infer)  # type: ignore[method-assign, assignment]
        return engine

    def open_detector(self, *arguments: Any, **options: Any) -> Detector | None:
        """The node's detector, each call of it timed: a network's time, too."""
        detector = open_detector(*arguments, **options)
        if detector is not None:
            detector.detect = self._timed(detector.detect)  # type: ignore[method-assign, assignment]
        return detector

    def _timed(self, ask: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
        def timed(images: Any) -> Answer:
            began = time.perf_counter()
            try:
                return ask(images)
            finally:
                self._in_engine_ms += 1e3 * (time.perf_counter() - began)

        return timed

    def add_latency(self, statistics: feed.Statistics, latency_ms: float) -> None:
        """Note a frame that the node has just published."""
        add_latency(statistics, latency_ms)
        self.frame_ms.append(latency_ms)
        self.engine_ms.append(self._in_engine_ms)
        self._in_engine_ms = 0.0
        if len(self.frame_ms) % EVERY == 1:
            self.rss_mb.append((len(self.frame_ms), resident_mb()))


open_engine, open_detector = node.open_engine, node.open_detector
add_latency = feed.Statistics.add_latency


def main() -> int:
    """Run the node until it is interrupted; returns its exit code."""
    report, watch = Path(sys.argv[1]), Watch()
    node.open_engine = watch.open_engine  # type: ignore[assignment]
    node.open_detector = watch.open_detector
    feed.Statistics.add_latency = lambda self, latency_ms: watch.add_latency(self, latency_ms)  # type: ignore
    code = node.main(sys.argv[2:])
    report.write_text(
        json.dumps({"frame_ms": watch.frame_ms, "engine_ms": watch.engine_ms, "rss_mb": watch.rss_mb}), encoding="utf-8"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
