"""What every inference engine is: crops in, joints, vertices and camera out, checked on both sides."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.errors import BundleError, EngineError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
OUTPUT_NAMES = ("joints", "vertices", "camera")
OPTIONAL_NAMES = ("confidence", "visibility")


class Output(NamedTuple):
    """What the network says of N crops, float32. Metres, root-relative, axes as the manifest's camera_frame says."""

    joints: npt.NDArray[np.float32]
    """(N, J, 3)"""
    vertices: npt.NDArray[np.float32]
    """(N, V, 3), the finest level"""
    camera: npt.NDArray[np.float32]
    """(N, 3): s, tx, ty of the weak perspective into the crop, u = s·(x + tx)"""
    confidence: npt.NDArray[np.float32] | None
    """(N, J) in [0, 1], where the model has it: what the manifest's `confidence_mm` says of it"""
    visibility: npt.NDArray[np.float32] | None = None
    """(N, J) in [0, 1], that a joint lies within crop and image, where the model tells it apart from confidence"""

    @classmethod
    def of(cls, named: Mapping[str, npt.NDArray[np.float32]]) -> "Output":
        """From a graph's outputs by name."""
        return cls(*(named[name] for name in OUTPUT_NAMES), *(named.get(name) for name in OPTIONAL_NAMES))

    def rows(self, start: int, stop: int) -> "Output":
        """The answers about crops `start` to `stop`, that one not included."""
        return Output(*(None if array is None else array[start:stop] for array in self))  # type: ignore[arg-type]


def concatenate(outputs: Sequence[Output]) -> Output:
    """The answers of several calls, one or more, as one of a single call."""
    parts = zip(*outputs, strict=True)
    return Output(*(None if part[0] is None else np.concatenate(part) for part in parts))  # type: ignore[arg-type]


class Engine(ABC):
    """A loaded network. Not for use by several threads at once."""

    name: str
    version: str
    precision: Precision
    threads: int | None
    crop_size: int

    def __init__(self, bundle: Bundle, precision: Precision, threads: int | None, version: str) -> None:
        """version: of the library; threads: None for its own choice."""
        self.version = version
        self.precision = precision
        self.threads = threads
        self.crop_size = bundle.manifest.crop.size

    def infer(self, crops: npt.NDArray[np.uint8]) -> Output:
        """Run the network on crops uint8 (N, S, S, 3) RGB.

        Raises EngineError when the crops have another type or shape, or when anything comes back that is not finite;
        the engine stays usable.
        """
        size = self.crop_size
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or not len(crops):
            raise EngineError(
                "crops for the network", expected=f"uint8 (N, {size}, {size}, 3)", got=f"{crops.dtype} {crops.shape}"
            )
        output = self._run(np.ascontiguousarray(crops))
        if not all(np.isfinite(array).all() for array in output if array is not None):
            raise EngineError(
                f"{self.name} ({self.precision}) returned numbers that are not finite",
                expected="finite joints, vertices and camera",
                got="NaN or infinity",
                remedy="try precision fp32, or another engine; metro-ros doctor lists them",
            )
        return output

    @abstractmethod
    def close(self) -> None:
        """Give the network's memory back; the engine cannot be used after that."""

    @abstractmethod
    def _run(self, crops: npt.NDArray[np.uint8]) -> Output:
        """Infer without checks."""


def check_model(engine: Engine, bundle: Bundle) -> None:
    """Run a grey crop once. Raises BundleError unless the outputs have the manifest's shapes and are finite."""
    size, joints = bundle.manifest.crop.size, len(bundle.skeleton)
    output = engine._run(np.full((1, size, size, 3), 127, np.uint8))
    expected = {
        "joints": (1, joints, 3),
        "vertices": (1, bundle.levels[-1], 3),
        "camera": (1, 3),
        **dict.fromkeys(OPTIONAL_NAMES, (1, joints)),
    }
    for name, shape in expected.items():
        array = getattr(output, name)
        if array is None:
            continue
        if array.shape != shape or array.dtype != np.float32:
            raise BundleError(
                f"output {name} of {bundle.model_path}",
                expected=f"float32 {shape}, by the manifest",
                got=f"{array.dtype} {array.shape}",
                remedy="write the bundle again with python -m training.export",
            )
        if not np.isfinite(array).all():
            raise BundleError(
                f"the network in {bundle.model_path} is broken",
                expected=f"finite {name} for a grey image",
                got="NaN or infinity",
                remedy="its weights are not finite: export them again from a healthy checkpoint",
            )
    _check_confidence(output, bundle)


def _check_confidence(output: Output, bundle: Bundle) -> None:
    """Raises BundleError unless the network has a visibility besides its confidence where the manifest says so."""
    states, has = bundle.manifest.confidence_mm is not None, output.visibility is not None
    if states != has or (states and output.confidence is None):
        raise BundleError(
            f"the confidence of {bundle.model_path}",
            expected="outputs confidence and visibility" if states else "no output visibility, by the manifest",
            got=" and ".join(name for name in OPTIONAL_NAMES if getattr(output, name) is not None) or "neither",
            remedy="write the bundle again with python -m training.export",
        )


def missing_output(bundle: Bundle, names: list[str]) -> BundleError:
    """The error for a graph whose outputs are not those of a bundle."""
    return BundleError(
        f"outputs of {bundle.model_path}",
        expected=f"{', '.join(OUTPUT_NAMES)} and optionally {' and '.join(OPTIONAL_NAMES)}",
        got=", ".join(names),
        remedy="write the bundle again with python -m training.export",
    )
