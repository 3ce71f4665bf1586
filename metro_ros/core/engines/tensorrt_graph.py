"""What pycuda lacks of the CUDA driver: graphs, which launch in one call what was enqueued once, and other streams."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on using the GPU while this one captures."""


class DriverCallError(Exception):
    """A call of the driver failed, for the reason that `str()` gives."""


class Graph:
    """What `enqueue` put on a stream, ready to be launched; the memory that it names must stay.

    Raises DriverCallError when it cannot be captured, and whatever `enqueue` raises; the stream is as before then.
    """

    def __init__(self, stream: Any, enqueue: Callable[[], None]) -> None:
        """stream: of pycuda, not the default one. The stream's context must be current, here and in each method."""
        self._executable = ctypes.c_void_p()
        graph = ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), ctypes.c_int(THREAD_LOCAL))
        try:
            enqueue()
        finally:  # it also ends a capture that `enqueue` has spoiled
            ended = _driver().cuStreamEndCapture(ctypes.c_void_p(stream.handle), ctypes.byref(graph))
        _check("cuStreamEndCapture", ended)
        try:
            _call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        finally:
            _call("cuGraphDestroy", graph)

    def launch(self, stream: Any) -> None:
        """Run it on the stream, asynchronously. Raises DriverCallError."""
        _call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream.handle))

    def destroy(self) -> None:
        """Give its memory back. After a fault on the GPU that fails, but then it is gone with everything else there."""
        _driver().cuGraphExecDestroy(self._executable)


def wait_for_stream(handle: int) -> None:
    """Wait until a stream of another library has done its work. Raises DriverCallError."""
    _call("cuStreamSynchronize", ctypes.c_void_p(handle))


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: Any) -> None:
    _check(name, getattr(_driver(), name)(*arguments))


def _check(name: str, status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        raise DriverCallError(f"{name} failed: {(text.value or b'error %d' % status).decode()}")
