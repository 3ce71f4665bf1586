"""What a network needs to know about a body: joints, mesh levels, template, regressor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metro_ros.core.errors import ConfigError
from metro_ros.core.skeleton import J14, Skeleton

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

J14_NAMES = J14
J14_PARENTS = (1, 2, 12, 12, 3, 4, 7, 8, 12, 12, 9, 10, -1, 12)
"""J14 has no pelvis: the hips hang from the neck, which is the root of the drawn tree."""

HAND_21_NAMES = ("Wrist", *(f"{f}_{i}" for f in ("Thumb", "Index", "Middle", "Ring", "Pinky") for i in range(1, 5)))
HAND_21_PARENTS = (-1, *(0 if i % 4 == 0 else i for i in range(20)))


@dataclass(frozen=True, slots=True, eq=False)
class MeshSpec:
    """One body, hand or other mesh, as the network and the exporter see it.

    Levels run from the coarsest to the finest. All lengths are metres, relative to the root, in the axes of the
    network's output (x right, y down, z forward).

    Attributes:
        name: short identifier, e.g. "anny-111".
        joint_names: J names, in the order of the joint tokens.
        joint_parents: J indices into joint_names, -1 for the root of the tree.
        root_joints: joints whose mean is the origin (mid-hip: both hips; hand: the wrist).
        level_sizes: vertices of each level, coarsest first.
        template_tokens: (J + level_sizes[0], 3) float32, template joints then coarsest template vertices.
        joint_regressor: (J, level_sizes[-1]) float32, joints from the finest mesh, or None if unknown.
        root_regressor: (level_sizes[-1],) float32, the origin from the finest mesh where that is no joint's mean (the
            paper's body: the H36M pelvis), or None; see `root_row`.
        template: (level_sizes[-1], 3) float32, finest template, or None.
        faces: per level (F, 3) int32, F = 0 where a level's are unknown, or empty.
        rows: per level (V_level,) int32, the rows of the finest mesh that make it, or empty.
        upsampling: per step (V_next, V_level) float32, the matrix a learned upsampling starts from, or empty for
            random ones.

    The optional parts are needed by the losses on regressed joints (joint_regressor) and by the exporter (all but
    upsampling); a network alone does without.

    Raises:
        ConfigError: shapes, indices or values that do not fit together.
    """

    name: str
    joint_names: tuple[str, ...]
    joint_parents: tuple[int, ...]
    root_joints: tuple[int, ...]
    level_sizes: tuple[int, ...]
    template_tokens: FloatArray
    joint_regressor: FloatArray | None = None
    template: FloatArray | None = None
    faces: tuple[IntArray, ...] = ()
    rows: tuple[IntArray, ...] = ()
    upsampling: tuple[FloatArray, ...] = ()
    root_regressor: FloatArray | None = None

    def __post_init__(self) -> None:
        joints, finest, levels = self.joint_count, self.level_sizes[-1], len(self.level_sizes)
        Skeleton(self.joint_names, self.joint_parents)  # raises unless they form a forest
        if not self.root_joints or not all(0 <= j < joints for j in self.root_joints):
            raise ConfigError("root joints", expected=f"indices below {joints}", got=self.root_joints)
        _check_array("template_tokens", self.template_tokens, (self.token_count, 3))
        if self.joint_regressor is not None:
            _check_array("joint_regressor", self.joint_regressor, (joints, finest))
        if self.root_regressor is not None:
            _check_array("root_regressor", self.root_regressor, (finest,))
        if self.template is not None:
            _check_array("template", self.template, (finest, 3))
        for what, arrays, count in (
            ("faces", self.faces, levels),
            ("rows", self.rows, levels),
            ("upsampling", self.upsampling, levels - 1),
        ):
            if len(arrays) not in (0, count):
                raise ConfigError(f"mesh {what}", expected=f"none or one for each of {count}", got=len(arrays))
        for level, (faces, size) in enumerate(zip(self.faces, self.level_sizes, strict=False)):
            _check_indices(f"faces of level {level}", faces, size, least=0)
        for level, (rows, size) in enumerate(zip(self.rows, self.level_sizes, strict=False)):
            _check_indices(f"rows of level {level}", rows, finest)
            if rows.shape != (size,):
                raise ConfigError(f"rows of level {level}", expected=(size,), got=rows.shape)
        for step, matrix in enumerate(self.upsampling):
            _check_array(f"upsampling {step}", matrix, (self.level_sizes[step + 1], self.level_sizes[step]))

    @property
    def joint_count(self) -> int:
        """J, the number of joint tokens."""
        return len(self.joint_names)

    @property
    def root_row(self) -> FloatArray | None:
        """(level_sizes[-1],) float32, what gives the origin of a finest mesh; None when nothing is known of it."""
        if self.root_regressor is not None or self.joint_regressor is None:
            return self.root_regressor
        return self.joint_regressor[list(self.root_joints)].mean(axis=0)

    @property
    def token_count(self) -> int:
        """T = J + coarsest vertices."""
        return self.joint_count + self.level_sizes[0]


def body_431(
    template_tokens: FloatArray, joint_regressor: FloatArray | None = None, root_regressor: FloatArray | None = None
) -> MeshSpec:
    """The paper's body: 14 joints, 431 / 1,723 / 6,890 vertices.

    Args:
        template_tokens: (445, 3) float32, the root-relative template of the SMPL files a user holds a licence for.
        joint_regressor: (14, 6890) float32, J14 rows of the H36M regressor, for training.
        root_regressor: (6890,) float32, its pelvis row.
    """
    return MeshSpec(
        "body-431", J14_NAMES, J14_PARENTS, (2, 3), (431, 1723, 6890), template_tokens, joint_regressor,
        root_regressor=root_regressor,
    )  # fmt: skip


def hand_195(template_tokens: FloatArray, joint_regressor: FloatArray | None = None) -> MeshSpec:
    """The paper's right hand: 21 joints, 195 / 778 vertices.

    Args:
        template_tokens: (216, 3) float32, wrist-relative mean hand of the MANO files a user holds a licence for.
        joint_regressor: (21, 778) float32, for training.
    """
    return MeshSpec("hand-195", HAND_21_NAMES, HAND_21_PARENTS, (0,), (195, 778), template_tokens, joint_regressor)


def _check_array(what: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float32:
        raise ConfigError(f"mesh {what}", expected=f"float32 {shape}", got=f"{array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ConfigError(f"mesh {what}", expected="finite numbers", got="NaN or infinity")


def _check_indices(what: str, indices: np.ndarray, below: int, least: int = 1) -> None:
    outside = indices.size > 0 and (indices.min() < 0 or indices.max() >= below)
    if indices.dtype != np.int32 or indices.size < least or outside:
        got = f"{indices.dtype}, {indices.size} of them"
        raise ConfigError(f"mesh {what}", expected=f"int32 indices in [0, {below})", got=got)
