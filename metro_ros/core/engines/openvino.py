"""OpenVINO on the CPU: in fp32, and in bf16, fp16 or int8 where the processor has it. Usually the fastest there."""

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import cache, machine
from metro_ros.core.engines.base import (
    OPTIONAL_NAMES,
    OUTPUT_NAMES,
    Engine,
    Output,
    Precision,
    concatenate,
    missing_output,
)
from metro_ros.core.errors import EngineError, one_line

NAME = "openvino"
CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}

log = logging.getLogger(__name__)


def version() -> str:
    """Version of the library. Raises ImportError when it is not installed."""
    import openvino

    return str(openvino.__version__)


def precisions() -> tuple[Precision, ...]:
    """What this machine can compute in. Raises ImportError when the library is not installed."""
    capabilities = shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for precision, capability in CAPABILITIES.items() if capability in capabilities)


@functools.cache
def shared_core() -> Any:
    """The process's one core, never closed. Raises ImportError when the library is not installed.

    The CPU plugin sets a signal stack for the thread that first compiles, and frees its memory with the last core, in
    whatever thread that happens: the next signal to the first thread, be it Ctrl-C, would end the process.
    """
    import openvino

    return openvino.Core()


def cpu_settings(threads: int | None) -> dict[str, Any]:
    """For one answer after the other, as soon as may be. threads: None for the library's own choice."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # By default it computes in bf16 wherever the processor can. So it takes the types of the file as they are.
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": True,
    }
    return {**settings, "INFERENCE_NUM_THREADS": threads} if threads else settings


class OpenVinoEngine(Engine):
    """One network compiled for a single crop, and, once several come together, one for any number of them.

    What was compiled is kept in the cache: the next start reads it instead of the model.
    """

    name = NAME

    def __init__(self, bundle: Bundle, precision: Precision, threads: int | None) -> None:
        """Raises ImportError, EngineError when the model cannot be loaded, BundleError when its outputs are others."""
        super().__init__(bundle, precision, threads, version())
        self._bundle = bundle
        self._file = bundle.model_file(precision)
        self._settings = cpu_settings(threads)
        self._requests: dict[bool, Any] = {}
        self._request(single=True)

    def _request(self, single: bool) -> Any:
        """The inference request for one crop or for any number; a fixed shape lets the compiler plan its memory."""
        if single not in self._requests:
            compiled = self._recall(single) or self._compile(single)
            names = [name for output in compiled.outputs for name in output.names]
            if not set(OUTPUT_NAMES) <= set(names):
                raise missing_output(self._bundle, names)
            self._outputs = [*OUTPUT_NAMES, *(name for name in names if name in OPTIONAL_NAMES)]
            self._requests[single] = compiled.create_infer_request()
        return self._requests[single]

    def _cached(self, single: bool) -> Path:
        digest = self._bundle.manifest.sha256[self._file.name]
        return cache.cache_root() / NAME / f"{machine.key(self.version, digest, self._settings, single)}.blob"

    def _recall(self, single: bool) -> Any:
        """The compiled network as an earlier start left it, or None."""
        blob = cache.recall(self._cached(single))
        if blob is None:
            return None
        try:
            return shared_core().import_model(blob, "CPU", self._settings)
        except Exception as error:  # it raises plain RuntimeError, and its own types, by version
            log.warning("%s cannot load what it compiled earlier (%s); compiling again", NAME, one_line(error))
            return None

    def _compile(self, single: bool) -> Any:
        try:
            model = shared_core().read_model(self._file)
            if single:
                model.reshape([1, self.crop_size, self.crop_size, 3])
            compiled = shared_core().compile_model(model, "CPU", self._settings)
        except Exception as error:
            raise EngineError(f"{NAME} cannot load {self._file}", got=error) from error
        try:
            blob = compiled.export_model()
        except Exception as error:
            log.warning("%s cannot export what it compiled (%s): nothing is cached", NAME, one_line(error))
        else:
            cache.store(self._cached(single), blob.getvalue())
        return compiled

    def _run(self, crops: npt.NDArray[np.uint8]) -> Output:
        # A quantised network of any batch size crashes in some releases on processors with AMX: one crop at a time.
        if self.precision == "int8" and len(crops) > 1:
            return concatenate([self._run(crops[index : index + 1]) for index in range(len(crops))])
        request = self._request(single=len(crops) == 1)
        try:
            request.infer([crops], share_inputs=True)
            # Copies: the request writes its next answer into the same memory.
            named = {name: request.get_tensor(name).data.copy() for name in self._outputs}
        except Exception as error:
            raise EngineError(f"{NAME} failed on {len(crops)} crops", got=error) from error
        return Output.of(named)

    def close(self) -> None:
        self._requests.clear()
