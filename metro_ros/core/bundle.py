"""The bundle: the directory that carries a trained model from training to running. Only this module knows its files.

    manifest.json   see metro_ros.core.manifest
    model.onnx      image uint8 (N, S, S, 3) RGB → joints (N, J, 3), vertices (N, V, 3), camera (N, 3), optionally
                    confidence (N, J) in [0, 1]; metres, root-relative; N dynamic
    mesh.npz        faces_0.. (F_l, 3) int32 and rows_0.. (V_l,) int32, coarsest level first; template (V, 3) float32;
                    joint_regressor (J, V) float32

V counts the vertices of the finest level; the rows of a level pick its vertices out of those.
"""

import dataclasses
import hashlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metro_ros.core import manifest as manifests
from metro_ros.core.arrays import read_arrays, take_array
from metro_ros.core.errors import BundleError, ConfigError
from metro_ros.core.manifest import CropSpec, Manifest
from metro_ros.core.skeleton import Skeleton

__all__ = [
    "Bundle",
    "CropSpec",
    "Manifest",
    "default_bundle_path",
    "file_sha256",
    "load_bundle",
    "record_measurement",
    "write_bundle",
]

MANIFEST_FILE, MODEL_FILE, MESH_FILE = "manifest.json", "model.onnx", "mesh.npz"
REMEDY = "copy the bundle again, or write it again with python -m training.export"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A validated model; all arrays are read-only.

    levels: vertices of each level, coarsest first; faces: (F_l, 3) int32 per level, indices into that level, normals
    outward; rows: (V_l,) int32 per level, indices into the finest; template: (V, 3) float32, metres, root-relative,
    camera axes; joint_regressor: (J, V) float32; extent_m: largest side of the box around the template; mirrored: faces
    and template are those of the other hand, see metro_ros.core.mirror, while the network stays as it is.
    """

    path: Path
    manifest: Manifest
    skeleton: Skeleton
    levels: tuple[int, ...]
    faces: tuple[npt.NDArray[np.int32], ...]
    rows: tuple[npt.NDArray[np.int32], ...]
    template: npt.NDArray[np.float32]
    joint_regressor: npt.NDArray[np.float32]
    extent_m: float
    mirrored: bool = False

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    def level(self, vertices: int) -> int:
        """Index of the level with that many vertices. Raises ConfigError when there is none."""
        if vertices not in self.levels:
            raise ConfigError("no such mesh level", expected=" or ".join(map(str, self.levels)), got=vertices)
        return self.levels.index(vertices)


def default_bundle_path() -> Path:
    """Where the bundle lies that comes with the package."""
    return Path(__file__).resolve().parents[1] / "models" / "default"


def load_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle. Raises BundleError when anything is missing, damaged or contradictory.

    Whether the network computes finite numbers is checked by `metro_ros.core.engines.open_engine`.
    """
    path = Path(path)
    if not path.is_dir():
        raise BundleError("no model bundle", expected=f"a directory with {MANIFEST_FILE}", got=path, remedy=REMEDY)
    for name in (MANIFEST_FILE, MODEL_FILE, MESH_FILE):
        if not (path / name).is_file():
            raise BundleError(f"the bundle {path} is incomplete", expected=name, got="no such file", remedy=REMEDY)
    manifest = manifests.read_manifest(path / MANIFEST_FILE, (MODEL_FILE, MESH_FILE))
    for name in (MODEL_FILE, MESH_FILE):
        digest = file_sha256(path / name)
        if digest != manifest.sha256[name]:
            raise BundleError(
                f"{path / name} is not the file that the manifest describes",
                expected=f"SHA-256 {manifest.sha256[name]}",
                got=digest,
                remedy=REMEDY,
            )
    return _assemble(path, manifest, read_arrays(path / MESH_FILE, BundleError))


