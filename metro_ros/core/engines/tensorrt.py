"""TensorRT, or TensorRT-RTX where that is installed instead, on the first NVIDIA GPU. Usually the fastest there.

Plans are built once for each GPU and kept in the cache; `metro-ros build-engine` builds them ahead.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.crop import Box
from metro_ros.core.engines import cache
from metro_ros.core.engines.base import Engine, Output, Precision
from metro_ros.core.engines.tensorrt_build import build_plan
from metro_ros.core.engines.tensorrt_crop import DeviceImage
from metro_ros.core.engines.tensorrt_gpu import Gpu, first_gpu
from metro_ros.core.engines.tensorrt_library import TENSORRT_RTX, Library, find_library
from metro_ros.core.engines.tensorrt_network import PlanRefused
from metro_ros.core.engines.tensorrt_plan import (
    ANY_GPU,
    BatchProfile,
    Plan,
    PlanKey,
    PlanUnusable,
    read_plan,
    write_plan,
)
from metro_ros.core.engines.tensorrt_session import Session
from metro_ros.core.errors import EngineError

NAME = "tensorrt"
BF16_SINCE = (8, 0)
"""The compute capability that brought it."""

log = logging.getLogger(__name__)


def version() -> str:
    """Version of the library. Raises ImportError when it is not installed."""
    return str(find_library())


def precisions() -> tuple[Precision, ...]:
    """What this machine can compute in. Raises ImportError without TensorRT or pycuda, EngineError without a GPU."""
    library, gpu = find_library(), first_gpu()
    if library.builds_ahead:
        library.capability(gpu.compute_capability)
    since = tuple(map(int, gpu.compute_capability.split(".")))
    return ("fp32", "fp16", "int8", *(("bf16",) if since >= BF16_SINCE else ()))


class TensorRtEngine(Engine):
    """A plan on the first GPU; fp32 is fp32, without TF32. Threads may use it in turns, but not two at once.

    The first start builds the plan, which takes seconds to minutes; later ones take it from the cache, whatever numbers
    of crops it was built for.
    """

    name = NAME

    def __init__(self, bundle: Bundle, precision: Precision, threads: int | None) -> None:
        """Raises ImportError, EngineError when there is no GPU or no plan can be built, BundleError when the network's
        outputs are others."""
        super().__init__(bundle, precision, threads, version())
        library, gpu = find_library(), first_gpu()
        key = plan_key(library, bundle, precision, gpu.compute_capability, gpu)
        self._alone = threading.Lock()
        self._session = _open_session(library, gpu, bundle, key)

    def infer_image(self, image: object, boxes: Sequence[Box]) -> Output:
        """Run the network on the boxes of a BGR image that lies in GPU memory, and is cropped there.

        image: uint8 (H, W, 3), of CuPy, PyTorch, Numba, pycuda or whatever has a __cuda_array_interface__. The pixels
        are those of `metro_ros.core.crop.crop_image`, but for rounding. nvcc compiles the kernel at the first call.
        Raises ImageError, and EngineError as `infer` does.
        """
        if not boxes:
            raise EngineError("boxes for the network", expected="one at least", got="none")
        device_image = DeviceImage.of(image)
        with self._in_turn():
            output = Output.of(self._session.run_image(device_image, boxes))
        if not all(np.isfinite(array).all() for array in output if array is not None):
            raise EngineError(f"{NAME} ({self.precision}) returned numbers that are not finite")
        return output

    def close(self) -> None:
        with self._in_turn():
            self._session.close()

    def _run(self, crops: npt.NDArray[np.uint8]) -> Output:
        with self._in_turn():
            return Output.of(self._session.run(crops))

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._alone.acquire(blocking=False):
            raise EngineError(
                f"{NAME} is in use by another thread", remedy="let threads take turns, or give each an engine"
            )
        try:
            yield
        finally:
            self._alone.release()


def build_ahead(
    bundle: Bundle,
    precision: Precision,
    profile: BatchProfile,
    compute_capability: str | None = None,
    folder: Path | None = None,
) -> tuple[Path, bool]:
    """Build a plan for this machine's GPU, or with TensorRT-RTX for all of a compute capability, without one.

    folder: None for the cache. Returns the file, and whether it had to be built: one that fits is left. Raises
    EngineError when it cannot be built or written, BundleError when the network's outputs are others.
    """
    gpu: Gpu | None = None
    try:
        library = find_library(*([TENSORRT_RTX] if compute_capability else []))
        if compute_capability is None:
            gpu = first_gpu()
            compute_capability = gpu.compute_capability
    except ImportError as error:
        raise EngineError(
            "nothing to build with",
            got=error,
            remedy="install tensorrt and pycuda on the machine with the GPU; or, to build for others by "
            "--compute-capability, tensorrt-rtx-cu13",
        ) from error
    key = plan_key(library, bundle, precision, compute_capability, gpu)
    path = (folder or _folder()) / key.file_name
    if _recall(path, key, profile) is not None:
        return path, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # before a build of minutes
        write_plan(path, key, build_plan(library, bundle, precision, profile, compute_capability, gpu))
    except OSError as error:
        raise EngineError(f"cannot write {path}", got=error.strerror or error) from error
    return path, True


def plan_key(
    library: Library, bundle: Bundle, precision: Precision, compute_capability: str, gpu: Gpu | None
) -> PlanKey:
    """What a plan has to be good for. gpu: None when it is built without one.

    Raises EngineError when the bundle has no such precision, or the library no such compute capability.
    """
    if library.builds_ahead:
        library.capability(compute_capability)
    return PlanKey(
        model=bundle.manifest.sha256[bundle.model_file(precision).name],
        precision=precision,
        library=library.name,
        version=library.version,
        gpu=ANY_GPU if gpu is None or library.builds_ahead else gpu.name,
        compute_capability=compute_capability,
    )


def _folder() -> Path:
    return cache.cache_root() / NAME


def _open_session(library: Library, gpu: Gpu, bundle: Bundle, key: PlanKey) -> Session:
    """The network on the GPU, by the plan in the cache or a new one, which is kept there if the disk allows."""
    path = _folder() / key.file_name
    kernels = path.with_suffix(".kernels")
    if (plan := _recall(path, key)) is not None:
        try:
            return Session(library, gpu, plan, kernels)
        except PlanRefused as error:
            log.warning("%s cannot be loaded; building it again: %s", path, error)
    plan = build_plan(library, bundle, key.precision, BatchProfile(), key.compute_capability, gpu)
    try:
        write_plan(path, key, plan)
    except OSError as error:
        log.warning("%s is not kept, and will be built again next time: %s", path, error.strerror or error)
    return Session(library, gpu, plan, kernels)


def _recall(path: Path, key: PlanKey, profile: BatchProfile | None = None) -> Plan | None:
    try:
        return read_plan(path, key, profile)
    except PlanUnusable as reason:
        log.warning("%s %s; building it again", path, reason)
        return None
