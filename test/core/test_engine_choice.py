"""`auto`: what it measures, what it keeps for the next start, and what it does when that is of no use any more."""

import logging
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import make_tiny_bundle

from metro_ros.core.bundle import Bundle, add_variant
from metro_ros.core.engines import Engine, available_engines, measure, onnxruntime, open_engine, openvino
from metro_ros.core.engines.measure import best_batch
from metro_ros.core.errors import EngineError

CLOSE = {"mean_vertex_mm": 0.2, "max_vertex_mm": 2.0, "joints_mm": 0.2}
COARSE = {"mean_vertex_mm": 1.5, "max_vertex_mm": 9.0, "joints_mm": 1.5}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, logger="metro_ros.core.engines")
    return tmp_path / "cache"


def take_ms(monkeypatch: pytest.MonkeyPatch, by_name: dict[str, float]) -> list[str]:
    """Pretend that engines take so long; what was timed is in the list."""
    timed: list[str] = []

    def median_ms(engines: list[Engine]) -> list[float]:
        timed.extend(f"{engine.name} {engine.precision}" for engine in engines)
        return [by_name[engine.name] for engine in engines]

    monkeypatch.setattr(measure, "median_ms", median_ms)
    return timed


def test_it_says_what_it_measured_and_picked(tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_engine(tiny_bundle, threads=1)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"engine {engine.name} fp32: the fastest here (")
    assert "openvino fp32" in message and "onnxruntime fp32" in message and "ms a crop" in message


@pytest.mark.parametrize("fast", ["openvino", "onnxruntime"])
def test_it_takes_the_fastest_and_keeps_that_in_mind(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fast: str
) -> None:
    timed = take_ms(monkeypatch, {"openvino": 2.0, "onnxruntime": 2.0} | {fast: 1.0})
    assert open_engine(tiny_bundle, threads=1).name == fast
    assert sorted(timed) == ["onnxruntime fp32", "openvino fp32"]
    assert open_engine(tiny_bundle, threads=1).name == fast
    assert len(timed) == 2, "measured again"
    assert f"engine {fast} fp32: the fastest here, measured earlier ({fast} fp32 1.0 ms," in caplog.text
    open_engine(tiny_bundle, threads=2)
    assert len(timed) == 4, "other threads are another question"


