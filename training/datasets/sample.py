"""The one sample that every dataset yields, and the small interface that all of them have.

A sample is one person, or one hand, in one image, as its dataset tells of it: no crop taken, nothing augmented. What a
dataset does not know is None or has confidence 0, so that sets with different labels mix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import Box
from metro_ros.core.errors import MetroError


class SampleError(MetroError):
    """One row of a dataset cannot be used: damaged, incomplete, or not what the format says. The others still can."""


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """What a renderer knows of every cell of the image: the same square as the image, D cells a side.

    Attributes:
        mask: (D, D) float32, share of the person in each cell, what hides it left out.
        surface: (3, D, D) float32, template coordinates of the visible surface, metres.
    """

    mask: NDArray[np.float32]
    surface: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One labelled person or hand.

    Joints come in the order of the dataset's `joint_names`. Metres, axes of the camera (x right, y down, z forward).

    Attributes:
        key: names the row for people: file and row, or the image's name.
        image: (H, W, 3) uint8 RGB.
        box: the square around the subject, image pixels; padding included.
        keypoints_px: (J, 2) float32, image pixels, integers at pixel centres.
        keypoint_confidence: (J,) float32 in 0..1; 0 where the keypoint is unknown.
        joints: (J, 3) float32, relative to the dataset's root joint.
        joint_confidence: (J,) float32 in 0..1; 0 throughout where 3D is unknown.
        vertices: (V, 3) float32 of one level of the mesh, or None. Relative to any origin; the root is subtracted
            where the mesh is known.
        pose: (P,) float32 axis-angle of SMPL (72) or MANO (48), radians, or None.
        betas: (10,) float32 shape of the same model; None exactly where pose is None.
        dense: or None.
        person: False for an image without anyone, which then carries no other label but `dense`.
    """

    key: str
    image: NDArray[np.uint8]
    box: Box
    keypoints_px: NDArray[np.float32]
    keypoint_confidence: NDArray[np.float32]
    joints: NDArray[np.float32]
    joint_confidence: NDArray[np.float32]
    vertices: NDArray[np.float32] | None = None
    pose: NDArray[np.float32] | None = None
    betas: NDArray[np.float32] | None = None
    dense: Dense | None = None
    person: bool = True

    def __post_init__(self) -> None:
        joints = len(self.keypoints_px)
        _check(self, "keypoints_px", (joints, 2))
        _check(self, "keypoint_confidence", (joints,))
        _check(self, "joints", (joints, 3))
        _check(self, "joint_confidence", (joints,))
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3 or not self.image.size:
            raise SampleError(
                f"{self.key}: image", expected="uint8 (H, W, 3)", got=f"{self.image.dtype} {self.image.shape}"
            )
        if self.vertices is not None:
            _check(self, "vertices", (len(self.vertices), 3))
        if (self.pose is None) != (self.betas is None):
            raise SampleError(f"{self.key}: pose and betas", expected="both or neither", got="one")
        if self.pose is not None and self.betas is not None:
            _check(self, "pose", (self.pose.size,))
            _check(self, "betas", (10,))

    @property
    def has_joints(self) -> bool:
        """Whether any 3D joint is known."""
        return bool(self.joint_confidence.any())


class Dataset(Protocol):
    """Random access to samples. Opening one checks the folder and reads indices only; images are read by row.

    Attributes:
        name: short, for reports.
        joint_names: J names, as `metro_ros.core.skeleton` and `training.mesh_spec` spell them; the same for all rows.
    """

    name: str
    joint_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Raises SampleError when this row cannot be used."""


def _check(sample: Sample, field: str, shape: tuple[int, ...]) -> None:
    array = getattr(sample, field)
    if array.dtype != np.float32 or array.shape != shape:
        raise SampleError(f"{sample.key}: {field}", expected=f"float32 {shape}", got=f"{array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise SampleError(f"{sample.key}: {field}", expected="finite numbers", got="NaN or infinity")