def write_bundle(
    path: str | Path, manifest_fields: Mapping[str, Any], model_onnx: bytes, mesh: Mapping[str, npt.NDArray]
) -> Bundle:
    """Write a bundle and return it as `load_bundle` reads it; one already at `path` is replaced whole, or not at all.

    manifest_fields: the fields of manifest.json but `files`; `schema`, `axes`, `units`, `measured` and `levels` may be
    left out. mesh: the arrays of mesh.npz. Raises BundleError for what `load_bundle` would refuse.
    """
    path = Path(path)
    arrays = {name: np.ascontiguousarray(array) for name, array in mesh.items()}
    levels = [len(arrays[f"rows_{index}"]) for index in range(len(arrays)) if f"rows_{index}" in arrays]
    defaults = {"schema": manifests.SCHEMA, "axes": manifests.AXES, "units": manifests.UNITS, "measured": {}}
    manifest = manifests.parse_manifest({**defaults, "levels": levels, **manifest_fields})
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    contents = {MODEL_FILE: model_onnx, MESH_FILE: packed.getvalue()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = dataclasses.replace(manifest, sha256=digests)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        staged = Path(scratch) / "new"
        staged.mkdir()
        for name, content in contents.items():
            (staged / name).write_bytes(content)
        (staged / MANIFEST_FILE).write_text(manifests.manifest_json(manifest), encoding="utf-8")
        load_bundle(staged)
        if path.exists():
            path.rename(Path(scratch) / "old")
        staged.rename(path)
    return load_bundle(path)


def record_measurement(bundle: Bundle, name: str, figures: Mapping[str, Any]) -> Bundle:
    """Keep what was measured in the manifest, under `name`; the bundle as it is then. figures: JSON.

    Raises BundleError when the manifest cannot be written; it is then as before.
    """
    manifest = dataclasses.replace(bundle.manifest, measured={**bundle.manifest.measured, name: dict(figures)})
    partial = bundle.path / f".{MANIFEST_FILE}.partial"
    try:
        partial.write_text(manifests.manifest_json(manifest), encoding="utf-8")
        partial.replace(bundle.path / MANIFEST_FILE)
    except OSError as error:
        raise BundleError(f"cannot write the manifest of {bundle.path}", got=error) from error
    return load_bundle(bundle.path)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _assemble(path: Path, manifest: Manifest, arrays: dict[str, npt.NDArray]) -> Bundle:
    """Check shapes, types, index ranges and finiteness of the mesh against the manifest."""
    levels, joints = manifest.levels, len(manifest.skeleton)
    vertices = levels[-1]
    faces, rows = [], []
    for index, count in enumerate(levels):
        face = take_array(arrays, f"faces_{index}", ("int32",), (None, 3), _mesh_error)
        row = take_array(arrays, f"rows_{index}", ("int32",), (count,), _mesh_error)
        for name, array, bound in ((f"faces_{index}", face, count), (f"rows_{index}", row, vertices)):
            if array.size and (array.min() < 0 or array.max() >= bound):
                raise _mesh_error(f"{name}, index out of range", f"0..{bound - 1}", f"{array.min()}..{array.max()}")
        faces.append(face)
        rows.append(row)
    if not np.array_equal(rows[-1], np.arange(vertices)):
        raise _mesh_error(f"rows_{len(levels) - 1}, the finest level", f"0..{vertices - 1} in order", "other rows")
    template = take_array(arrays, "template", ("float32",), (vertices, 3), _mesh_error)
    joint_regressor = take_array(arrays, "joint_regressor", ("float32",), (joints, vertices), _mesh_error)
    if arrays:
        raise _mesh_error(
            "unknown arrays", f"{len(levels)} levels, template, joint_regressor", ", ".join(sorted(arrays))
        )
    extent_m = float(np.ptp(template, axis=0).max())
    if extent_m <= 0:
        raise _mesh_error("template", "vertices that differ", "all in one place")
    return Bundle(
        path, manifest, manifest.skeleton, levels, tuple(faces), tuple(rows), template, joint_regressor, extent_m
    )


def _mesh_error(what: str, expected: object, got: object) -> BundleError:
    return BundleError(f"{MESH_FILE}, {what}", expected=expected, got=got, remedy=REMEDY)
