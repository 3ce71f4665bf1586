"""A TensorRT plan at work: crops into GPU memory, the network over them, its outputs back, by a CUDA graph if it can.

The library wants an execution context of its own for each CUDA graph: whoever changes the shape of one afterwards
changes what the graph does. Contexts run in much memory, but one after another, so they share it.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metro_ros.core.crop import Box
from metro_ros.core.engines.tensorrt_build import INPUT_NAME
from metro_ros.core.engines.tensorrt_crop import CropKernel, DeviceImage
from metro_ros.core.engines.tensorrt_gpu import Gpu
from metro_ros.core.engines.tensorrt_graph import DriverCallError, Graph, wait_for_stream
from metro_ros.core.engines.tensorrt_library import Library
from metro_ros.core.engines.tensorrt_network import Network
from metro_ros.core.engines.tensorrt_plan import Plan
from metro_ros.core.errors import EngineError

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: what others put on the default stream neither waits for this one nor spoils its graphs."""

log = logging.getLogger(__name__)

Outputs = dict[str, npt.NDArray[np.float32]]


class Session:
    """A plan on the GPU, with buffers there and page-locked ones here. Not for several threads at once."""

    def __init__(self, library: Library, gpu: Gpu, plan: Plan, kernels: Path) -> None:
        """kernels: see Network. Raises PlanRefused, EngineError when the GPU is full or fails."""
        self._gpu, self._driver = gpu, gpu.driver
        self._largest = plan.profile.largest
        self._contexts: dict[int, Any] = {}
        self._graphs: dict[int, Graph] = {}
        self._use_graphs = True
        self._counts_seen: set[int] = set()
        self._crop_kernel: CropKernel | None = None
        with gpu.current("loading the network"), ExitStack() as taken:
            taken.callback(self._let_go)
            self._stream = self._driver.Stream(NON_BLOCKING)
            self._network = Network(library, gpu, plan.content, kernels)
            self._host: dict[str, npt.NDArray[Any]] = {}
            self._device: dict[str, int] = {}
            for name, shape in self._network.shapes.items():
                dtype = np.uint8 if name == INPUT_NAME else np.float32
                locked: Any = self._driver.pagelocked_empty((self._largest, *shape), dtype)
                taken.callback(locked.base.free)
                self._host[name], self._device[name] = locked, self._allocate(locked.nbytes, taken)
            self._scratch = self._allocate(max(1, self._network.scratch_bytes), taken)
            self._taken = taken.pop_all()
        self._output_names = [name for name in self._host if name != INPUT_NAME]

    def run(self, crops: npt.NDArray[np.uint8]) -> Outputs:
        """The outputs by name, float32, for crops uint8 (N, S, S, 3), of any number N. Raises EngineError."""

        def place(start: int, count: int) -> None:
            host = self._host[INPUT_NAME][:count]
            np.copyto(host, crops[start : start + count])
            self._driver.memcpy_htod_async(self._device[INPUT_NAME], host, self._stream)

        return self._run(len(crops), place)

    def run_image(self, image: DeviceImage, boxes: Sequence[Box]) -> Outputs:
        """The same for boxes of an image in GPU memory, which is cropped there. Raises EngineError."""
        size = self._network.shapes[INPUT_NAME][0]

        def place(start: int, count: int) -> None:
            if self._crop_kernel is None:
                self._crop_kernel = CropKernel(self._driver)
            if image.stream is not None:
                wait_for_stream(image.stream)
            for index, box in enumerate(boxes[start : start + count]):
                crop = self._device[INPUT_NAME] + index * size * size * 3
                self._crop_kernel.enqueue(image, box, size, crop, self._stream)

        return self._run(len(boxes), place)

    def close(self) -> None:
        """Give everything back that is on the GPU."""
        with self._gpu.current("closing the network"):
            self._taken.close()

    def _allocate(self, size: int, taken: ExitStack) -> int:
        """The address of memory on the GPU that `taken` frees."""
        allocation = self._driver.mem_alloc(size)
        taken.callback(allocation.free)
        return int(allocation)

    def _let_go(self) -> None:
        """Drop what has a destructor that needs the GPU's context, also when only some of it was made."""
        for graph in self._graphs.values():
            graph.destroy()
        self._graphs.clear()
        self._contexts.clear()
        for name in ("_network", "_crop_kernel", "_stream"):
            vars(self).pop(name, None)

    def _run(self, total: int, place: Callable[[int, int], None]) -> Outputs:
        """place: puts the copy of `count` crops, from `start` on, into the network's input onto the stream."""
        outputs = {name: np.empty((total, *self._network.shapes[name]), np.float32) for name in self._output_names}
        with self._gpu.current(f"on {total} crops"):
            try:
                for start in range(0, total, self._largest):
                    count = min(self._largest, total - start)
                    place(start, count)
                    self._infer(count)
                    for name, output in outputs.items():
                        output[start : start + count] = self._host[name][:count]
            except DriverCallError as error:
                raise EngineError(f"{self._gpu.name} failed on {total} crops", got=error) from error
        return outputs

    def _infer(self, count: int) -> None:
        """From the input on the GPU to the outputs in page-locked memory."""
        if count in self._graphs:
            self._graphs[count].launch(self._stream)
            self._stream.synchronize()
            return
        context = self._context(count)
        self._enqueue(context, count)
        self._stream.synchronize()
        if count not in self._counts_seen:
            self._counts_seen.add(count)
            if self._use_graphs and _has_graph(count):
                self._capture(context, count)  # the run above was the warm-up that the library wants before it
            self._network.keep_kernels()

    def _context(self, count: int) -> Any:
        """The context for so many crops: each number that has a graph has its own, and all others share one."""
        lane = count if _has_graph(count) else 0
        if lane not in self._contexts:
            self._contexts[lane] = self._network.create_context(self._device, self._scratch)
        if lane == 0 or count not in self._counts_seen:
            self._network.set_count(self._contexts[lane], count)
        return self._contexts[lane]

    def _enqueue(self, context: Any, count: int) -> None:
        self._network.enqueue(context, self._stream)
        for name in self._output_names:
            self._driver.memcpy_dtoh_async(self._host[name][:count], self._device[name], self._stream)

    def _capture(self, context: Any, count: int) -> None:
        try:
            if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self._stream.handle):
                raise DriverCallError("the plan cannot be captured")
            self._graphs[count] = Graph(self._stream, lambda: self._enqueue(context, count))
        except (DriverCallError, EngineError, self._driver.Error) as error:
            self._use_graphs = False
            log.warning("TensorRT goes on without CUDA graphs, somewhat slower: %s", error)


def _has_graph(count: int) -> bool:
    """1, 2, 4, 8 and so on: a graph takes memory, and the other numbers are rare."""
    return count & (count - 1) == 0
