"""Mesh specs on disk: every array of a spec in one .npz, names as JSON in bytes, read as data and never unpickled."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.arrays import read_arrays, take_array
from metro_ros.core.errors import ConfigError, SourceError
from training.mesh_spec import MeshSpec

_REMEDY = "write it again, or delete it where it is a cache"
_INDICES = ("joint_parents", "root_joints", "level_sizes")
_OPTIONAL: dict[str, tuple[int | None, ...]] = {
    "joint_regressor": (None, None),
    "root_regressor": (None,),
    "template": (None, 3),
}
"""Arrays that a spec may lack, and their axes."""
_PER_LEVEL: dict[str, tuple[str, tuple[int | None, ...]]] = {
    "faces": ("int32", (None, 3)),
    "rows": ("int32", (None,)),
    "upsampling": ("float32", (None, None)),
}
"""Stored as faces_0, faces_1, …, coarsest level first; upsampling has one fewer. A spec may lack any of them."""


def save_mesh_spec(path: str | Path, spec: MeshSpec) -> None:
    """Write `spec` to `path`, which `load_mesh_spec` reads. A crash, or another process, leaves the old file whole.

    Raises SourceError when the file cannot be written.
    """
    path = Path(path)
    names = json.dumps({"name": spec.name, "joint_names": spec.joint_names})
    arrays: dict[str, NDArray] = {"names": np.frombuffer(names.encode(), np.uint8)}
    for key in _INDICES:
        arrays[key] = np.asarray(getattr(spec, key), np.int64)
    for key in ("template_tokens", *_OPTIONAL):
        if (array := getattr(spec, key)) is not None:
            arrays[key] = array
    for key in _PER_LEVEL:
        arrays |= {f"{key}_{level}": array for level, array in enumerate(getattr(spec, key))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
            written = Path(scratch) / "spec.npz"
            np.savez_compressed(written, **arrays)  # type: ignore[arg-type]
            written.replace(path)
    except OSError as error:
        raise SourceError(f"cannot write the mesh spec {path}", got=error.strerror or error) from error


def load_mesh_spec(path: str | Path) -> MeshSpec:
    """The spec that `save_mesh_spec` wrote. Raises SourceError when the file is missing, damaged or contradictory."""
    path = Path(path)
    arrays = read_arrays(path, SourceError)

    def fail(what: str, expected: object, got: object) -> SourceError:
        return SourceError(f"mesh spec {path}, {what}", expected=expected, got=got, remedy=_REMEDY)

    def take(key: str, dtype: str, shape: tuple[int | None, ...]) -> NDArray:
        return take_array(arrays, key, (dtype,), shape, fail).copy()  # those read are views of bytes, and read-only

    name, joint_names = _names(take("names", "uint8", (None,)), path)
    fields: dict[str, Any] = {"name": name, "joint_names": joint_names}
    for key in _INDICES:
        fields[key] = tuple(take(key, "int64", (None,)).tolist())
    fields["template_tokens"] = take("template_tokens", "float32", (None, 3))
    fields |= {key: take(key, "float32", shape) for key, shape in _OPTIONAL.items() if key in arrays}
    for key, (dtype, shape) in _PER_LEVEL.items():
        stored = [f"{key}_{level}" for level in range(len(arrays)) if f"{key}_{level}" in arrays]
        fields[key] = tuple(take(level, dtype, shape) for level in stored)
    if arrays:
        raise fail("unknown arrays", "those of a mesh spec", ", ".join(sorted(arrays)))
    if not fields["level_sizes"]:
        raise fail("level_sizes", "one level or more", "none")
    try:
        return MeshSpec(**fields)
    except ConfigError as error:
        raise SourceError(f"mesh spec {path} contradicts itself", got=error, remedy=_REMEDY) from error


def _names(encoded: NDArray[np.uint8], path: Path) -> tuple[str, tuple[str, ...]]:
    """The spec's name and its joints' from their bytes."""

    def refuse(got: object) -> NoReturn:
        raise SourceError(f"mesh spec {path}, names", expected="JSON with name and joint_names", got=got)

    try:
        fields = json.loads(encoded.tobytes())
        name, joint_names = fields["name"], fields["joint_names"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        refuse(repr(error))
    if (
        not isinstance(name, str)
        or not isinstance(joint_names, list)
        or not all(isinstance(j, str) for j in joint_names)
    ):
        refuse("other types")
    return name, tuple(joint_names)
