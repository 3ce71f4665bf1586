"""An ONNX file that finds people, in OpenVINO where that is installed and faster, else in ONNX Runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metro_ros.core.engines import openvino
from metro_ros.core.engines.onnxruntime import session_options
from metro_ros.core.errors import BundleError, EngineError

OUTPUT_NAMES = ("boxes", "scores")
REMEDY = "write it again with python -m training.finder.export"

Session = Callable[[npt.NDArray[np.uint8]], Sequence[npt.NDArray]]
"""Canvas uint8 (1, H, W, 3) RGB → the outputs that were asked for, by default boxes (1, K, 4) and scores (1, K)."""


def open_session(
    path: Path, threads: int | None, size: tuple[int, int], names: Sequence[str] = OUTPUT_NAMES, remedy: str = REMEDY
) -> tuple[str, Session]:
    """Name of the library, and the network in it.

    threads: None for its own choice; size: (height, width), px; names: of the outputs, in the order they come in.

    Raises EngineError when the file cannot be loaded, BundleError, which says `remedy`, when its input or its outputs
    are others.
    """
    try:
        openvino.version()
    except ImportError:
        return "onnxruntime", _open_onnxruntime(path, threads, size, names, remedy)
    return openvino.NAME, _open_openvino(path, threads, size, names, remedy)


def _open_openvino(
    path: Path, threads: int | None, size: tuple[int, int], names: Sequence[str], remedy: str
) -> Session:
    core = openvino.shared_core()
    try:
        model = core.read_model(path)
    except Exception as error:  # it raises plain RuntimeError, and its own types, by version
        raise EngineError(f"{openvino.NAME} cannot load {path}", got=error) from error
    _check_outputs(path, [name for output in model.outputs for name in output.names], names, remedy)
    entries = [(entry.element_type.to_string(), str(entry.partial_shape)) for entry in model.inputs]
    try:
        if len(entries) != 1 or entries[0][0] != "u8":
            raise ValueError
        model.reshape([1, *size, 3])
    except Exception as error:
        raise _wrong_input(path, size, entries, remedy) from error
    try:
        request = core.compile_model(model, "CPU", openvino.cpu_settings(threads)).create_infer_request()
    except Exception as error:
        raise EngineError(f"{openvino.NAME} cannot compile {path}", got=error) from error

    def run(canvas: npt.NDArray[np.uint8]) -> list[npt.NDArray]:
        request.infer([canvas], share_inputs=True)
        # Copies: the request writes its next answer into the same memory.
        return [request.get_tensor(name).data.copy() for name in names]

    return run


def _open_onnxruntime(
    path: Path, threads: int | None, size: tuple[int, int], names: Sequence[str], remedy: str
) -> Session:
    import onnxruntime

    options = session_options(threads)
    try:
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exception types share no public base
        raise EngineError(f"onnxruntime cannot load {path}", got=error) from error
    _check_outputs(path, [output.name for output in session.get_outputs()], names, remedy)
    entries = [(entry.type, entry.shape) for entry in session.get_inputs()]
    if len(entries) != 1 or entries[0][0] != "tensor(uint8)" or entries[0][1][1:] != [*size, 3]:
        raise _wrong_input(path, size, entries, remedy)
    image = session.get_inputs()[0].name
    return lambda canvas: session.run(list(names), {image: canvas})


def _check_outputs(path: Path, names: Sequence[str], wanted: Sequence[str], remedy: str) -> None:
    if not set(wanted) <= set(names):
        expected = f"{', '.join(wanted[:-1])} and {wanted[-1]}"
        raise BundleError(f"outputs of {path}", expected=expected, got=", ".join(names), remedy=remedy)


def _wrong_input(path: Path, size: tuple[int, int], entries: list, remedy: str) -> BundleError:
    height, width = size
    expected = f"one, uint8 (N, {height}, {width}, 3), by the manifest"
    return BundleError(f"inputs of {path}", expected=expected, got=entries, remedy=remedy)
