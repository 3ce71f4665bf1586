"""A GPU made of this computer's memory, so that what drives TensorRT can be tested where there is none.

It stands in for pycuda.driver, for the driver's graph calls and for the library's runtime, and is stricter than they
are: everything needs the context to be current, memory counts, asynchronous work is done when the stream is waited for,
and a graph whose context was used for another shape fails. Its plans are ONNX files, which ONNX Runtime computes.
"""

import ctypes
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest

from metro_ros.core.engines import tensorrt_gpu, tensorrt_graph

Generation = Literal["8.6", "10.3", "rtx"]
NOT_PERMITTED = 800
"""CUDA_ERROR_NOT_PERMITTED."""


class Gpu:
    """Its state, and the switches by which it fails. capacity: bytes that can be allocated."""

    def __init__(self) -> None:
        self.capacity = 1 << 30
        self.contexts: list[object] = []
        self.memory: dict[int, np.ndarray] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.launches = 0
        self.runs: list[int] = []
        self.fail_capture = False
        self.capturable = True
        self.refuse: str | None = None

    def need_context(self) -> None:
        assert self.contexts, "no context is current"

    def allocate(self, size: int) -> np.ndarray:
        self.need_context()
        if sum(block.nbytes for block in self.memory.values()) + size > self.capacity:
            raise DriverMemoryError("cuMemAlloc failed: out of memory")
        block = np.zeros(size, np.uint8)
        self.memory[block.ctypes.data] = block
        return block


class DriverError(Exception):
    pass


class DriverMemoryError(DriverError):
    pass


class Stream:
    """Holds what was enqueued until someone waits; while a graph is captured, for that graph."""

    def __init__(self, gpu: Gpu) -> None:
        gpu.need_context()
        self.gpu, self.handle = gpu, len(gpu.streams) + 1
        self.pending: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        gpu.streams[self.handle] = self

    def put(self, work: Callable[[], None]) -> None:
        self.gpu.need_context()
        (self.pending if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        self.gpu.need_context()
        assert self.captured is None, "cuStreamSynchronize while capturing"
        while self.pending:
            self.pending.pop(0)()


class Allocation:
    """Memory on the GPU, or page-locked; NumPy sees the latter."""

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: Any) -> None:
        self.gpu = gpu
        self.block = gpu.allocate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.address = self.block.ctypes.data
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "data": (self.address, False),
        }

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.gpu.need_context()
        del self.gpu.memory[self.address]


def driver_module(gpu: Gpu) -> ModuleType:
    """pycuda.driver."""
    driver = ModuleType("pycuda.driver")

    class Device:
        count = staticmethod(lambda: 1)

        def __init__(self, index: int) -> None:
            assert index == 0

        name = staticmethod(lambda: "Stand-in RTX 3090")
        compute_capability = staticmethod(lambda: (8, 6))

        def retain_primary_context(self) -> Any:
            context = SimpleNamespace()
            context.push = lambda: gpu.contexts.append(context)
            context.pop = gpu.contexts.pop
            return context

    def copy(to: int, source: int, size: int, stream: Stream) -> None:
        stream.put(lambda: ctypes.memmove(to, source, size) and None)

    members: dict[str, Any] = {
        "Error": DriverError,
        "MemoryError": DriverMemoryError,
        "init": lambda: None,
        "Device": Device,
        "Stream": lambda flags: Stream(gpu),
        "mem_alloc": lambda size: Allocation(gpu, (size,), np.uint8),
        "pagelocked_empty": lambda shape, dtype: np.asarray(Allocation(gpu, shape, dtype)),
        "memcpy_htod_async": lambda to, array, stream: copy(to, array.ctypes.data, array.nbytes, stream),
        "memcpy_dtoh_async": lambda array, source, stream: copy(array.ctypes.data, source, array.nbytes, stream),
    }
    vars(driver).update(members)
    return driver


