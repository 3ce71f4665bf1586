"""The names that a pickle of SMPL, MANO, 3DPW or mesh sampling may use, and the records that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from training.pickle_records import SHOWN, Array, Chumpy, DType, Global, Record, Refused, Sparse, make_array

_CHUMPY_MODULE = re.compile(r"chumpy(\.[a-z_]+)?")
_KEY_DEPTH = 3


def find_global(module: str, name: str) -> Global:
    """What a pickle means by `module` and `name`. Raises Refused for what is not on the list."""
    known = _GLOBALS.get((module, name))
    if known is not None:
        return known
    full = f"{module}.{name}"
    if _CHUMPY_MODULE.fullmatch(module) and name.isidentifier():
        return Global(full, make=lambda: Chumpy(full))
    raise Refused(f"the global {full[:SHOWN]!a}, which is not on the allow-list")


def check_key(key: object, depth: int = _KEY_DEPTH) -> None:
    """Raises Refused for deeply nested tuples: they would be hashed by C code that does not count its depth."""
    if isinstance(key, tuple):
        if depth == 0:
            raise Refused("a key of nested tuples")
        for part in key:
            check_key(part, depth - 1)


def _allowed_globals() -> dict[tuple[str, str], Global]:
    allowed: dict[tuple[str, str], Global] = {}

    def allow(modules: Iterable[str], name: str, **makers: Callable[..., Any]) -> None:
        for module in modules:
            allowed[module, name] = Global(f"{module}.{name}", **makers)

    builtins, cores = ("__builtin__", "builtins"), ("numpy.core", "numpy._core")
    allow(["numpy"], "ndarray")
    allow(["numpy"], "dtype", call=DType)
    allow([f"{core}.multiarray" for core in cores], "_reconstruct", call=_empty_array)
    allow([f"{core}.multiarray" for core in cores], "scalar", call=_scalar)
    allow([f"{core}.numeric" for core in cores], "_frombuffer", call=_from_buffer)
    allow(["copy_reg", "copyreg"], "_reconstructor", call=_reconstruct)
    allow(builtins, "object")
    allow(builtins, "set", call=_set)
    allow(builtins, "bytes", call=lambda: b"")  # how protocol 2 writes the empty ones
    allow(["_codecs"], "encode", call=_encode)
    allow(["collections"], "OrderedDict", call=_ordered_dict)
    for kind in ("csc", "csr", "coo"):
        for name in (f"{kind}_matrix", f"{kind}_array"):
            allow([f"scipy.sparse.{kind}", f"scipy.sparse._{kind}"], name, make=lambda kind=kind: Sparse(kind))
    return allowed


def _empty_array(kind: object, *_: object) -> Array:
    if not (isinstance(kind, Global) and kind.name == "numpy.ndarray"):
        raise Refused("an array of a class that is not numpy.ndarray")
    return Array()


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> Array:
    return Array(make_array(content, dtype, shape, order))


def _scalar(dtype: object, content: object) -> Any:
    return make_array(content, dtype, (), "C")[()]


def _reconstruct(kind: object, base: object, state: object) -> Record:
    """How protocols 0 and 1 make an empty object."""
    fits = isinstance(kind, Global) and isinstance(base, Global) and base.name.endswith(".object") and state is None
    if not fits or kind.make is None:  # type: ignore[attr-defined]
        raise Refused("an object of a class that is not on the allow-list")
    return kind.make()  # type: ignore[attr-defined]


def _encode(text: object, encoding: object) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("text in an unknown encoding")
    return text.encode("latin1")


def _set(items: object = ()) -> set[object]:
    if not isinstance(items, list | tuple):
        raise Refused("a set of something else than a list")
    for item in items:
        check_key(item)
    return set(items)


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    """Python's own dicts keep their order."""
    if not isinstance(pairs, list | tuple) or not all(isinstance(pair, list | tuple) for pair in pairs):
        raise Refused("an OrderedDict of something else than pairs")
    for key, _ in pairs:
        check_key(key)
    return dict(pairs)


_GLOBALS = _allowed_globals()
