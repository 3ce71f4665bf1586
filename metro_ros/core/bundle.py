"""The bundle: the directory that carries a trained model from training to running. Only this module knows its files.

    manifest.json   see metro_ros.core.manifest
    model.onnx      image uint8 (N, S, S, 3) RGB → joints (N, J, 3), vertices (N, V, 3), camera (N, 3), optionally
                    confidence (N, J) in [0, 1] and, where the manifest says what that means, visibility (N, J);
                    metres, root-relative; N dynamic
    mesh.npz        faces_0.. (F_l, 3) int32 and rows_0.. (V_l,) int32, coarsest level first; template (V, 3) float32;
                    joint_regressor (J, V) float32
    model.X.onnx    the same network in precision X, where the manifest tells its error; checked when it is asked for
    finder.onnx, pose_detector.onnx, attention.onnx    further networks that the manifest names as parts; checked when
                    they are asked for; they may read weights out of model.onnx

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
from metro_ros.core.errors import BundleError, ConfigError, EngineError
from metro_ros.core.manifest import CropSpec, Manifest
from metro_ros.core.skeleton import Skeleton

__all__ = [
    "Bundle",
    "CropSpec",
    "Manifest",
    "add_part",
    "add_variant",
    "built_in_bundles",
    "default_bundle_path",
    "file_sha256",
    "load_bundle",
    "record_measurement",
    "write_bundle",
]

MANIFEST_FILE, MODEL_FILE, MESH_FILE = "manifest.json", "model.onnx", "mesh.npz"
MODELS = Path(__file__).resolve().parents[1] / "models"
"""Where the bundles lie that come with the package."""
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
        """The ONNX file, fp32."""
        return self.path / MODEL_FILE

    def model_file(self, precision: str) -> Path:
        """The ONNX file of a precision, checked against its hash.

        Raises EngineError when the bundle has no such variant, BundleError when the file is another.
        """
        if precision == "fp32":
            return self.model_path
        variant = self.manifest.variants.get(precision)
        if variant is None:
            raise EngineError(
                f"the model in {self.path}",
                expected=" or ".join(("fp32", *self.manifest.variants)),
                got=precision,
                remedy=f"make it with python -m training.variants {self.path} --precision {precision}",
            )
        _check_file(self.path / variant.file, self.manifest)
        return self.path / variant.file

    def part_file(self, name: str) -> Path | None:
        """The ONNX file of a part, checked against its hash, or None when the bundle has no such part.

        Raises BundleError when the file is another.
        """
        part = self.manifest.parts.get(name)
        if part is None:
            return None
        _check_file(self.path / part.file, self.manifest)
        return self.path / part.file

    def level(self, vertices: int) -> int:
        """Index of the level with that many vertices. Raises ConfigError when there is none."""
        if vertices not in self.levels:
            raise ConfigError("no such mesh level", expected=" or ".join(map(str, self.levels)), got=vertices)
        return self.levels.index(vertices)


def default_bundle_path() -> Path:
    """Where the bundle lies that comes with the package."""
    return MODELS / "default"


def built_in_bundles() -> tuple[str, ...]:
    """Names of the bundles that come with the package, in order."""
    return tuple(sorted(path.parent.name for path in MODELS.glob(f"*/{MANIFEST_FILE}")))


def load_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle. Raises BundleError when anything is missing, damaged or contradictory.

    path: its directory; or, where there is no such directory, the name of one that comes with the package.

    Whether the network computes finite numbers is checked by `metro_ros.core.engines.open_engine`.
    """
    path = Path(path)
    if not path.is_dir():
        if str(path) not in built_in_bundles():
            expected = " or ".join((f"a directory with {MANIFEST_FILE}", *built_in_bundles()))
            raise BundleError("no model bundle", expected=expected, got=path, remedy=REMEDY)
        path = MODELS / path
    for name in (MANIFEST_FILE, MODEL_FILE, MESH_FILE):
        if not (path / name).is_file():
            raise BundleError(f"the bundle {path} is incomplete", expected=name, got="no such file", remedy=REMEDY)
    manifest = manifests.read_manifest(path / MANIFEST_FILE, (MODEL_FILE, MESH_FILE))
    for name in (MODEL_FILE, MESH_FILE):
        _check_file(path / name, manifest)
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
    measured = {**bundle.manifest.measured, name: dict(figures)}
    return _rewrite(bundle, dataclasses.replace(bundle.manifest, measured=measured))


def add_variant(
    bundle: Bundle,
    precision: str,
    model_onnx: bytes,
    *,
    mean_vertex_mm: float,
    max_vertex_mm: float,
    joints_mm: float,
) -> Bundle:
    """Offer the network in another precision; the bundle as it is then. One that was there is replaced.

    model_onnx: inputs and outputs as in model.onnx, typed as it is to be computed. The rest: see `Variant`. Raises
    BundleError when the error is above MAX_VARIANT_MM or the files cannot be written; the bundle is then as before.
    """
    file = f"model.{precision}.onnx"
    fields = {"file": file, "mean_vertex_mm": mean_vertex_mm, "max_vertex_mm": max_vertex_mm, "joints_mm": joints_mm}
    variants = {**bundle.manifest.variants, **manifests.parse_variants({precision: fields})}
    digests = {**bundle.manifest.sha256, file: hashlib.sha256(model_onnx).hexdigest()}
    _write(bundle.path / file, model_onnx)
    return _rewrite(bundle, dataclasses.replace(bundle.manifest, variants=variants, sha256=digests))


def add_part(bundle: Bundle, name: str, model_onnx: bytes, details: Mapping[str, Any]) -> Bundle:
    """Let another network come along, one of manifest.PARTS; the bundle as it is then. One that was there is replaced.

    Raises BundleError for another name, or when the files cannot be written; the bundle is then as before.
    """
    file = f"{name}.onnx"
    parts = {**bundle.manifest.parts, **manifests.parse_parts({name: {"file": file, "details": dict(details)}})}
    digests = {**bundle.manifest.sha256, file: hashlib.sha256(model_onnx).hexdigest()}
    _write(bundle.path / file, model_onnx)
    return _rewrite(bundle, dataclasses.replace(bundle.manifest, parts=parts, sha256=digests))


def _rewrite(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace the manifest, whole or not at all."""
    _write(bundle.path / MANIFEST_FILE, manifests.manifest_json(manifest).encode())
    return load_bundle(bundle.path)


def _write(path: Path, content: bytes) -> None:
    """Write a file of a bundle whole or not at all. Raises BundleError when it cannot be."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BundleError(f"cannot write {path}", got=error) from error


def _check_file(path: Path, manifest: Manifest) -> None:
    """Raises BundleError unless the file is there and is the one that the manifest describes."""
    if not path.is_file():
        raise BundleError(
            f"the bundle {path.parent} is incomplete", expected=path.name, got="no such file", remedy=REMEDY
        )
    digest = file_sha256(path)
    if digest != manifest.sha256[path.name]:
        raise BundleError(
            f"{path} is not the file that the manifest describes",
            expected=f"SHA-256 {manifest.sha256[path.name]}",
            got=digest,
            remedy=REMEDY,
        )


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
