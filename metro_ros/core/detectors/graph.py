"""An ONNX file that takes images, in ONNX Runtime: its inputs, its class names, and one way to run it."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.engines.onnxruntime import session_options
from metro_ros.core.errors import ConfigError, EngineError

TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
SIZE_INPUT = "orig_target_sizes"
"""The second input of RT-DETR's and D-FINE's own exports: the (width, height) that its boxes are to be scaled to."""
MAX_NAMES_CHARS = 1 << 20
REMEDY = "export the detector with images (1, 3, H, W) as its only input, or with RT-DETR's orig_target_sizes too"


class ImageInput(NamedTuple):
    """The input that takes the image, a batch of one. size: (height, width), pixels."""

    name: str
    dtype: np.dtype
    size: tuple[int, int]
    channels_last: bool


class Graph:
    """A session with one thread pool. Not for use by several threads at once."""

    def __init__(self, path: Path, threads: int | None, open_size: int) -> None:
        """threads: None for the library's own choice. open_size: px, of an input side that the file leaves open.

        Raises ConfigError when the inputs are none of a detector, EngineError when the file cannot be loaded.
        """
        self.path = path
        self._session = _load(path, threads)
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.class_names = class_names(metadata.get("names", ""))
        inputs = self._session.get_inputs()
        images = [one for one in inputs if len(one.shape) == 4]
        extra = [one.name for one in inputs if one not in images]
        if len(images) != 1 or extra not in ([], [SIZE_INPUT]):
            raise ConfigError(
                f"inputs of {path}",
                expected=f"one image, at most {SIZE_INPUT} with it",
                got=_told(inputs),
                remedy=REMEDY,
            )
        self.input = _image_input(images[0], path, open_size)
        self.takes_size = bool(extra)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, tensor: npt.NDArray) -> dict[str, npt.NDArray]:
        """What the graph answers to an image tensor, by output; boxes that it scales, it scales to its own input.

        Raises EngineError when it fails, or answers with numbers that are not finite; the next call works again.
        """
        feed = {self.input.name: tensor}
        if self.takes_size:
            feed[SIZE_INPUT] = np.array([self.input.size[::-1]], np.int64)
        try:
            values = self._session.run(self._outputs, feed)
        except Exception as error:  # its own exception types share no public base
            raise EngineError(f"the detector {self.path.name} failed", got=error) from error
        outputs = {}
        for name, value in zip(self._outputs, values, strict=True):
            array = np.asarray(value)
            outputs[name] = array.astype(np.float32) if array.dtype == np.float16 else array
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise EngineError(
                    f"the detector {self.path.name} returned numbers that are not finite",
                    expected=f"finite {name}",
                    got="NaN or infinity",
                )
        return outputs

    def close(self) -> None:
        """Give the network's memory back; the graph cannot be used after that."""
        del self._session


def class_names(text: str) -> Mapping[int, str] | None:
    """Class names by index from a file's metadata, a Python or JSON list or dictionary; None where there are none."""
    try:
        names = ast.literal_eval(text) if len(text) <= MAX_NAMES_CHARS else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    pairs = enumerate(names) if isinstance(names, list | tuple) else names.items() if isinstance(names, dict) else ()
    try:
        return {int(index): str(name) for index, name in pairs} or None
    except (TypeError, ValueError):
        return None


def _load(path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = session_options(threads)
    providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise EngineError(
            f"cannot load the detector {path}",
            expected="an ONNX file that ONNX Runtime can run",
            got=error,
            remedy="export it again, without operations of TensorRT",
        ) from error


def _image_input(described: Any, path: Path, open_size: int) -> ImageInput:
    batch, *shape = described.shape
    channels_last = shape[2] == 3 and shape[0] != 3
    channels, height, width = (shape[2], *shape[:2]) if channels_last else shape
    dtype = TYPES.get(described.type)
    if dtype is None or channels != 3 or (batch not in (1, None) and not isinstance(batch, str)):
        raise ConfigError(
            f"image input of {path}",
            expected="uint8, float or float16 (1, 3, H, W) or (1, H, W, 3)",
            got=_told([described]),
            remedy=REMEDY,
        )
    height, width = (side if isinstance(side, int) else open_size for side in (height, width))
    return ImageInput(described.name, np.dtype(dtype), (height, width), channels_last)


def _told(described: list[Any]) -> str:
    return ", ".join(f"{one.name} {one.type} {tuple(one.shape)}" for one in described) or "none"
