"""Read .npz and .npy files as data: no pickles, and no allocation that the file does not back with bytes."""

import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.errors import MetroError

MAX_BYTES = 1 << 28
"""Largest archive content taken: 256 MiB, a hundred times the default mesh."""


ARCHIVE_ERRORS = (OSError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError)
"""What zipfile raises for a damaged archive; for an unknown compression or a password, kinds of RuntimeError."""
NUMBERS = "biuf"
"""Kinds of dtypes that are plain numbers."""


def read_arrays(
    path: Path, error: type[MetroError], max_bytes: int = MAX_BYTES, *, text: bool = False
) -> dict[str, npt.NDArray]:
    """Every array of the .npz file at `path`, by name, read-only.

    text: arrays of strings are taken too, not only numbers.

    Raises `error` when the file is no .npz, declares more than `max_bytes`, holds Python objects, or a header disagrees
    with the bytes behind it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            declared = sum(entry.file_size for entry in entries)
            if declared > max_bytes:
                raise error(f"{path} is too large", expected=f"at most {max_bytes} bytes", got=f"{declared} declared")
            arrays = {}
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename:
                    raise error(f"unknown entry in {path}", expected="only .npy files", got=repr(entry.filename))
                with archive.open(entry) as file:
                    arrays[name] = _read_array(file, entry.file_size, f"{name} in {path}", error, NUMBERS + "U" * text)
            return arrays
    except ARCHIVE_ERRORS as cause:
        raise error(f"cannot read {path}", expected="an .npz archive", got=f"{type(cause).__name__} {cause}") from cause


def take_array(
    arrays: dict[str, npt.NDArray],
    name: str,
    dtypes: tuple[str, ...],
    shape: tuple[int | None, ...],
    fail: Callable[[str, object, object], MetroError],
) -> npt.NDArray:
    """Remove `name` from `arrays` and return it, if it has one of the types, the shape (None: any length) and no NaN.

    Raises what `fail(name, expected, got)` returns otherwise.
    """
    array = arrays.pop(name, None)
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    wanted = f"{' or '.join(dtypes)} ({lengths})"
    if array is None:
        raise fail(name, wanted, "nothing")
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if array.dtype.name not in dtypes or not fits:
        raise fail(name, wanted, f"{array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise fail(name, "finite numbers", f"{np.count_nonzero(~np.isfinite(array))} that are not")
    return array


def read_array_file(path: Path, error: type[MetroError], max_bytes: int = MAX_BYTES) -> npt.NDArray:
    """The array of the .npy file at `path`, read-only. Raises `error` for the reasons that `read_arrays` does."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if size > max_bytes:
                raise error(f"{path} is too large", expected=f"at most {max_bytes} bytes", got=size)
            return _read_array(file, size, str(path), error)
    except (OSError, ValueError) as cause:
        raise error(f"cannot read {path}", expected="an .npy file", got=f"{type(cause).__name__} {cause}") from cause


class Header(NamedTuple):
    """What an .npy file says of its array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def read_header(file: IO[bytes], what: str, error: type[MetroError]) -> Header:
    """The header at the start of an .npy file; nothing in it is evaluated. Raises `error` when it is none."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return Header(*np.lib.format.read_array_header_1_0(file))
        if version == (2, 0):
            return Header(*np.lib.format.read_array_header_2_0(file))
        raise ValueError(f"format version {version}")
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as cause:
        raise error(f"{what} is no array", expected="an .npy header", got=cause) from cause


def read_values(file: IO[bytes], header: Header, entry_bytes: int, what: str, error: type[MetroError]) -> npt.NDArray:
    """The array behind a header, which is believed only if it asks for exactly the bytes that follow."""
    shape, fortran_order, dtype = header
    wanted = dtype.itemsize * math.prod(shape)
    remaining = entry_bytes - file.tell()
    if wanted != remaining or min(shape, default=0) < 0:
        raise error(f"the header of {what} lies", expected=f"{remaining} bytes", got=f"shape {shape} of {dtype}")
    raw = file.read(remaining)
    if len(raw) != remaining:
        raise error(f"{what} is cut off", expected=f"{remaining} bytes", got=len(raw))
    return np.ndarray(shape, dtype, raw, order="F" if fortran_order else "C")


def _read_array(
    file: IO[bytes], entry_bytes: int, what: str, error: type[MetroError], kinds: str = NUMBERS
) -> npt.NDArray:
    header = read_header(file, what, error)
    if header.dtype.hasobject or header.dtype.kind not in kinds:
        raise error(f"{what} must hold plain numbers", expected="integers or floats", got=f"dtype {header.dtype}")
    return read_values(file, header, entry_bytes, what, error)
