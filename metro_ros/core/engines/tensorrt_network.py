"""A TensorRT plan that is loaded, and what runs it, however this version of the library wants that to be done."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metro_ros.core.engines import cache
from metro_ros.core.engines.tensorrt_build import INPUT_NAME
from metro_ros.core.engines.tensorrt_gpu import Gpu
from metro_ros.core.engines.tensorrt_library import Library
from metro_ros.core.errors import EngineError

log = logging.getLogger(__name__)


class PlanRefused(EngineError):
    """The library does not take a plan that was made for it."""


class Network:
    """A loaded plan. The GPU's context must be current in every method, and when the object is let go.

    shapes: of input and outputs by name, without the batch axis; scratch_bytes: GPU memory that a context runs in.
    """

    def __init__(self, library: Library, gpu: Gpu, plan: Any, kernels: Path) -> None:
        """kernels: the file where TensorRT-RTX keeps what it compiles for this GPU while running.

        Raises PlanRefused, EngineError when the GPU is full.
        """
        self._library, self._gpu, self._kernels = library, gpu, kernels
        library.messages.take_error()
        self._runtime = library.module.Runtime(library.messages)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._failure("refuses the plan", PlanRefused)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.shapes = {name: tuple(self._engine.get_tensor_shape(name))[1:] for name in names}
        newer = hasattr(self._engine, "device_memory_size_v2")
        self.scratch_bytes = int(self._engine.device_memory_size_v2 if newer else self._engine.device_memory_size)
        self._runtime_config = self._configure_runtime()

    def create_context(self, addresses: Mapping[str, int], scratch: int) -> Any:
        """An execution context. addresses: on the GPU, of input and outputs; scratch: of as many bytes as it runs in.

        Contexts may share all of it while only one of them runs. Raises EngineError.
        """
        strategies = getattr(self._library.module, "ExecutionContextAllocationStrategy", None)
        if self._runtime_config is not None:
            context = self._engine.create_execution_context(self._runtime_config)
        elif strategies is not None:
            context = self._engine.create_execution_context(strategies.USER_MANAGED)
        else:
            context = self._engine.create_execution_context_without_device_memory()
        if context is None:
            raise self._failure("creates no execution context")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch, self.scratch_bytes)
        else:
            context.device_memory = scratch
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failure(f"does not take the memory of {name}")
        return context

    def set_count(self, context: Any, count: int) -> None:
        """Say how many crops come next. Raises EngineError."""
        if not context.set_input_shape(INPUT_NAME, (count, *self.shapes[INPUT_NAME])):
            raise self._failure(f"does not take {count} crops")

    def enqueue(self, context: Any, stream: Any) -> None:
        """Put the network on a stream. Raises EngineError."""
        if not context.execute_async_v3(stream.handle):
            raise self._failure("does not run")

    def keep_kernels(self) -> None:
        """Write what TensorRT-RTX compiled so far into the cache, if the disk allows; TensorRT has done that before."""
        if self._runtime_config is not None:
            cache.store(self._kernels, bytes(self._runtime_config.get_runtime_cache().serialize()))

    def _configure_runtime(self) -> Any:
        """TensorRT-RTX compiles kernels for each shape when it comes: at once, as a graph keeps those that it has seen.

        None for TensorRT, which did that when it built the plan.
        """
        trt = self._library.module
        if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        compiled = config.create_runtime_cache()
        content = cache.recall(self._kernels)
        if content is not None and not compiled.deserialize(content):
            log.warning("%s is of another GPU, driver or version: compiling kernels again", self._kernels)
        config.set_runtime_cache(compiled)
        return config

    def _failure(self, what: str, kind: type[EngineError] = EngineError) -> EngineError:
        """The error for a call that failed, with the reason that the library logged."""
        reason = self._library.messages.take_error()
        if "memory" in reason.lower():
            return self._gpu.out_of_memory("for the network", reason)
        return kind(f"{self._library.name} {self._library.version} {what}", got=reason)
