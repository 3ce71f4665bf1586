"""ONNX Runtime: on the CPU it runs everywhere, and on an NVIDIA GPU where its CUDA provider is installed."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import cache, machine
from metro_ros.core.engines.base import OPTIONAL_NAMES, OUTPUT_NAMES, Engine, Output, Precision, missing_output
from metro_ros.core.errors import EngineError, one_line

LIBRARY = "onnxruntime"

log = logging.getLogger(__name__)


def version() -> str:
    """Version of the library. Raises ImportError when it is not installed."""
    import onnxruntime

    return onnxruntime.__version__


def session_options(threads: int | None) -> Any:
    """Options of a session that shares the processor. threads: of its pool; None for as many as there are cores.

    By default the pool spins for a while after every run, on the cores that the next network, another process or the
    network that is timed beside it would need. Raises ImportError when the library is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal; what it logs as an error, it raises too
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRuntimeEngine(Engine):
    """A session with one thread pool of `threads`, or as many as there are cores.

    The graph as the library optimised it is kept in the cache: the next start need not do that again.
    """

    name = LIBRARY
    provider = "CPUExecutionProvider"
    provider_options: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """What this machine can compute in."""
        return ("fp32", "int8")

    def __init__(self, bundle: Bundle, precision: Precision, threads: int | None) -> None:
        """Raises ImportError, EngineError when the model cannot be loaded, BundleError when its outputs are others."""
        super().__init__(bundle, precision, threads, version())
        self._file = bundle.model_file(precision)
        digest = bundle.manifest.sha256[self._file.name]
        self._cached = cache.cache_root() / LIBRARY / f"{machine.key(self.version, digest, self.provider)}.onnx"
        self._session = self._recall() or self._optimise()
        if self.provider not in self._session.get_providers():  # it falls back to the CPU without an exception
            raise EngineError(
                f"{self.name} cannot use the GPU",
                got="CUDA or cuDNN do not load",
                remedy="check nvidia-smi and the CUDA that this onnxruntime-gpu wants, or choose another engine",
            )
        names = [output.name for output in self._session.get_outputs()]
        if not set(OUTPUT_NAMES) <= set(names):
            raise missing_output(bundle, names)
        self._outputs = [*OUTPUT_NAMES, *(name for name in names if name in OPTIONAL_NAMES)]
        self._input = self._session.get_inputs()[0].name

    def _start(self, model: str | bytes, options: Any) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(model, options, providers=[(self.provider, dict(self.provider_options))])

    def _recall(self) -> Any:
        """A session of the graph that an earlier start optimised, or None."""
        import onnxruntime

        optimised = cache.recall(self._cached)
        if optimised is None:
            return None
        options = session_options(self.threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return self._start(optimised, options)
        except Exception as error:  # its own exception types share no public base
            log.warning(
                "%s cannot load the graph that it optimised earlier (%s); optimising again", self.name, one_line(error)
            )
            return None

    def _optimise(self) -> Any:
        """A session of the bundle's model, and its graph into the cache where the disk allows."""
        try:
            with tempfile.TemporaryDirectory() as scratch:
                optimised = Path(scratch) / "optimised.onnx"
                options = session_options(self.threads)
                options.optimized_model_filepath = str(optimised)
                session = self._start(str(self._file), options)
                cache.store(self._cached, optimised.read_bytes())
                return session
        except Exception:  # a full disk, or the model itself: the next attempt tells
            pass
        try:
            return self._start(str(self._file), session_options(self.threads))
        except Exception as error:
            raise EngineError(f"{self.name} cannot load {self._file}", got=error) from error

    def _run(self, crops: npt.NDArray[np.uint8]) -> Output:
        try:
            arrays = self._session.run(self._outputs, {self._input: crops})
        except Exception as error:
            raise EngineError(f"{self.name} failed on {len(crops)} crops", got=error) from error
        return Output.of(dict(zip(self._outputs, arrays, strict=True)))

    def close(self) -> None:
        del self._session


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """The same on the first NVIDIA GPU; fp32 is fp32, without TF32."""

    name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"
    provider_options = MappingProxyType({"use_tf32": "0"})

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        import onnxruntime

        if cls.provider not in onnxruntime.get_available_providers():
            raise ImportError("no CUDA provider in this onnxruntime: it comes with onnxruntime-gpu")
        return ("fp32", "fp16")
