"""OpenVINO on the CPU: the faster one on x86, in fp32, and in bf16 where the processor has it."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines.base import CONFIDENCE_NAME, OUTPUT_NAMES, Engine, Output, Precision, missing_output
from metro_ros.core.errors import EngineError

NAME = "openvino"
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def version() -> str:
    """Version of the library. Raises ImportError when it is not installed."""
    import openvino

    return str(openvino.__version__)


def precisions() -> tuple[Precision, ...]:
    """What this machine can compute in. Raises ImportError when the library is not installed."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in capabilities else ("fp32",)


@functools.cache
def _core() -> Any:
    """The process's one core, never closed. Raises ImportError when the library is not installed.

    The CPU plugin sets a signal stack for the thread that first compiles, and frees its memory with the last core, in
    whatever thread that happens: the next signal to the first thread, be it Ctrl-C, would end the process.
    """
    import openvino

    return openvino.Core()


class OpenVinoEngine(Engine):
    """One network compiled for a single crop, and, once several come together, one for any number of them."""

    name = NAME

    def __init__(self, bundle: Bundle, precision: Precision, threads: int | None) -> None:
        """Raises ImportError, EngineError when the model cannot be loaded, BundleError when its outputs are others."""
        super().__init__(bundle, precision)
        # By default OpenVINO computes in bf16 wherever the processor can, 0.03 off on a toy network: ask by name.
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[precision]}
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = _core().read_model(bundle.model_path)
        except Exception as error:  # it raises plain RuntimeError, and its own types, by version
            raise EngineError(f"{NAME} cannot load {bundle.model_path}", got=error) from error
        names = [name for output in self._model.outputs for name in output.names]
        if not set(OUTPUT_NAMES) <= set(names):
            raise missing_output(bundle, names)
        self._outputs = [*OUTPUT_NAMES, *(name for name in names if name == CONFIDENCE_NAME)]
        self._requests: dict[bool, Any] = {}
        self._request(single=True)

    def _request(self, single: bool) -> Any:
        """The inference request for one crop or for any number; a fixed shape lets the compiler plan its memory."""
        if single not in self._requests:
            try:
                model = self._model.clone()
                if single:
                    model.reshape([1, self._crop_size, self._crop_size, 3])
                self._requests[single] = _core().compile_model(model, "CPU", self._settings).create_infer_request()
            except Exception as error:
                raise EngineError(f"{NAME} cannot compile the model", got=error) from error
        return self._requests[single]

    def _run(self, crops: npt.NDArray[np.uint8]) -> Output:
        request = self._request(single=len(crops) == 1)
        try:
            request.infer([crops], share_inputs=True)
            # Copies: the request writes its next answer into the same memory.
            joints, vertices, camera, *confidence = [request.get_tensor(n).data.copy() for n in self._outputs]
        except Exception as error:
            raise EngineError(f"{NAME} failed on {len(crops)} crops", got=error) from error
        return Output(joints, vertices, camera, confidence[0] if confidence else None)

    def close(self) -> None:
        self._requests.clear()
        del self._model
