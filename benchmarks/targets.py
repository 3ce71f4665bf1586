"""What the figures should be, and whether they are."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.stages import INFER

CLOSE_MM, EXACT_MM = 1.0, 0.01
NO_GPU = "no NVIDIA GPU here"


class Target(NamedTuple):
    """A figure and its bound. figure: None when it was not measured, and `why` says why not."""

    name: str
    bound: float
    at_least: bool
    figure: float | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        """None when it was not measured."""
        if self.figure is None:
            return None
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        figure = self.why if self.figure is None else f"{self.figure:.4g}"
        return f"{verdict:<12}  {self.name}: {'at least' if self.at_least else 'at most'} {self.bound:g}, got {figure}"


def targets(report: Mapping[str, Any]) -> list[Target]:
    """All targets that the sections in the report can speak of."""
    found: list[Target] = []
    if "paper" in report:
        found += _paper(report["paper"]["contenders"])
        found += _paper_on_gpu(report["paper"]["contenders"])
    if "stages" in report:
        host = [ms for steps in report["stages"].values() for name, ms in steps.items() if name != INFER]
        found.append(Target("slowest step outside of the engine, ms", 1, False, max(host)))
    if "growth" in report:
        found.append(Target("8 people, times one person", 6, False, report["growth"]["ratio"][8]))
    if "node" in report:
        found += _node(report["node"])
    if "soak" in report:
        soak = report["soak"]
        found.append(Target("node's memory over the long run, MB", 600, False, soak["rss_mb"]))
        found.append(Target("its growth in 10,000 frames, MB", 10, False, soak["rss_growth_mb"], "too few frames"))
    return found


def _paper(contenders: Mapping[str, Any]) -> Iterator[Target]:
    rows = [(name, row) for name, row in contenders.items() if "mm" in row and _on_cpu(name)]
    close = [(row["ratio"][1], name) for name, row in rows if row["mm"] <= CLOSE_MM]
    exact = [(row["ratio"][1], name) for name, row in rows if row["mm"] <= EXACT_MM and name.endswith("fp32")]
    for wanted, bound, limit in ((close, 3.0, CLOSE_MM), (exact, 1.3, EXACT_MM)):
        ratio, name = max(wanted)
        yield Target(f"paper's body, best CPU engine within {limit:g} mm ({name}), times eager", bound, True, ratio)


def _paper_on_gpu(contenders: Mapping[str, Any]) -> Iterator[Target]:
    ms = contenders.get("tensorrt fp16", {}).get("ms", {})
    eager = contenders.get("torch eager fp32 cuda", {}).get("ms", {})
    why = "" if ms else contenders.get("tensorrt fp16", contenders.get("tensorrt", {})).get("problem", NO_GPU)
    one, many = ms.get(1), ms.get(32)
    ratio = eager[1] / one if one and eager else None
    per_s = 32e3 / many if many else None
    body = "paper's body, TensorRT fp16"
    yield Target(f"{body}, one crop, ms", 3, False, one, why)
    yield Target(f"{body}, times eager fp32", 8, True, ratio, why)
    yield Target(f"{body}, 32 crops, people a second", 2000, True, per_s, why)


def _node(runs: Mapping[str, Any]) -> Iterator[Target]:
    steady, flooded = runs["640x480"], runs["640x480, flooded"]
    yield Target("node at 640x480, people a second", 30, True, flooded["people_per_s"])
    yield Target("node at 640x480 and 30 Hz, latency p50, ms", 35, False, steady["latency_ms_p50"])
    yield Target("node at 640x480 and 30 Hz, latency p99, ms", 60, False, steady["latency_ms_p99"])
    yield Target("share of the frame outside of the engine, %", 40, False, 100 * steady["share_outside_engine"])


def _on_cpu(name: str) -> bool:
    return not name.startswith("torch") and "cuda" not in name and "tensorrt" not in name
