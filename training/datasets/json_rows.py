"""JSON files that are one long list of rows of numbers, read as a stream into float32 rows of one shape.

FreiHAND's vertices are 1.7 GB of text, as Python objects several times that. Here only a few rows are ever objects. The
rows of large files are kept in an .npy file, from which single ones are read without holding the others in memory.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.arrays import Header, read_header
from metro_ros.core.errors import SourceError
from training.datasets.labels import take_numbers
from training.datasets.sample import SampleError
from training.unpickler import check_file

_logger = logging.getLogger(__name__)

KEPT_FROM_BYTES = 1 << 26
"""JSON files of this size or more, 64 MiB, get an .npy."""
MAX_JSON_BYTES = 1 << 33
MAX_ROW_CHARACTERS = 1 << 20
_CHUNK = 1 << 22
_MAY_COME = {"start": "[", "first row": "[]", "comma": ",]", "next row": "[", "end": ""}


class NumberRows:
    """Rows of numbers by their index.

    Args:
        path: of the JSON.
        shape: of each row, apart from leading axes of length 1.
        kept_in: folder for the .npy of a large file, named after it, its size and its time: one that does not belong to
            it is not even looked at. Where nothing can be written, the rows stay in memory.

    Raises:
        SourceError: no such file, too large, or no list of lists.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], kept_in: Path) -> None:
        self.path, self.shape = path, shape
        check_file(path, MAX_JSON_BYTES)
        status = path.stat()
        self._file = kept_in / f".{path.name}.{status.st_size}.{status.st_mtime_ns}.npy"
        self._values: NDArray[np.float32] | None = None
        keep = status.st_size >= KEPT_FROM_BYTES
        kept = _open_kept(self._file, shape) if keep else None
        if kept is None:
            self._values = _read_rows(path, shape, status.st_size)
            self._count = len(self._values)
            if keep and _write_kept(self._file, self._values):
                kept = _open_kept(self._file, shape)
        if kept is not None:
            self._count, self._start, self._values = kept.rows, kept.start, None

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> NDArray[np.float32]:
        """Row `number`, of `shape`. Raises SampleError when it holds something else than so many finite numbers."""
        what = f"row {number} of {self.path}"
        values = self._values[number] if self._values is not None else self._read_kept(number, what)
        if not np.isfinite(values).all():
            raise SampleError(what, expected=f"finite numbers {self.shape}", got="something else")
        return values

    def _read_kept(self, number: int, what: str) -> NDArray[np.float32]:
        size = 4 * math.prod(self.shape)
        try:
            with self._file.open("rb", buffering=0) as file:
                raw = os.pread(file.fileno(), size, self._start + size * number)
        except OSError as cause:
            raise SampleError(f"{what}: cannot read {self._file}", got=cause.strerror or cause) from cause
        if len(raw) != size:
            raise SampleError(f"{what}: {self._file} is cut off", expected=f"{size} bytes", got=len(raw))
        return np.frombuffer(raw, "<f4").reshape(self.shape).astype(np.float32)


class _Kept(NamedTuple):
    """What an .npy says: how many rows, and the byte at which they start."""

    rows: int
    start: int


def _read_rows(path: Path, shape: tuple[int, ...], size: int) -> NDArray[np.float32]:
    """(N, *shape) float32; a row of something else is NaN throughout."""
    rows: list[NDArray[np.float32]] = []
    try:
        for row in _parse(_chunks(path, size)):
            try:
                rows.append(take_numbers(row, shape, "row"))
            except SampleError:
                rows.append(np.full(shape, np.nan, np.float32))
    except (OSError, ValueError, RecursionError) as cause:
        raise SourceError(f"cannot read {path}", expected="a JSON list of lists of numbers", got=cause) from cause
    return np.stack(rows) if rows else np.empty((0, *shape), np.float32)


def _chunks(path: Path, size: int) -> Iterator[str]:
    """The text of a file in pieces; the last one is empty."""
    with (
        path.open(encoding="utf-8") as file,
        tqdm(total=size, desc=path.name, unit="B", unit_scale=True, leave=False, delay=2) as bar,
    ):
        while chunk := file.read(_CHUNK):
            bar.update(len(chunk))
            yield chunk
        yield ""


def _parse(chunks: Iterator[str]) -> Iterator[Any]:
    """The entries of the outermost list, one after the other. Raises ValueError when it is no list of lists."""
    decode = json.JSONDecoder().raw_decode
    text, state = "", "start"
    for chunk in chunks:
        text += chunk
        position = 0
        while (position := _after_space(text, position)) < len(text):
            character = text[position]
            if character not in _MAY_COME[state]:
                raise ValueError(f"{character!a} at the {state} of a list")
            if state in ("first row", "next row") and character == "[":
                try:
                    row, position = decode(text, position)
                except ValueError:
                    if not chunk or len(text) - position > MAX_ROW_CHARACTERS:
                        raise
                    break  # it goes on in the next chunk
                state = "comma"
                yield row
                continue
            state = {"[": "first row", ",": "next row", "]": "end"}[character]
            position += 1
        text = text[position:]
    if state != "end":
        raise ValueError("it is cut off")


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _open_kept(path: Path, shape: tuple[int, ...]) -> _Kept | None:
    """What the .npy at `path` says, or None where there is none that fits."""
    try:
        with path.open("rb") as file:
            header: Header = read_header(file, str(path), SourceError)
            start = file.tell()
            size = file.seek(0, os.SEEK_END)
    except (OSError, SourceError):
        return None
    fits = header.dtype == np.dtype("<f4") and not header.fortran_order and header.shape[1:] == shape
    if not fits or size - start != 4 * math.prod(header.shape):
        return None
    return _Kept(header.shape[0], start)


def _write_kept(path: Path, values: NDArray[np.float32]) -> bool:
    """Write an .npy that others see whole or not at all; False where that cannot be."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.lib.format.write_array(file, values.astype("<f4"), (1, 0), allow_pickle=False)
        partial.replace(path)
    except OSError as cause:
        _logger.warning("cannot write %s (%s): these rows stay in memory", path, cause.strerror or cause)
        return False
    finally:
        with suppress(OSError):
            partial.unlink()
    return True
