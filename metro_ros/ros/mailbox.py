"""A box for one item between two threads: a newer one replaces an older one, so latency never queues up."""

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One slot. `put` never waits; `take` waits for an item or for `close`. Any number of threads on either side."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> bool:
        """Leave `item`. True when that drops something: an older item that no one took, or this one after `close`."""
        with self._changed:
            drops = self._closed or self._item is not None
            if not self._closed:
                self._item = item
                self._changed.notify()
            return drops

    def take(self) -> T | None:
        """Wait for an item and remove it; None once the box is closed, even if an item was left."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> None:
        """Wake everyone who waits; from now on `take` gives None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
