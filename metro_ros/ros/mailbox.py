"""A box for the newest item of each sender: a newer one replaces an older one, so latency never queues up."""

import threading
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class Mailbox(Generic[S, T]):
    """One slot a sender. `put` never waits; `take` waits for an item or for `close`. For any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: dict[S, T] = {}
        self._closed = False

    def put(self, sender: S, item: T) -> bool:
        """Leave `item`. True when that drops something: the sender's older item that no one took, or, once the box is
        closed, this one.
        """
        with self._changed:
            drops = self._closed or sender in self._items
            if not self._closed:
                self._items[sender] = item
                self._changed.notify()
            return drops

    def take(self) -> dict[S, T]:
        """Wait for an item and remove all that are there; who has waited longest comes first. Empty once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            items, self._items = self._items, {}
            return {} if self._closed else items

    def close(self) -> None:
        """Wake everyone who waits; from now on `take` gives nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
