"""Rows of large TSV files by number: their .lineidx, built and checked where it must be, and the bytes of one row.

A .lineidx beside X.tsv is X.lineidx: the byte at which each row starts, one number a line. A file stays open only
while a row is read, so that these objects travel to any number of processes.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.errors import SourceError
from training.datasets.sample import SampleError
from training.unpickler import check_file, read_bytes

_logger = logging.getLogger(__name__)

MAX_ROW_BYTES = 1 << 27
"""Longest row taken: 128 MiB, the base64 of the largest image and its key."""
MAX_INDEX_BYTES = 1 << 28
MAX_TSV_BYTES = 1 << 44
_CHUNK = 1 << 24
_CHECKED = 64
"""Rows of a .lineidx that are compared with the file on opening; each is compared again when it is read."""


class TsvFile:
    """A TSV file by row.

    Raises:
        SourceError: no such file, or no row in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_file(path, MAX_TSV_BYTES)
        self._size = path.stat().st_size
        if not self._size:
            raise SourceError(f"{path} is empty", expected="tab-separated rows", got="0 bytes")
        self._starts = self._read_index()

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, number: int) -> list[bytes]:
        """The columns of a row. Raises SampleError when it is too long, or not where the .lineidx says."""
        start, stop = self._span(self._starts, number)
        what = f"row {number} of {self.path}"
        if stop - start > MAX_ROW_BYTES:
            raise SampleError(f"{what} is too long", expected=f"up to {MAX_ROW_BYTES} bytes", got=stop - start)
        try:
            line = self._read_line(start, stop)
        except OSError as cause:
            raise SampleError(f"{what} cannot be read", got=cause.strerror or cause) from cause
        if line is None:
            remedy = f"the file has changed or {index_path(self.path).name} is another's: open it again, or delete that"
            raise SampleError(f"{what} is not there", expected=f"a line at byte {start}", got="none", remedy=remedy)
        return line.rstrip(b"\r\n").split(b"\t")

    def _span(self, starts: NDArray[np.int64], number: int) -> tuple[int, int]:
        return int(starts[number]), int(starts[number + 1]) if number + 1 < len(starts) else self._size

    def _read_line(self, start: int, stop: int) -> bytes | None:
        """Bytes `start` to `stop` of the file, or None where they are not one line from its start to its end."""
        before = min(start, 1)  # the end of the line in front
        with self.path.open("rb", buffering=0) as file:
            raw = os.pread(file.fileno(), stop - start + before, start - before)
        line = raw[before:]
        if len(line) != stop - start or (before and raw[:1] != b"\n"):
            return None
        newline = line.find(b"\n")
        return line if newline == len(line) - 1 or (newline < 0 and stop == self._size) else None

    def _read_index(self) -> NDArray[np.int64]:
        """From the .lineidx where it is right, else from the file itself, and then the .lineidx is written."""
        path = index_path(self.path)
        if path.exists():
            problem = "no list of bytes"
            with suppress(ValueError, OverflowError, OSError, SourceError):
                starts = np.array(read_bytes(path, MAX_INDEX_BYTES).split(), np.int64)
                problem = self._problem(starts)
                if not problem:
                    return starts
            _logger.warning("%s does not belong to its .tsv (%s): made anew", path, problem)
        starts = _scan(self.path)
        _write_whole(path, "".join(f"{start}\n" for start in starts))
        return starts

    def _problem(self, starts: NDArray[np.int64]) -> str:
        """What is wrong with an index, or nothing: its order, and some rows, first and last among them."""
        if not len(starts) or starts[0] != 0:
            return "it does not start at byte 0"
        if (np.diff(starts) <= 0).any() or starts[-1] >= self._size:
            return f"its bytes do not ascend to below {self._size}"
        for number in np.unique(np.linspace(0, len(starts) - 1, _CHECKED).astype(int)):
            start, stop = self._span(starts, number)
            if stop - start > MAX_ROW_BYTES or self._read_line(start, stop) is None:
                return f"row {number} is not bytes {start} to {stop}"
        return ""


def index_path(tsv: Path) -> Path:
    """Where the .lineidx of a TSV is."""
    return tsv.with_suffix(".lineidx")


def read_line_list(path: Path, columns: int) -> NDArray[np.int64]:
    """(N, columns) whole numbers, one row a line. Raises SourceError when the file is anything else."""
    raw = read_bytes(path, MAX_INDEX_BYTES)
    try:
        numbers = np.array([line.split() for line in raw.splitlines() if line.strip()], np.int64)
    except (ValueError, OverflowError) as cause:
        raise SourceError(f"cannot read {path}", expected=f"{columns} whole numbers a line", got=cause) from cause
    if numbers.ndim != 2 or numbers.shape[1] != columns:
        got = f"shape {numbers.shape}" if numbers.size else "nothing"
        raise SourceError(f"cannot read {path}", expected=f"{columns} whole numbers a line", got=got)
    return numbers


def _scan(path: Path) -> NDArray[np.int64]:
    """(rows,) the byte at which each line starts."""
    parts = [np.zeros(1, np.int64)]
    position = 0
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            with tqdm(total=size, desc=f"rows of {path.name}", unit="B", unit_scale=True, leave=False) as bar:
                while chunk := file.read(_CHUNK):
                    parts.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + position + 1)
                    position += len(chunk)
                    bar.update(len(chunk))
    except OSError as cause:
        raise SourceError(f"cannot read {path}", expected="a TSV file", got=cause.strerror or cause) from cause
    starts = np.concatenate(parts).astype(np.int64)
    return starts[starts < position]


def _write_whole(path: Path, text: str) -> None:
    """Write a file that others see whole or not at all; where nothing can be written, say so and go on."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="ascii")
        partial.replace(path)
    except OSError as cause:
        _logger.warning("cannot write %s (%s): its .tsv is read through each time", path, cause.strerror or cause)
    finally:
        with suppress(OSError):
            partial.unlink()
