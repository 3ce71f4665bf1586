"""ONNX Runtime on the CPU: runs everywhere, in fp32."""

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines.base import CONFIDENCE_NAME, OUTPUT_NAMES, Engine, Output, Precision, missing_output
from metro_ros.core.errors import EngineError

NAME = "onnxruntime"


def version() -> str:
    """Version of the library. Raises ImportError when it is not installed."""
    import onnxruntime

    return onnxruntime.__version__


def precisions() -> tuple[Precision, ...]:
    """What this machine can compute in."""
    return ("fp32",)


class OnnxRuntimeEngine(Engine):
    """A session with one thread pool of `threads`, or as many as there are cores."""

    name = NAME

    def __init__(self, bundle: Bundle, precision: Precision, threads: int | None) -> None:
        """Raises ImportError, EngineError when the model cannot be loaded, BundleError when its outputs are others."""
        import onnxruntime

        super().__init__(bundle, precision)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about its own fusions
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.model_path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own exception types share no public base
            raise EngineError(f"{NAME} cannot load {bundle.model_path}", got=error) from error
        names = [output.name for output in self._session.get_outputs()]
        if not set(OUTPUT_NAMES) <= set(names):
            raise missing_output(bundle, names)
        self._outputs = [*OUTPUT_NAMES, *(n for n in names if n == CONFIDENCE_NAME)]
        self._input = self._session.get_inputs()[0].name

    def _run(self, crops: npt.NDArray[np.uint8]) -> Output:
        try:
            joints, vertices, camera, *confidence = self._session.run(self._outputs, {self._input: crops})
        except Exception as error:
            raise EngineError(f"{NAME} failed on {len(crops)} crops", got=error) from error
        return Output(joints, vertices, camera, confidence[0] if confidence else None)

    def close(self) -> None:
        del self._session
