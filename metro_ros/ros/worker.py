"""The thread that owns the engine: takes the newest frame, handles it, and survives whatever goes wrong with it."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from metro_ros.ros.mailbox import Mailbox

T = TypeVar("T")


class Worker(Generic[T]):
    """Runs `handle` on the newest item that was put; `failed` gets every exception, and the next item is handled."""

    def __init__(self, handle: Callable[[T], None], failed: Callable[[Exception], None]) -> None:
        self._handle = handle
        self._failed = failed
        self._mailbox: Mailbox[T] = Mailbox()
        self._thread = threading.Thread(target=self._run, name="metro-worker", daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Hand over an item without waiting. True when an older one is dropped that had no turn yet."""
        return self._mailbox.put(item)

    def stop(self) -> None:
        """Finish the item at hand, forget the rest, and end the thread."""
        self._mailbox.close()
        self._thread.join()

    def _run(self) -> None:
        while (item := self._mailbox.take()) is not None:
            try:
                self._handle(item)
            except Exception as error:  # the thread must outlive any frame
                self._failed(error)