def test_another_model_is_another_question(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = take_ms(monkeypatch, {"openvino": 1.0, "onnxruntime": 2.0})
    open_engine(tiny_bundle, threads=1)
    open_engine(make_tiny_bundle(tmp_path / "other", confidence=False), threads=1)
    assert len(timed) == 4


def test_a_winner_that_fails_later_is_replaced(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take_ms(monkeypatch, {"openvino": 1.0, "onnxruntime": 2.0})
    assert open_engine(tiny_bundle, threads=1).name == "openvino"

    def broken(self: object, single: bool) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(openvino.OpenVinoEngine, "_request", broken)
    assert open_engine(tiny_bundle, threads=1).name == "onnxruntime"
    assert "openvino fp32 was the fastest here, but fails now: out of memory" in caplog.text


def test_an_engine_that_fails_while_it_is_timed_is_passed_over(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = onnxruntime.OnnxRuntimeEngine._run

    def fails_when_timed(self: onnxruntime.OnnxRuntimeEngine, crops: object) -> object:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 1:
            raise EngineError("lost the device")
        return real(self, crops)  # type: ignore[arg-type]

    monkeypatch.setattr(onnxruntime.OnnxRuntimeEngine, "_run", fails_when_timed)
    assert open_engine(tiny_bundle, threads=1).name == "openvino"
    assert "lost the device" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 20])
def test_a_damaged_measurement_is_made_again(
    tiny_bundle: Bundle, fresh: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    timed = take_ms(monkeypatch, {"openvino": 1.0, "onnxruntime": 2.0})
    open_engine(tiny_bundle, threads=1)
    (kept,) = (fresh / "measured").iterdir()
    kept.write_bytes(damage)
    assert open_engine(tiny_bundle, threads=1).name == "openvino"
    assert len(timed) == 4


def test_precision_auto_takes_only_variants_that_are_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    model = bundle.model_path.read_bytes()
    timed = take_ms(monkeypatch, {"openvino": 1.0, "onnxruntime": 2.0})
    open_engine(add_variant(bundle, "int8", model, **COARSE), precision="auto", threads=1)
    assert set(timed) == {"openvino fp32", "onnxruntime fp32"}
    timed.clear()
    engine = open_engine(add_variant(bundle, "int8", model, **CLOSE), precision="auto", threads=1)
    assert set(timed) == {
        f"{name} {precision}" for name in ("openvino", "onnxruntime") for precision in ("fp32", "int8")
    }
    assert engine.name == "openvino"


def test_what_no_engine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "CAPABILITIES", {"fp32": "FP32"})  # as on a processor without bf16
    bundle = make_tiny_bundle(tmp_path / "tiny")
    bundle = add_variant(bundle, "bf16", bundle.model_path.read_bytes(), **CLOSE)
    with pytest.raises(EngineError, match=r"no engine can run this model in bf16.*openvino: has only fp32") as caught:
        open_engine(bundle, precision="bf16")
    assert "\n" not in str(caught.value)
    assert open_engine(bundle, precision="auto", threads=1).precision == "fp32"


def test_cuda_is_named_when_it_is_not_there() -> None:
    (info,) = [info for info in available_engines() if info.name == "onnxruntime-cuda"]
    assert info.version or "onnxruntime-gpu" in (info.problem or "")


def test_the_largest_batch_is_where_more_no_longer_pays(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cost_ms = {1: 10.0, 2: 14.0, 4: 20.0, 8: 38.8, 16: 80.0}  # by crop: 10, 7, 5, 4.85, 5
    timed: list[int] = []

    def median_ms(engines: list[Engine], crops: int, rounds: int) -> list[float]:
        timed.append(crops)
        return [cost_ms[crops]]

    monkeypatch.setattr(measure, "median_ms", median_ms)
    engine = open_engine(tiny_bundle, "onnxruntime", threads=1)
    assert best_batch(engine, tiny_bundle) == 4
    assert "at most 4 crops a call (10.0 ms a crop by 1, 7.0 ms a crop by 2" in caplog.text
    assert best_batch(engine, tiny_bundle) == 4
    assert timed == [1, 2, 4, 8, 16], "measured once"


def test_a_batch_that_does_not_fit_is_not_chosen(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.OnnxRuntimeEngine._run

    def small_memory(self: onnxruntime.OnnxRuntimeEngine, crops: np.ndarray) -> object:
        if len(crops) > 2:
            raise EngineError("out of memory")
        return real(self, crops)

    monkeypatch.setattr(onnxruntime.OnnxRuntimeEngine, "_run", small_memory)
    assert best_batch(open_engine(tiny_bundle, "onnxruntime", threads=1), tiny_bundle) <= 2


def test_engines_are_timed_in_turns(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    engines = [open_engine(tiny_bundle, name, threads=1) for name in ("openvino", "onnxruntime")]
    for engine in engines:
        real = engine._run
        monkeypatch.setattr(
            engine, "_run", lambda crops, real=real, name=engine.name: order.append(name) or real(crops)
        )
    assert all(isinstance(ms, float) and ms > 0 for ms in measure.median_ms(engines, rounds=3))
    assert order == ["openvino", "onnxruntime"] * 4


def test_a_batch_that_takes_too_long_is_not_tried(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def median_ms(engines: list[Engine], crops: int, rounds: int) -> list[float]:
        timed.append(crops)
        return [300.0 * crops]

    monkeypatch.setattr(measure, "median_ms", median_ms)
    engine = open_engine(tiny_bundle, "onnxruntime", threads=1)
    assert best_batch(engine, tiny_bundle, limit_s=1.0) == 1
    assert timed == [1, 2]
