"""The thread that owns the engine: takes everyone's newest item, handles them, and survives whatever goes wrong."""

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from metro_ros.ros.mailbox import Mailbox

S = TypeVar("S")
T = TypeVar("T")


class Worker(Generic[S, T]):
    """Runs `handle` on the newest item of each sender; `failed` gets every exception, and the next ones are handled."""

    def __init__(self, handle: Callable[[Mapping[S, T]], None], failed: Callable[[Exception], None]) -> None:
        self._handle = handle
        self._failed = failed
        self._mailbox: Mailbox[S, T] = Mailbox()
        self._thread = threading.Thread(target=self._run, name="metro-worker", daemon=True)
        self._thread.start()

    def put(self, sender: S, item: T) -> bool:
        """Hand over an item without waiting. True when an older one of its sender is dropped that had no turn yet."""
        return self._mailbox.put(sender, item)

    def stop(self) -> None:
        """Finish the items at hand, forget the rest, and end the thread."""
        self._mailbox.close()
        self._thread.join()

    def _run(self) -> None:
        while items := self._mailbox.take():
            try:
                self._handle(items)
            except Exception as error:  # the thread must outlive any frame
                self._failed(error)
