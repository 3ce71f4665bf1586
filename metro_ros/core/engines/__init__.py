"""Inference engines: which are installed, and the one function that opens one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import measure, onnxruntime, openvino, tensorrt
from metro_ros.core.engines.base import Engine, Output, Precision, check_model
from metro_ros.core.errors import EngineError

__all__ = [
    "Engine",
    "EngineInfo",
    "EngineName",
    "Output",
    "Precision",
    "PrecisionWish",
    "available_engines",
    "open_engine",
]

EngineName = Literal["auto", "tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime"]
PrecisionWish = Literal["auto", "fp32", "bf16", "fp16", "int8"]

AUTO_MM = 1.0
"""Precision `auto` takes no variant whose vertices are further off in the mean."""

log = logging.getLogger(__name__)


class _Kind(NamedTuple):
    version: Callable[[], str]
    precisions: Callable[[], tuple[Precision, ...]]
    open: Callable[[Bundle, Precision, int | None], Engine]
    package: str


_KINDS = {
    tensorrt.NAME: _Kind(tensorrt.version, tensorrt.precisions, tensorrt.TensorRtEngine, "tensorrt pycuda"),
    "onnxruntime-cuda": _Kind(
        onnxruntime.version,
        onnxruntime.OnnxRuntimeCudaEngine.precisions,
        onnxruntime.OnnxRuntimeCudaEngine,
        "onnxruntime-gpu",
    ),
    openvino.NAME: _Kind(openvino.version, openvino.precisions, openvino.OpenVinoEngine, "openvino"),
    "onnxruntime": _Kind(
        onnxruntime.version, onnxruntime.OnnxRuntimeEngine.precisions, onnxruntime.OnnxRuntimeEngine, "onnxruntime"
    ),
}


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """One engine on this machine. version: None when it cannot be used, with `problem` saying why.

    package: what pip installs for it.
    """

    name: str
    package: str
    version: str | None
    precisions: tuple[Precision, ...]
    problem: str | None


class _Candidate(NamedTuple):
    name: str
    version: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


def available_engines() -> tuple[EngineInfo, ...]:
    """Every engine that metro_ros knows, installed or not, the usually faster first."""
    return tuple(_inspect(name) for name in _KINDS)


def open_engine(
    bundle: Bundle, engine: EngineName = "auto", precision: PrecisionWish = "fp32", threads: int | None = None
) -> Engine:
    """Load the bundle's network. threads: None for the engine's own choice, one per core.

    Engine `auto` times every installed engine on this machine and takes the fastest; precision `auto` does so among
    fp32 and the bundle's variants that are off by no more than AUTO_MM. What was measured is kept for the next start.
    Raises EngineError when none can do what is asked, BundleError when the network does not fit its manifest or is not
    finite.
    """
    if engine not in get_args(EngineName):
        raise EngineError("unknown engine", expected=" or ".join(get_args(EngineName)), got=repr(engine))
    if precision not in get_args(PrecisionWish):
        raise EngineError("unknown precision", expected=" or ".join(get_args(PrecisionWish)), got=repr(precision))
    if threads is not None and threads < 1:
        raise EngineError("threads", expected="1 or more, or none given", got=threads)
    if engine != "auto" and precision != "auto":
        return _open(engine, bundle, precision, threads)
    infos = [_inspect(name) for name in (_KINDS if engine == "auto" else (engine,))]
    wanted = _offered(bundle) if precision == "auto" else (precision,)
    candidates = [
        _Candidate(info.name, info.version, one)
        for info in infos
        if info.version is not None
        for one in wanted
        if one in info.precisions
    ]
    if not candidates:
        raise EngineError(
            f"no engine can run this model in {precision}",
            got="; ".join(f"{info.name}: {info.problem or 'has only ' + ', '.join(info.precisions)}" for info in infos),
            remedy="ask for fp32, which every engine has; metro-ros doctor lists the engines",
        )
    return _fastest(candidates, bundle, threads)


def _inspect(name: str) -> EngineInfo:
    kind = _KINDS[name]
    try:
        return EngineInfo(name, kind.package, kind.version(), kind.precisions(), None)
    except ImportError as error:
        return EngineInfo(name, kind.package, None, (), f"not installed ({error})")
    except Exception as error:  # a half-broken installation must not take the other engines down with it
        return EngineInfo(name, kind.package, None, (), f"installed, but fails: {error}")


def _offered(bundle: Bundle) -> tuple[Precision, ...]:
    """The precisions that are as good as fp32 for all that a person can see."""
    variants = bundle.manifest.variants
    close: list[Precision] = [
        one for one in get_args(Precision) if one in variants and variants[one].mean_vertex_mm <= AUTO_MM
    ]
    return ("fp32", *close)


def _open(name: str, bundle: Bundle, precision: Precision, threads: int | None) -> Engine:
    info = _inspect(name)
    if info.version is None:
        raise EngineError(
            f"engine {name} is {info.problem}",
            remedy=f"install it with pip install {_KINDS[name].package}, or choose another engine",
        )
    if precision not in info.precisions:
        raise EngineError(
            f"{name} on this machine",
            expected=" or ".join(info.precisions),
            got=precision,
            remedy="ask for fp32, which every engine has",
        )
    engine = _KINDS[name].open(bundle, precision, threads)
    try:
        check_model(engine, bundle)
    except BaseException:
        engine.close()
        raise
    return engine


def _fastest(candidates: list[_Candidate], bundle: Bundle, threads: int | None) -> Engine:
    """Open the candidate with the shortest median time for one crop, by an earlier measurement or a new one."""
    if len(candidates) == 1:
        log.info("engine %s: the only one here that has what is asked", candidates[0])
        return _open(candidates[0].name, bundle, candidates[0].precision, threads)
    parts = ("engine", candidates, threads, sorted(bundle.manifest.sha256.items()))
    known = measure.remembered(*parts)
    if known:
        by_name = {str(candidate): candidate for candidate in candidates}
        best = by_name.get(min(known, key=lambda name: known[name]))
        if best is not None:
            try:
                engine = _open(best.name, bundle, best.precision, threads)
            except EngineError as error:
                log.warning("engine %s was the fastest here, but fails now: %s", best, error)
            else:
                log.info("engine %s: the fastest here, measured earlier (%s)", best, _told(known))
                return engine
    return _measured(candidates, bundle, threads, parts)


def _measured(candidates: list[_Candidate], bundle: Bundle, threads: int | None, parts: tuple[object, ...]) -> Engine:
    """Open and time all candidates, and keep the best one open."""
    opened: list[Engine] = []
    problems: list[EngineError] = []
    for candidate in candidates:
        try:
            opened.append(_open(candidate.name, bundle, candidate.precision, threads))
        except EngineError as error:
            problems.append(error)
    took = dict(zip(opened, measure.median_ms(opened), strict=True))
    median_ms = {engine: ms for engine, ms in took.items() if not isinstance(ms, EngineError)}
    problems += [error for error in took.values() if isinstance(error, EngineError)]
    for problem in problems:
        log.warning("%s", problem)
    best = min(median_ms, key=lambda engine: median_ms[engine], default=None)
    for engine in opened:
        if engine is not best:
            engine.close()
    if best is None:
        raise EngineError("no engine can run this model", got="; ".join(map(str, problems)))
    figures = {f"{engine.name} {engine.precision}": ms for engine, ms in median_ms.items()}
    measure.remember(figures, *parts)
    log.info("engine %s %s: the fastest here (%s)", best.name, best.precision, _told(figures))
    return best


def _told(median_ms: dict[str, float]) -> str:
    return (
        ", ".join(f"{name} {ms:.1f} ms" for name, ms in sorted(median_ms.items(), key=lambda item: item[1])) + " a crop"
    )
