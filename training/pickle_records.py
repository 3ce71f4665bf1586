"""What pickles of SMPL, MANO, 3DPW and mesh sampling are made of, as inert records that only hold what they were told.

A pickle makes an object empty and gives it its state later, perhaps while others already point to it. So every object
is a record first, and `plain` turns a finished tree of records into arrays, sparse matrices and plain containers.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 30
"""Largest file, array or dense matrix taken: 1 GiB, 27 times the SMPL file."""
SHOWN = 120
"""Characters of a file's own text that an error repeats."""
MAX_DIMENSIONS = 8
_CODE = re.compile(r"[biuf][1248]|[SU]\d{1,9}|f16")


class Refused(pickle.UnpicklingError):
    """Something in a pickle is not on the allow-list, or not what it has to be; its text fits an error's `got`."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """What a pickle may name: `call` makes a value from arguments, `make` an empty record."""

    name: str
    call: Callable[..., object] | None = None
    make: Callable[[], Record] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SparseMatrix:
    """A two-dimensional sparse matrix: `values[i]` at `rows[i]`, `columns[i]`; places that repeat add up."""

    shape: tuple[int, int]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray

    def dense(self) -> NDArray[np.float64]:
        """The same matrix, (rows, columns). Raises Refused when that would take more than `MAX_BYTES`."""
        if 8 * math.prod(self.shape) > MAX_BYTES:
            raise Refused(f"a sparse matrix of shape {self.shape}, too large to be written out")
        matrix = np.zeros(self.shape)
        np.add.at(matrix, (self.rows, self.columns), self.values)
        return matrix


@dataclass(frozen=True, slots=True, eq=False)
class UnknownNode:
    """An expression of chumpy whose value its state does not hold; `name` is its class."""

    name: str


class Record:
    """Something that a pickle makes empty and then gives a state."""

    def build(self, state: Any) -> None:
        """Take the state. Raises Refused when it is none for this kind of record."""
        raise Refused(f"a state for {type(self).__name__}")


class DType(Record):
    """A NumPy type, as numpy.dtype(code, align, copy) and its state give it: numbers, text or objects."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.is_object = code in ("O", "O4", "O8")
        if not self.is_object and not (isinstance(code, str) and _CODE.fullmatch(code)):
            raise Refused(f"an array of type {str(code)[:20]!a}")
        self.dtype = np.dtype(object) if self.is_object else np.dtype(code)  # type: ignore[call-overload]

    def build(self, state: Any) -> None:
        order, *structure = _tuple(state, 5, 9)[1:5]
        if order not in ("<", ">", "|", "=") or structure != [None] * 3:
            raise Refused("a structured array type")
        self.dtype = self.dtype.newbyteorder(order)


class Array(Record):
    """numpy.ndarray, by `numpy.core.multiarray._reconstruct` and its state or by `numpy.core.numeric._frombuffer`."""

    def __init__(self, value: NDArray | None = None) -> None:
        self.value = value

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran_order, content = _tuple(state, 5, 5)
        self.value = make_array(content, dtype, shape, "F" if fortran_order else "C")


class Sparse(Record):
    """scipy.sparse csc, csr or coo, as a matrix or an array."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        self.state = _attributes(state)

    def matrix(self) -> SparseMatrix:
        """Raises Refused when indices and shape do not fit each other."""
        shape = _tuple(self.state.get("_shape", self.state.get("shape")), 2, 2)
        if not all(type(length) is int and 0 <= length <= MAX_BYTES for length in shape):
            raise Refused("a sparse matrix without a shape")
        values = self._vector("data")
        if self.kind == "coo":
            if "coords" in self.state:  # SciPy 1.13 and later
                rows, columns = (_index_vector(part) for part in _tuple(self.state["coords"], 2, 2))
            else:
                rows, columns = _index_vector(self.state.get("row")), _index_vector(self.state.get("col"))
        else:
            outer, inner = self._expand(shape[0] if self.kind == "csr" else shape[1])
            values = values[: len(inner)]
            rows, columns = (outer, inner) if self.kind == "csr" else (inner, outer)
        for name, indices, length in (("row", rows, shape[0]), ("column", columns, shape[1])):
            if len(indices) != len(values) or (len(indices) and (indices.min() < 0 or indices.max() >= length)):
                raise Refused(f"a sparse matrix whose {name} indices do not fit shape {shape}")
        return SparseMatrix(shape, rows, columns, values)

    def _expand(self, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Both indices of each entry of a compressed matrix with `length` columns (csc) or rows (csr)."""
        starts, inner = _index_vector(self.state.get("indptr")), _index_vector(self.state.get("indices"))
        counts = np.diff(starts)
        if len(starts) != length + 1 or starts[0] != 0 or starts[-1] > len(inner) or (counts < 0).any():
            raise Refused("a sparse matrix whose index pointers do not fit")
        return np.repeat(np.arange(length), counts), inner[: starts[-1]]

    def _vector(self, name: str) -> NDArray:
        array = _array(self.state.get(name))
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            raise Refused(f"a sparse matrix without {name}")
        return array


