"""Read the pickles of SMPL, MANO, 3DPW and mesh sampling by an allow-list: nothing in a file is ever executed.

Neither chumpy nor SciPy is needed or loaded. A name in a pickle stands for a record of `training.pickle_records`, never
for a function or a class of Python's, and the steps that call, create and fill objects act on those records alone.
"""

from __future__ import annotations

import io
import pickle
import stat
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from metro_ros.core.arrays import ARCHIVE_ERRORS, read_header, read_values
from metro_ros.core.errors import MetroError, SourceError
from training.pickle_allow_list import check_key, find_global
from training.pickle_records import MAX_BYTES, SHOWN, Global, Record, Refused, plain

MAX_STEPS = 4_000_000
"""Steps of a pickle; SMPL takes hundreds, the longest sequence of 3DPW some ten thousands."""


def read_pickle(path: Path) -> Any:
    """The content of a pickle by Python 2 or 3: arrays, `SparseMatrix`, and plain containers of them and of text.

    chumpy's Ch and Select become their arrays, its other nodes `UnknownNode`.

    Raises:
        SourceError: no such file, too large, damaged, or it names anything that is not on the allow-list.
    """
    return loads(read_bytes(path), str(path))


def read_npz(path: Path, names: Iterable[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """Arrays of an .npz by name, and no other part of it; those of objects, by the allow-list, as `read_pickle`'s.

    Args:
        names: what to read. optional: which of those may be missing.

    Raises:
        SourceError: no such file, too large, damaged, one is missing, or not on the allow-list.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            declared = sum(entry.file_size for entry in archive.infolist())
            if declared > MAX_BYTES:
                raise SourceError(f"{path} is too large", expected=f"at most {MAX_BYTES} bytes", got=declared)
            arrays = {}
            for name in names:
                if name in entries:
                    with archive.open(entries[name]) as file:
                        arrays[name] = _read_entry(file, entries[name].file_size, f"{name} in {path}")
                elif name not in optional:
                    found = ", ".join(sorted(entries))[:SHOWN]
                    raise SourceError(f"{path} is incomplete", expected=f"an array {name}", got=f"{found!a}")
            return arrays
    except ARCHIVE_ERRORS as cause:
        raise SourceError(f"cannot read {path}", expected="an .npz archive", got=_reason(cause)) from cause


def loads(data: bytes, what: str) -> Any:
    """The content of pickled bytes; `what` names them in errors. See `read_pickle`."""
    try:
        return plain(_Unpickler(io.BytesIO(data), encoding="latin1").load())
    except Exception as cause:  # a damaged pickle can raise anything
        raise SourceError(
            f"cannot read {what}", expected="a pickle of plain arrays, as the original files are", got=_reason(cause)
        ) from cause


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `max_bytes`. Raises SourceError."""
    check_file(path, max_bytes)
    try:
        return path.read_bytes()
    except OSError as cause:
        raise SourceError(f"cannot read {path}", expected="a file", got=cause.strerror or cause) from cause


def check_file(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Raises SourceError unless `path` is a regular file (a device may never end) of at most `max_bytes`."""
    try:
        status = path.stat()
    except OSError as cause:
        raise SourceError(f"cannot read {path}", expected="a file", got=cause.strerror or cause) from cause
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or the like"
        raise SourceError(f"cannot read {path}", expected="a file", got=kind)
    if status.st_size > max_bytes:
        raise SourceError(f"{path} is too large", expected=f"at most {max_bytes} bytes", got=status.st_size)


def _read_entry(file: Any, entry_bytes: int, what: str) -> Any:
    header = read_header(file, what, SourceError)
    if not header.dtype.hasobject:
        if header.dtype.kind not in "biufSU":
            raise SourceError(f"{what} has an unknown type", expected="numbers or text", got=header.dtype)
        return read_values(file, header, entry_bytes, what, SourceError)
    array = loads(file.read(), what)
    if not isinstance(array, np.ndarray) or array.shape != header.shape:
        raise SourceError(f"the header of {what} lies", expected=f"shape {header.shape}", got=np.shape(array))
    return array


def _reason(cause: Exception) -> str:
    text = str(cause).split("\n")[0][:SHOWN]
    return text if isinstance(cause, Refused | MetroError) else f"{type(cause).__name__} {text}"


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, the one written in Python, with the steps replaced that could reach beyond records."""

    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: io.BytesIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.steps = 0

    def find_class(self, module: str, name: str) -> Global:
        return find_global(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
            raise Refused("a call of something that is not on the allow-list")
        self.append(function.call(*arguments))

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Global) or kind.make is None or arguments != ():
            raise Refused("an object of a class that is not on the allow-list")
        self.append(kind.make())

    def build(self) -> None:
        state = self.stack.pop()
        record = self.stack[-1]
        if not isinstance(record, Record):
            raise Refused(f"a state for {type(record).__name__}")
        record.build(state)

    def refuse(self) -> None:
        raise Refused("a step that these files never need")


def _counted(step: Callable[[Any], None]) -> Callable[[_Unpickler], None]:
    def run(unpickler: _Unpickler) -> None:
        unpickler.steps += 1
        if unpickler.steps > MAX_STEPS:
            raise Refused(f"more than {MAX_STEPS} steps")
        step(unpickler)

    return run


def _keyed(step: Callable[[Any], None], keys: slice) -> Callable[[_Unpickler], None]:
    """A step that hashes: nested tuples would be hashed by C code that does not count its depth."""

    def run(unpickler: _Unpickler) -> None:
        for key in unpickler.stack[keys]:
            check_key(key)
        step(unpickler)

    return run


def _dispatch() -> dict[int, Callable[[_Unpickler], None]]:
    steps: dict[bytes, Callable[[Any], None]] = {
        bytes([code]): step for code, step in pickle._Unpickler.dispatch.items()
    }
    unused = (
        pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID, pickle.INST, pickle.OBJ,
        pickle.NEWOBJ_EX, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
    )  # fmt: skip
    steps |= dict.fromkeys(unused, _Unpickler.refuse)
    steps |= {pickle.REDUCE: _Unpickler.reduce, pickle.NEWOBJ: _Unpickler.new_object, pickle.BUILD: _Unpickler.build}
    steps[pickle.BYTEARRAY8] = steps[pickle.BINBYTES8]  # an array's content; Python's step allocates before it reads
    for code, keys in (
        (pickle.SETITEM, slice(-2, -1)),
        (pickle.SETITEMS, slice(0, None, 2)),
        (pickle.DICT, slice(0, None, 2)),
        (pickle.ADDITEMS, slice(None)),
    ):
        steps[code] = _keyed(steps[code], keys)
    return {code[0]: _counted(step) for code, step in steps.items()}


_Unpickler.dispatch = _dispatch()  # type: ignore[assignment]  # of the subclass
