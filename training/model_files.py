"""The files beside an original checkpoint, read as data: SMPL and MANO, mesh sampling, joint regressor, template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.arrays import read_array_file
from metro_ros.core.errors import ConfigError, SourceError
from training.pickle_records import MAX_BYTES, Refused, SparseMatrix
from training.unpickler import check_file, read_npz, read_pickle

SHAPES = 10
"""Shape coefficients in use; some files hold more."""
HAND_POSE = 45
"""Numbers of MANO's finger pose: 15 joints, axis-angle."""
_FIELDS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
_OPTIONAL_FIELDS = ("hands_mean",)
_REACH_M = 10.0

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class BodyModelArrays:
    """A skinned body or hand of the SMPL family (Loper et al. 2015; Romero et al. 2017), in its own axes, metres.

    Attributes:
        v_template: (V, 3) float32.
        shapedirs: (V, 3, B) float32, B >= 10, metres per unit of each shape coefficient.
        posedirs: (V, 3, 9 (K - 1)) float32, metres per entry of the joints' rotation matrices less the identity.
        joint_regressor: (K, V) float32, joints from the shaped mesh.
        weights: (V, K) float32, skinning, rows sum to 1.
        parents: (K,) int64, parents before children, -1 for the root, which is the first.
        faces: (F, 3) int32, normals outward.
        hands_mean: (45,) float32 axis-angle, the mean finger pose of MANO, or None.

    Raises:
        ConfigError: shapes, indices or values that do not fit together.
    """

    v_template: FloatArray
    shapedirs: FloatArray
    posedirs: FloatArray
    joint_regressor: FloatArray
    weights: FloatArray
    parents: NDArray[np.int64]
    faces: IntArray
    hands_mean: FloatArray | None = None

    def __post_init__(self) -> None:
        vertices, joints = len(self.v_template), len(self.parents)
        if self.parents[0] != -1 or not all(0 <= parent < joint for joint, parent in enumerate(self.parents[1:], 1)):
            raise ConfigError("joint tree", expected="a root, then parents before children", got=self.parents.tolist())
        _check_shape("v_template", self.v_template, (None, 3))
        _check_shape("shapedirs", self.shapedirs, (vertices, 3, None))
        if self.shapedirs.shape[2] < SHAPES:
            raise ConfigError("shapedirs", expected=f"{SHAPES} shapes or more", got=self.shapedirs.shape[2])
        _check_shape("posedirs", self.posedirs, (vertices, 3, 9 * (joints - 1)))
        _check_shape("joint regressor", self.joint_regressor, (joints, vertices))
        _check_shape("weights", self.weights, (vertices, joints))
        if np.abs(self.weights.sum(axis=1) - 1).max() > 1e-3:
            raise ConfigError("weights", expected="rows that sum to 1", got="others")
        _check_shape("faces", self.faces, (None, 3))
        if self.faces.min() < 0 or self.faces.max() >= vertices:
            got = f"{self.faces.min()} to {self.faces.max()}"
            raise ConfigError("faces", expected=f"indices of {vertices} vertices", got=got)
        if self.hands_mean is not None:
            _check_shape("hands_mean", self.hands_mean, (HAND_POSE,))


class Template(NamedTuple):
    """tokens (T, 3) float32 metres, template joints then coarse vertices, root-relative; faces (F, 3) int32 or None."""

    tokens: FloatArray
    faces: IntArray | None


def read_body_model(path: Path) -> BodyModelArrays:
    """SMPL or MANO from the .pkl as published, or from an .npz with the same names.

    Raises:
        SourceError: the file cannot be read, names what is not on the allow-list, or does not hold such a model.
    """
    if path.suffix.lower() == ".npz":
        fields = read_npz(path, (*_FIELDS, *_OPTIONAL_FIELDS), _OPTIONAL_FIELDS)
    else:
        fields = read_pickle(path)
    if not isinstance(fields, dict):
        raise SourceError(f"{path} is no body model", expected="a dict of arrays", got=type(fields).__name__)
    try:
        hands_mean = fields.get("hands_mean")
        return BodyModelArrays(
            v_template=_floats(fields, "v_template"),
            shapedirs=_floats(fields, "shapedirs"),
            posedirs=_floats(fields, "posedirs"),
            joint_regressor=_floats(fields, "J_regressor"),
            weights=_floats(fields, "weights"),
            parents=_parents(_numbers(fields, "kintree_table")),
            faces=_indices(_numbers(fields, "f")),
            hands_mean=None if hands_mean is None else _floats(fields, "hands_mean").ravel(),
        )
    except (ConfigError, Refused) as error:
        raise _in_file(path, error) from error


def read_sampling(path: Path, level_sizes: tuple[int, ...]) -> tuple[IntArray, ...]:
    """Which vertices of the finest mesh each level keeps, from the matrices D of a mesh sampling file.

    Args:
        level_sizes: of the levels wanted, coarsest first: (431, 1723, 6890), or (195, 778) of MANO's five.

    Returns:
        (V_level,) int32 per level, coarsest first; the last one counts from 0.

    Raises:
        SourceError: the file cannot be read, a matrix has another size, or does more than pick vertices.
    """
    matrices = read_npz(path, ("D",))["D"]
    steps = len(level_sizes) - 1
    if matrices.dtype != object or matrices.ndim != 1 or len(matrices) < steps:
        got = f"{matrices.dtype} {matrices.shape}"
        raise SourceError(f"D in {path}", expected=f"{steps} sparse matrices or more", got=got)
    rows = [np.arange(level_sizes[-1], dtype=np.int32)]
    for step in range(steps):
        size = (level_sizes[steps - 1 - step], level_sizes[steps - step])
        rows.append(rows[-1][_picked(matrices[step], size, f"D[{step}] in {path}")])
    return tuple(reversed(rows))


