"""The GPU that TensorRT runs on, through pycuda: its name, its CUDA context, and its errors as EngineError."""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

from metro_ros.core.errors import EngineError


class Gpu:
    """One GPU and its primary context, the one that other libraries in this process use too.

    driver: the module pycuda.driver; name: as the driver says it; compute_capability: such as 8.6.
    """

    def __init__(self, driver: Any, device: Any) -> None:
        """device: of pycuda. Raises the driver's own errors."""
        self.driver = driver
        self.name = str(device.name())
        self.compute_capability = "{}.{}".format(*device.compute_capability())
        self._context = device.retain_primary_context()

    @contextlib.contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """Make the context this thread's current one. Errors of the driver become EngineErrors that name `doing`.

        It must not stay current: pycuda ends the process when a thread ends that still has one.
        """
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self.driver.MemoryError as error:
            raise self.out_of_memory(doing, error) from error
        except self.driver.Error as error:
            raise EngineError(f"{self.name} failed {doing}", got=error) from error

    def out_of_memory(self, doing: str, reason: object) -> EngineError:
        """The error for a GPU that is full."""
        return EngineError(
            f"{self.name} has too little memory {doing}",
            got=reason,
            remedy="close what else runs on the GPU (nvidia-smi names it), or choose another engine",
        )


@functools.cache
def first_gpu() -> Gpu:
    """The first GPU of those that CUDA_VISIBLE_DEVICES leaves, kept for the life of the process.

    pycuda cannot let a primary context go without leaving it current. Raises ImportError without pycuda, EngineError
    without a driver or a GPU.
    """
    try:
        driver = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise EngineError(
            "no NVIDIA driver for pycuda",
            got=error,
            remedy="install the driver; where there is one, install pycuda again, against its CUDA",
        ) from error
    try:
        driver.init()
        if not driver.Device.count():
            raise EngineError("CUDA finds no GPU", expected="one at least", got="0")
        return Gpu(driver, driver.Device(0))
    except driver.Error as error:
        raise EngineError("CUDA finds no GPU that it can use", got=error, remedy="check nvidia-smi") from error