class Chumpy(Record):
    """A node of chumpy's expression graph, of any class; none of its code is needed for the two that hold arrays."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        self.state = _attributes(state)

    def value(self) -> NDArray | UnknownNode:
        """The array of a Ch, or of a Select: those `idxs` of the flattened `a`, in its preferred shape."""
        if self.name in ("chumpy.ch.Ch", "chumpy.Ch"):
            return _array(self.state.get("x"))
        if self.name != "chumpy.reordering.Select":
            return UnknownNode(self.name)
        source = self.state.get("a")
        source = source.value() if isinstance(source, Chumpy) else _array(source)
        if isinstance(source, UnknownNode):
            return source
        chosen = source.ravel()[_index_vector(self.state.get("idxs"))]
        shape = self.state.get("preferred_shape")
        return chosen if shape is None else chosen.reshape(_tuple(shape, 0, MAX_DIMENSIONS))


def make_array(content: object, dtype: object, shape: object, order: object) -> NDArray:
    """An array from its bytes (or, of objects, its list); these have to be exactly as many as shape and type say."""
    lengths = _tuple(shape, 0, MAX_DIMENSIONS)
    if not isinstance(dtype, DType) or order not in ("C", "F"):
        raise Refused("an array without a type")
    if not all(type(length) is int and 0 <= length <= MAX_BYTES for length in lengths):
        raise Refused("an array without a shape")
    count = math.prod(lengths)
    if dtype.is_object:
        if not isinstance(content, list) or len(content) != count:
            raise Refused(f"an object array whose content does not fit shape {lengths}")
        objects = np.empty(count, object)
        for index, item in enumerate(content):
            objects[index] = item
        return objects.reshape(lengths, order=order)
    raw = content.encode("latin1") if isinstance(content, str) else content  # Python 2 has one type for both
    if not isinstance(raw, bytes) or len(raw) != count * dtype.dtype.itemsize:
        raise Refused(f"an array whose content does not fit shape {lengths} of {dtype.dtype}")
    return np.ndarray(lengths, dtype.dtype, raw, order=order)


def plain(value: object, done: dict[int, object] | None = None) -> Any:
    """A tree of records as arrays, `SparseMatrix`, `UnknownNode` and plain containers. Raises Refused for others.

    done: results by id, so that what the pickle shares is visited once.
    """
    done = {} if done is None else done
    if id(value) not in done:
        done[id(value)] = _plain(value, done)
    return done[id(value)]


def _plain(value: object, done: dict[int, object]) -> object:
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return value
    if isinstance(value, dict):
        return {plain(key, done): plain(item, done) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(plain(item, done) for item in value)
    if isinstance(value, Chumpy):
        return plain(value.value(), done)
    if isinstance(value, Sparse):
        return value.matrix()
    if isinstance(value, Array):
        return plain(_array(value), done)
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            for index, item in enumerate(value.flat):
                value.flat[index] = plain(item, done)
        return value
    if isinstance(value, UnknownNode):
        return value
    raise Refused(f"a value of type {value.name if isinstance(value, Global) else type(value).__name__}")


def _array(value: object) -> NDArray:
    if isinstance(value, Array) and value.value is not None:
        return value.value
    raise Refused(f"{type(value).__name__} in place of an array")


def _index_vector(value: object) -> NDArray[np.int64]:
    array = _array(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise Refused(f"indices of type {array.dtype} and shape {array.shape}")
    return array.astype(np.int64)


def _tuple(value: object, least: int, most: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or not least <= len(value) <= most:
        raise Refused(f"{type(value).__name__} in place of a tuple of {least} to {most}")
    return value


def _attributes(state: object) -> dict[str, Any]:
    """The attributes of an object's state: a dict, or that and those in slots."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    attributes: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, dict | None):
            raise Refused(f"a state of type {type(part).__name__}")
        attributes |= part or {}
    return attributes