def read_joint_regressor(path: Path, shape: tuple[int, int]) -> FloatArray:
    """A joint regressor (J, V) from an .npy file, as float32. Raises SourceError when it is none of that shape."""
    check_file(path)
    array = read_array_file(path, SourceError, MAX_BYTES)
    try:
        regressor = _to_float32("joint regressor", array)
        _check_shape("joint regressor", regressor, shape)
    except ConfigError as error:
        raise _in_file(path, error) from error
    return regressor


def read_template(path: Path, joint_names: tuple[str, ...], level_sizes: tuple[int, ...]) -> Template:
    """The constant that the original network concatenates to its image features, saved in an .npz by its user.

    The file holds `template` (T, 3), template joints then coarsest vertices, metres, root-relative; and, where known,
    `faces` (F, 3) of the finest level and `joint_names`.

    Raises:
        SourceError: the file cannot be read, or does not fit the joints and levels.
    """
    fields = read_npz(path, ("template", "faces", "joint_names"), ("faces", "joint_names"))
    try:
        tokens = _floats(fields, "template")
        _check_shape("template", tokens, (len(joint_names) + level_sizes[0], 3))
        if np.abs(tokens).max() > _REACH_M:
            raise ConfigError("template", expected=f"metres, within {_REACH_M:g}", got=f"{np.abs(tokens).max():g}")
        if "joint_names" in fields:
            names = tuple(map(str, fields["joint_names"].ravel().tolist()))
            if names != joint_names:
                raise ConfigError("joint_names", expected=" ".join(joint_names), got=" ".join(names)[:200])
        if "faces" not in fields:
            return Template(tokens, None)
        faces = _indices(_numbers(fields, "faces"))
        _check_shape("faces", faces, (None, 3))
        if faces.min() < 0 or faces.max() >= level_sizes[-1]:
            expected = f"indices of {level_sizes[-1]} vertices"
            raise ConfigError("faces", expected=expected, got=f"{faces.min()} to {faces.max()}")
        return Template(tokens, faces)
    except (ConfigError, ValueError) as error:  # ValueError: text that is no Unicode
        raise _in_file(path, error) from error


def _picked(matrix: object, size: tuple[int, int], what: str) -> NDArray[np.int64]:
    """The column of the only 1 in each row."""
    if not isinstance(matrix, SparseMatrix) or matrix.shape != size:
        got = matrix.shape if isinstance(matrix, SparseMatrix) else type(matrix).__name__
        raise SourceError(what, expected=f"a sparse matrix of shape {size}", got=got)
    used = matrix.values != 0
    order = np.argsort(matrix.rows[used], kind="stable")
    columns = matrix.columns[used][order]
    one_each = np.array_equal(matrix.rows[used][order], np.arange(size[0]))
    if not one_each or (matrix.values[used] != 1).any() or len(np.unique(columns)) != size[0]:
        raise SourceError(what, expected="a single 1 in every row, each in another column", got="other weights")
    return columns


def _parents(kintree_table: NDArray) -> NDArray[np.int64]:
    """kintree_table is (2, K): parents over joints; the root's parent is 2^32 - 1 or -1."""
    _check_shape("kintree_table", kintree_table, (2, None))
    parents, joints = kintree_table.astype(np.int64)
    if not np.array_equal(joints, np.arange(len(joints))):
        raise ConfigError("kintree_table", expected="joints in order below their parents", got=joints.tolist()[:5])
    return np.concatenate([[-1], parents[1:]])


def _numbers(fields: Mapping[str, Any], name: str) -> NDArray:
    value = fields.get(name)
    if isinstance(value, SparseMatrix):
        return value.dense()
    if isinstance(value, np.ndarray) and value.dtype == object and value.shape == ():
        return _numbers({name: value[()]}, name)  # how np.savez writes a sparse matrix
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        got = "nothing" if value is None else getattr(value, "name", type(value).__name__)
        raise ConfigError(name, expected="an array of numbers", got=got)
    return value


def _floats(fields: Mapping[str, Any], name: str) -> FloatArray:
    return _to_float32(name, _numbers(fields, name))


def _to_float32(name: str, array: NDArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise ConfigError(name, expected="finite numbers", got=f"{np.count_nonzero(~np.isfinite(floats))} that are not")
    return floats


def _indices(array: NDArray) -> IntArray:
    if array.dtype.kind not in "iu" or not array.size or array.max() > np.iinfo(np.int32).max:
        raise ConfigError("faces", expected="vertex indices", got=f"{array.dtype} {array.shape}")
    return array.astype(np.int32)


def _check_shape(name: str, array: NDArray, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits or not array.size:
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        raise ConfigError(name, expected=f"shape ({lengths})", got=array.shape)


def _in_file(path: Path, error: Exception) -> SourceError:
    if isinstance(error, ConfigError):
        return SourceError(f"{error.what} in {path}", expected=error.expected, got=error.got)
    return SourceError(f"cannot read {path}", expected="plain arrays", got=error)
