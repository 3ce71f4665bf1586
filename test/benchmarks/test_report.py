"""What is made of the figures: verdicts, tables, a picture."""

import copy
from pathlib import Path
from typing import Any

import cv2
import pytest

from benchmarks.__main__ import lines
from benchmarks.engines import spread_mm
from benchmarks.report import draw
from benchmarks.targets import targets


def contender(mm: float | None, ms: float, ratio: float) -> dict[str, Any]:
    row: dict[str, Any] = {"ms": {1: ms, 4: 3 * ms}, "ratio": {1: ratio, 4: ratio}, "rss_mb": 100.0}
    return row if mm is None else {**row, "mm": mm}


RUN = {
    "offered_per_s": 30,
    "people_per_s": 29.9,
    "frames_in": 600,
    "frames_out": 600,
    "latency_ms_p50": 12.0,
    "latency_ms_p99": 20.0,
    "node_ms": 9.0,
    "share_outside_engine": 0.35,
    "rss_mb": 350.0,
    "rss_growth_mb": 1.0,
    "rss_mb_by_frame": [(26, 349.0), (51, 350.0)],
}
REPORT: dict[str, Any] = {
    "mesh": {"objects_ms": 100.0, "bytes_ms": 0.2, "ratio": 500.0},
    "stages": {
        "640x480": {"crop": 0.3, "infer": 4.0, "place": 0.4},
        "1920x1080": {"crop": 0.9, "infer": 4.0, "place": 0.4},
    },
    "growth": {"ms": {1: 6.0, 8: 33.0}, "ratio": {1: 1.0, 8: 5.5}},
    "node": {"640x480": RUN, "640x480, flooded": {**RUN, "people_per_s": 70.0}},
    "soak": RUN,
    "paper": {
        "gmac": 57.0,
        "spread_mm": 0.9,
        "contenders": {
            "torch eager fp32": contender(0.0, 800, 1.0),
            "openvino fp32": contender(0.002, 500, 1.6),
            "openvino bf16": contender(0.9, 250, 3.2),
            "openvino int8": {"problem": "int8 is not offered"},
            "onnxruntime fp32": contender(0.003, 600, 1.4),
            "tensorrt": {"problem": "not installed"},
        },
    },
}


def verdicts(report: dict[str, Any]) -> dict[str, bool | None]:
    return {target.name: target.met for target in targets(report)}


def test_targets_that_are_met_and_those_that_nothing_speaks_of() -> None:
    found = verdicts(REPORT)
    assert [met for name, met in found.items() if "TensorRT" in name] == [None, None, None]
    assert all(met for name, met in found.items() if "TensorRT" not in name)
    assert verdicts({"machine": {}}) == {}


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (lambda r: r["paper"]["contenders"]["openvino bf16"].update(mm=1.1), "within 1 mm (openvino fp32)"),
        (lambda r: r["paper"]["contenders"]["openvino bf16"]["ratio"].update({1: 2.9}), "within 1 mm (openvino bf16)"),
        (lambda r: r["stages"]["1920x1080"].update(crop=1.1), "slowest step"),
        (lambda r: r["growth"]["ratio"].update({8: 6.1}), "8 people"),
        (lambda r: r["node"]["640x480, flooded"].update(people_per_s=29.0), "people a second"),
        (lambda r: r["node"]["640x480"].update(latency_ms_p99=61.0), "p99"),
        (lambda r: r["soak"].update(rss_growth_mb=11.0), "growth in 10,000"),
    ],
)
def test_a_missed_target_is_called_so(change: Any, missed: str) -> None:
    report = copy.deepcopy(REPORT)
    change(report)
    (line,) = [str(target) for target in targets(report) if target.met is False]
    assert line.startswith("MISSED") and missed in line


def test_tensorrt_s_figures_are_judged_against_eager_on_the_same_gpu() -> None:
    report = copy.deepcopy(REPORT)
    report["paper"]["contenders"] |= {
        "torch eager fp32 cuda": {"ms": {1: 20.0}, "ratio": {1: 40.0}},
        "tensorrt fp16": {"ms": {1: 2.0, 32: 15.0}, "ratio": {1: 400.0}},
    }
    figures = {target.name: target.figure for target in targets(report) if "TensorRT" in target.name}
    assert list(figures.values()) == pytest.approx([2.0, 10.0, 32e3 / 15])


def test_the_report_says_it_all(tmp_path: Path) -> None:
    text = "\n".join(lines(REPORT))
    for word in ("57.00 GMAC", "250.0 ms", "x3.20", "int8 is not offered", "x5.50", "350 MB", "0.900 ms", "ratio 500"):
        assert word in text
    draw(REPORT, tmp_path / "bench.png")
    image = cv2.imread(str(tmp_path / "bench.png"))
    assert image is not None and image.shape[1] > 1000 and image.std() > 10


def test_how_far_answers_lie_apart() -> None:
    import numpy as np

    answers = np.zeros((3, 5, 3))
    answers[2, :, 1] = 0.3
    assert spread_mm(answers) == pytest.approx(200)
