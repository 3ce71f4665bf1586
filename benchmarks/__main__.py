"""`make bench`: engines against torch eager, the node end to end and step by step, growth with people, memory.

One run writes bench.json and bench.png into --output, prints the tables, and says which targets are met. Contenders
take turns, so that whatever else the machine does meets all alike: believe the ratios.
"""

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import report as shown
from benchmarks.targets import targets
from metro_ros.core.engines import machine
from metro_ros.core.errors import MetroError

SIZES = ((640, 480), (1920, 1080))
FLOOD = 90
"""Images a second that are more than the node can answer."""
SOAK, SOAK_RATE = 10_000, 60


class Sections:
    """What can be measured; each adds one entry to the report."""

    def __init__(self, output: Path, quick: bool) -> None:
        self._output = output
        self._quick = quick

    def paper(self) -> dict[str, Any]:
        """The paper's body by every engine."""
        return self._engines("paper")

    def default(self) -> dict[str, Any]:
        """The default model by every engine."""
        return self._engines("default")

    def stages(self) -> dict[str, Any]:
        """A frame step by step, by image size."""
        from benchmarks.stages import bench_stages

        return {f"{width}x{height}": bench_stages(width, height) for width, height in SIZES}

    def growth(self) -> dict[str, Any]:
        """A frame by the number of people."""
        from benchmarks.stages import bench_growth

        return bench_growth()

    def mesh(self) -> dict[str, Any]:
        """A mesh by objects and by bytes."""
        from benchmarks.messages import bench_mesh

        return bench_mesh()

    def node(self) -> dict[str, Any]:
        """The node end to end, at a camera's rate and flooded."""
        seconds = 5 if self._quick else 20
        return {
            f"{width}x{height}{', flooded' * (rate == FLOOD)}": self._node(width, height, rate, rate * seconds)
            for width, height in SIZES
            for rate in (30, FLOOD)
        }

    def soak(self) -> dict[str, Any]:
        """The node's memory over many frames."""
        return self._node(*SIZES[0], SOAK_RATE, 500 if self._quick else SOAK)

    def _engines(self, name: str) -> dict[str, Any]:
        from benchmarks.engines import bench_engines

        return bench_engines(name, self._quick)

    def _node(self, width: int, height: int, rate: int, frames: int) -> dict[str, Any]:
        from benchmarks.node import bench_node

        return bench_node(width, height, rate, frames, self._output / "logs")


NAMES = ("mesh", "stages", "growth", "node", "soak", "default", "paper")


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The whole report as text."""
    if "mesh" in report:
        mesh = report["mesh"]
        told = f"{mesh['objects_ms']:.1f} ms by objects, {mesh['bytes_ms']:.2f} ms by bytes, ratio {mesh['ratio']:.0f}"
        yield f"publishing a mesh of 13,776 faces: {told}, bytes identical"
    for name, table in TABLES.items():
        if name in report:
            yield from table(report[name])
    if "soak" in report:
        soak = report["soak"]
        growth = "too few to tell" if soak["rss_growth_mb"] is None else f"{soak['rss_growth_mb']:+.1f} MB in 10,000"
        yield f"{soak['frames_out']} frames answered of {soak['frames_in']}: {soak['rss_mb']:.0f} MB at most, {growth}"
    yield from map(str, targets(report))


TABLES: dict[str, Callable[[Any], Iterator[str]]] = {
    "paper": lambda section: shown.engines_table("paper", section),
    "default": lambda section: shown.engines_table("default", section),
    "stages": shown.stages_table,
    "growth": shown.growth_table,
    "node": shown.node_table,
}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 whether targets are met or not, 2 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="SECTION", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, frames and batches: to see that it works")
    parser.add_argument("--output", type=Path, default=Path("bench_output"), help="folder (%(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    options.output.mkdir(parents=True, exist_ok=True)
    sections = Sections(options.output, options.quick)
    report: dict[str, Any] = {
        "machine": {"processor": machine.processor(), "cores": machine.cores(), "python": platform.python_version()},
        "quick": options.quick,
    }
    for name in [one for one in NAMES if one in options.only]:
        began = time.monotonic()
        print(f"{name}: ", end="", flush=True)
        try:
            report[name] = getattr(sections, name)()
        except MetroError as error:
            print(f"\nbench: {error}", file=sys.stderr)
            return 2
        print(f"{time.monotonic() - began:.0f} s", flush=True)
        (options.output / "bench.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shown.draw(report, options.output / "bench.png")
    print("\n".join(lines(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
