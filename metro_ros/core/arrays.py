"""Read .npz archives as data: no pickles, and no allocation that the archive does not back with bytes."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from metro_ros.core.errors import MetroError

MAX_BYTES = 1 << 28
"""Largest archive content taken: 256 MiB, a hundred times the default mesh."""


def read_arrays(path: Path, error: type[MetroError], max_bytes: int = MAX_BYTES) -> dict[str, npt.NDArray]:
    """Every array of the .npz file at `path`, by name, read-only.

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
                    arrays[name] = _read_array(file, entry.file_size, f"{name} in {path}", error)
            return arrays
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as cause:
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


def _read_array(file: IO[bytes], entry_bytes: int, what: str, error: type[MetroError]) -> npt.NDArray:
    """One array; its header is believed only if it asks for exactly the bytes that follow."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"format version {version}")
    except ValueError as cause:
        raise error(f"{what} is no array", expected="an .npy header", got=cause) from cause
    if dtype.hasobject or dtype.kind not in "biuf":
        raise error(f"{what} must hold plain numbers", expected="integers or floats", got=f"dtype {dtype}")
    wanted = dtype.itemsize
    for length in shape:
        wanted *= length
    remaining = entry_bytes - file.tell()
    if wanted != remaining or min(shape, default=0) < 0:
        raise error(f"the header of {what} lies", expected=f"{remaining} bytes", got=f"shape {shape} of {dtype}")
    raw = file.read(remaining)
    if len(raw) != remaining:
        raise error(f"{what} is cut off", expected=f"{remaining} bytes", got=len(raw))
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran_order else "C")
