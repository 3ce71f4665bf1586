"""Inference engines: which are installed, and the one function that opens one."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import onnxruntime, openvino
from metro_ros.core.engines.base import Engine, Output, Precision, check_model
from metro_ros.core.errors import EngineError

__all__ = ["Engine", "EngineInfo", "EngineName", "Output", "Precision", "available_engines", "open_engine"]

EngineName = Literal["auto", "openvino", "onnxruntime"]

log = logging.getLogger(__name__)

_MODULES = {module.NAME: module for module in (openvino, onnxruntime)}
_CLASSES: dict[str, Callable[[Bundle, Precision, int | None], Engine]] = {
    openvino.NAME: openvino.OpenVinoEngine,
    onnxruntime.NAME: onnxruntime.OnnxRuntimeEngine,
}


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """One engine on this machine. version: None when it cannot be used, with `problem` saying why."""

    name: str
    version: str | None
    precisions: tuple[Precision, ...]
    problem: str | None


def available_engines() -> tuple[EngineInfo, ...]:
    """Every engine that metro_ros knows, installed or not, the usually faster first."""
    return tuple(_inspect(name) for name in _MODULES)


def open_engine(
    bundle: Bundle, engine: EngineName = "auto", precision: Precision = "fp32", threads: int | None = None
) -> Engine:
    """Load the bundle's network. threads: None for the engine's own choice, one per core.

    `auto` opens every installed engine that has the precision, times each on this machine and keeps the fastest. Raises
    EngineError when none can do what is asked, BundleError when the network does not fit its manifest or is not finite.
    """
    if engine not in get_args(EngineName):
        raise EngineError("unknown engine", expected=" or ".join(get_args(EngineName)), got=repr(engine))
    if precision not in get_args(Precision):
        raise EngineError("unknown precision", expected=" or ".join(get_args(Precision)), got=repr(precision))
    if threads is not None and threads < 1:
        raise EngineError("threads", expected="1 or more, or none given", got=threads)
    if engine != "auto":
        return _open(engine, bundle, precision, threads)
    opened, problems = [], []
    for name in _MODULES:
        try:
            opened.append(_open(name, bundle, precision, threads))
        except EngineError as error:
            problems.append(str(error))
    if not opened:
        raise EngineError(f"no engine can run this model in {precision}", got="; ".join(problems))
    return _fastest(opened, bundle)


def _inspect(name: str) -> EngineInfo:
    module = _MODULES[name]
    try:
        return EngineInfo(name, module.version(), module.precisions(), None)
    except ImportError as error:
        return EngineInfo(name, None, (), f"not installed ({error})")
    except Exception as error:  # a half-broken installation must not take the other engine down with it
        return EngineInfo(name, None, (), f"installed, but fails: {error}")


def _open(name: str, bundle: Bundle, precision: Precision, threads: int | None) -> Engine:
    info = _inspect(name)
    if info.version is None:
        raise EngineError(
            f"engine {name} is {info.problem}", remedy=f"install it with pip install {name}, or choose another engine"
        )
    if precision not in info.precisions:
        raise EngineError(
            f"{name} on this processor",
            expected=" or ".join(info.precisions),
            got=precision,
            remedy="ask for fp32, which every engine has",
        )
    engine = _CLASSES[name](bundle, precision, threads)
    check_model(engine, bundle)
    return engine


def _fastest(engines: list[Engine], bundle: Bundle) -> Engine:
    """Keep the engine with the shortest median time for one crop, and close the others."""
    if len(engines) == 1:
        log.info("engine %s: the only one that is installed and has %s", engines[0].name, engines[0].precision)
        return engines[0]
    size = bundle.manifest.crop.size
    crop = np.full((1, size, size, 3), 127, np.uint8)
    median_ms = {engine.name: _median_ms(engine, crop) for engine in engines}
    best = min(engines, key=lambda engine: median_ms[engine.name])
    for engine in engines:
        if engine is not best:
            engine.close()
    measured = ", ".join(f"{name} {ms:.1f} ms" for name, ms in median_ms.items())
    log.info("engine %s: the fastest here in %s (%s a crop)", best.name, best.precision, measured)
    return best


def _median_ms(engine: Engine, crop: np.ndarray, runs: int = 9, warm_up: int = 2, limit_s: float = 3.0) -> float:
    """Median milliseconds of up to `runs` inferences after the warm-up, stopping early where one takes long."""
    times_ms: list[float] = []
    started = time.perf_counter()
    for run in range(warm_up + runs):
        before = time.perf_counter()
        engine.infer(crop)
        after = time.perf_counter()
        if run >= warm_up:
            times_ms.append((after - before) * 1e3)
            if after - started > limit_s:
                break
    return statistics.median(times_ms)