class GraphCalls:
    """libcuda's calls about graphs, as ctypes makes them."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:
        assert mode.value == 1
        chosen = self.gpu.streams[stream.value]
        assert not chosen.pending and chosen.captured is None
        chosen.captured = []
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        chosen = self.gpu.streams[stream.value]
        work, chosen.captured = chosen.captured, None
        assert work is not None
        if self.gpu.fail_capture:
            return NOT_PERMITTED
        graph._obj.value = len(self.gpu.graphs) + 1
        self.gpu.graphs[graph._obj.value] = work
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:
        executable._obj.value = 1000 + graph.value
        self.gpu.graphs[1000 + graph.value] = self.gpu.graphs[graph.value]
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        del self.gpu.graphs[graph.value]
        return 0

    def cuGraphExecDestroy(self, executable: Any) -> int:
        self.gpu.need_context()
        del self.gpu.graphs[executable.value]
        return 0

    def cuGraphLaunch(self, executable: Any, stream: Any) -> int:
        self.gpu.launches += 1
        for work in self.gpu.graphs[executable.value]:
            self.gpu.streams[stream.value].put(work)
        return 0

    def cuGetErrorString(self, status: Any, text: Any) -> int:
        text._obj.value = b"operation not permitted"
        return 0


def library_module(gpu: Gpu, generation: Generation) -> ModuleType:
    """The runtime of `tensorrt`, or of `tensorrt_rtx`. Its builder is not here."""
    trt = ModuleType("tensorrt_rtx" if generation == "rtx" else "tensorrt")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class Runtime:
        def __init__(self, messages: Any) -> None:
            self.messages = messages

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            gpu.need_context()
            if gpu.refuse:
                self.messages.log(ILogger.ERROR, gpu.refuse)
                self.messages.log(ILogger.ERROR, "and more of that")
                return None
            return Engine(gpu, plan, generation)

    members: dict[str, Any] = {
        "__version__": {"8.6": "8.6.1", "10.3": "10.3.0", "rtx": "1.7.1"}[generation],
        "ILogger": ILogger,
        "Runtime": Runtime,
    }
    if generation != "8.6":
        members["ExecutionContextAllocationStrategy"] = SimpleNamespace(USER_MANAGED="user", STATIC="static")
    if generation == "rtx":
        members["ComputeCapability"] = SimpleNamespace(__members__={"CURRENT": 0, "SM86": 86, "SM120": 120})
        members["DynamicShapesKernelSpecializationStrategy"] = SimpleNamespace(EAGER="eager", LAZY="lazy")
    vars(trt).update(members)
    return trt


class Engine:
    """A plan. One of 8.6 has the first names of what changed since, the others the newer ones."""

    def __init__(self, gpu: Gpu, plan: bytes, generation: Generation) -> None:
        self.gpu, self.generation = gpu, generation
        self.session = onnxruntime.InferenceSession(plan)
        self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)
        setattr(self, "device_memory_size" if generation == "8.6" else "device_memory_size_v2", 4096)
        if generation == "8.6":
            self.create_execution_context_without_device_memory = lambda: Context(self)

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index].name

    def get_tensor_shape(self, name: str) -> list[int]:
        shape = next(tensor.shape for tensor in self.tensors if tensor.name == name)
        return [-1, *shape[1:]]

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(strategy=None, cache=None, dynamic_shapes_kernel_specialization_strategy="lazy")
        config.set_execution_context_allocation_strategy = lambda value: setattr(config, "strategy", value)
        config.create_runtime_cache = lambda: SimpleNamespace(
            deserialize=lambda content: content == b"kernels", serialize=lambda: bytearray(b"kernels")
        )
        config.set_runtime_cache = lambda value: setattr(config, "cache", value)
        config.get_runtime_cache = lambda: config.cache
        return config

    def create_execution_context(self, how: Any) -> "Context":
        if self.generation == "rtx":
            assert how.strategy == "user" and how.cache is not None
            assert how.dynamic_shapes_kernel_specialization_strategy == "eager"
        else:
            assert how == "user"
        return Context(self)


class Context:
    """An execution context: it runs ONNX Runtime over the memory that it was given."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.gpu = engine, engine.gpu
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        if engine.generation != "8.6":
            self.set_device_memory = self._set_device_memory
        if engine.generation == "rtx":
            self.is_stream_capturable = lambda handle: self.gpu.capturable

    def _set_device_memory(self, address: int, size: int) -> None:
        assert self.gpu.memory[address].nbytes >= size
        self.device_memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.gpu.memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def execute_async_v3(self, handle: int) -> bool:
        assert self.device_memory in self.gpu.memory and len(self.addresses) == self.engine.num_io_tensors
        shape = self.shape
        self.gpu.streams[handle].put(lambda: self._run(shape))
        return True

    def _run(self, shape: tuple[int, ...]) -> None:
        assert shape == self.shape, "this context was used for another shape since"
        self.gpu.runs.append(shape[0])
        (image,) = self.engine.session.get_inputs()
        crops = self.gpu.memory[self.addresses[image.name]][: int(np.prod(shape))].reshape(shape)
        names = [output.name for output in self.engine.session.get_outputs()]
        for name, value in zip(names, self.engine.session.run(names, {image.name: crops}), strict=True):
            self.gpu.memory[self.addresses[name]][: value.nbytes] = value.reshape(-1).view(np.uint8)


def install(monkeypatch: pytest.MonkeyPatch, generation: Generation) -> Gpu:
    """Put the stand-ins in the places of the real ones, for one test."""
    gpu = Gpu()
    library, driver = library_module(gpu, generation), driver_module(gpu)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, library if library.__name__ == name else None)
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(tensorrt_graph, "_driver", lambda: GraphCalls(gpu))
    tensorrt_gpu.first_gpu.cache_clear()
    return gpu
