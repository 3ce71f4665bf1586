"""The last so many samples of an endless source, on the device that trains: rendered once, drawn many times.

A GPU takes crops twenty times as fast as a dozen CPU cores draw them. So loading processes draw new ones for as long as
training runs, a thread lays them into tensors that stay on the device, and every step picks rows at random there and
changes them anew (`training.device_augment`, `training.finder.device_augment`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from metro_ros.core.errors import SourceError

Rows = Mapping[str, Tensor]
"""Field → (N, ...) tensor of N samples, on the CPU; the same fields, dtypes and shapes but for N each time."""
WAIT_S = 0.02


class Pool:
    """Rows that a thread takes from a source; once `capacity` is reached, new ones replace the oldest.

    Args:
        source: gives rows for as long as it is asked; iterated by the thread alone.
        capacity: most rows kept.
        device: where they are kept.

    A context: the thread ends with it, as soon as the source has given what it was asked for last.
    """

    def __init__(self, source: Iterable[Rows], capacity: int, device: torch.device | str) -> None:
        self.capacity, self.device = capacity, torch.device(device)
        self.arrived = 0
        """Rows that have ever come."""
        self._source = source
        self._fields: dict[str, Tensor] = {}
        self._error: Exception | None = None
        self._stopped = threading.Event()
        self.replacing = threading.Lock()
        """Held while rows are replaced; whoever reads several fields holds it, too."""
        self._stream: torch.cuda.Stream | None = None
        self._thread = threading.Thread(target=self._fill, name="pool", daemon=True)

    def __enter__(self) -> Pool:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def __len__(self) -> int:
        """Rows at hand."""
        return min(self.arrived, self.capacity)

    @property
    def fields(self) -> Mapping[str, Tensor]:
        """(capacity, ...) each, the first `len(self)` rows of it there; the same tensors once rows have come."""
        return self._fields

    def wait_for(self, rows: int) -> None:
        """Return when so many are at hand, or all that fit. Raises SourceError when the source ends or fails before."""
        while len(self) < min(rows, self.capacity):
            self.check()
            time.sleep(WAIT_S)

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`count` rows at random, with repetition, copied, on the device.

        Args:
            generator: of the device.

        Raises:
            SourceError: no rows, or the source has failed.
        """
        self.check()
        if not len(self):
            raise SourceError("the pool is empty", expected="rows: wait for them first", got="none")
        rows = torch.randint(len(self), (count,), generator=generator, device=self.device)
        with self.replacing:  # else the image of one row could come with what is said of another
            return {name: field[rows] for name, field in self._fields.items()}

    def check(self) -> None:
        """Raises SourceError where the source has failed or ended."""
        if self._error is not None:
            raise SourceError("the source of the pool failed", got=self._error) from self._error

    def _fill(self) -> None:
        try:
            for rows in self._source:
                if self._stopped.is_set():
                    return
                self._put(rows)
            raise SourceError("the source of the pool ended", expected="rows without end", got=f"{self.arrived} rows")
        except Exception as error:  # said to whoever draws next
            self._error = error

    def _own_stream(self) -> AbstractContextManager[object]:
        """Copies to a GPU that wait for each other alone, and not for all that the training has asked of it."""
        if self.device.type != "cuda":
            return nullcontext()
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        return torch.cuda.stream(self._stream)

    def _put(self, rows: Rows) -> None:
        count = len(next(iter(rows.values())))
        if not self._fields:
            self._fields = {
                name: torch.empty((self.capacity, *field.shape[1:]), dtype=field.dtype, device=self.device)
                for name, field in rows.items()
            }
        place = (torch.arange(count) + self.arrived) % self.capacity
        first, last = int(place[0]), int(place[-1])
        with self._own_stream():
            moved = {name: field.to(self.device) for name, field in rows.items()}
            where = slice(first, last + 1) if last == first + count - 1 else place.to(self.device)
        # All fields at once for whoever draws; on a GPU both go into the same stream, in this order.
        with self.replacing:
            for field in moved.values() if self._stream is not None else ():
                field.record_stream(torch.cuda.current_stream(self.device))
            for name, field in moved.items():
                self._fields[name][where] = field
            self.arrived += count
