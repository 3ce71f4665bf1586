"""Joints and axis-angle poses by name: selected for a mesh, mirrored, turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.errors import ConfigError

SMPL_24 = (
    "Pelvis", "L_Hip", "R_Hip", "Spine1", "L_Knee", "R_Knee", "Spine2", "L_Ankle", "R_Ankle", "Spine3", "L_Foot",
    "R_Foot", "Neck", "L_Collar", "R_Collar", "Head", "L_Shoulder", "R_Shoulder", "L_Elbow", "R_Elbow", "L_Wrist",
    "R_Wrist", "L_Hand", "R_Hand",
)  # fmt: skip
"""The joints that an SMPL pose turns, in its order."""

_OTHER_SIDE = {"L_": "R_", "R_": "L_"}


def flip_permutation(names: Sequence[str]) -> NDArray[np.intp]:
    """(J,) for each joint the index of its mirror image: L_X and R_X change places, the others stay.

    Raises ConfigError when a joint of one side has none on the other.
    """
    index = {name: joint for joint, name in enumerate(names)}
    mirrored = [_OTHER_SIDE.get(name[:2], name[:2]) + name[2:] for name in names]
    lone = [name for name, other in zip(names, mirrored, strict=True) if other not in index]
    if lone:
        raise ConfigError("joints without a mirror image", expected="both L_ and R_ of each", got=", ".join(lone))
    return np.array([index[name] for name in mirrored], np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class JointSelection:
    """From the joints of a dataset to those of a mesh.

    Attributes:
        rows: (J,) for each joint of the mesh its index in the dataset, -1 where the dataset lacks it.
        flip: (J,) see `flip_permutation`, of the mesh's joints.
    """

    rows: NDArray[np.intp]
    flip: NDArray[np.intp]

    @classmethod
    def between(cls, dataset_names: Sequence[str], mesh_names: Sequence[str]) -> JointSelection:
        """By name. Raises ConfigError when the two share no joint, or a joint of the mesh has no mirror image."""
        index = {name: joint for joint, name in enumerate(dataset_names)}
        rows = np.array([index.get(name, -1) for name in mesh_names], np.intp)
        if (rows < 0).all():
            expected, got = ", ".join(mesh_names), ", ".join(dataset_names)
            raise ConfigError("a dataset shares no joint with the mesh", expected=f"some of {expected}", got=got)
        return cls(rows, flip_permutation(mesh_names))

    def select(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(J of the dataset, ...) → (J of the mesh, ...), 0 where the dataset lacks the joint."""
        selected = values[self.rows]
        selected[self.rows < 0] = 0.0
        return selected


def turn_pose(pose: NDArray[np.float32], rotation: NDArray[np.float64]) -> NDArray[np.float32]:
    """(P,) axis-angle pose with its global orientation, the first three, turned by (3, 3): R' = rotation · R."""
    turned = pose.copy()
    orientation, _ = cv2.Rodrigues(pose[:3].astype(np.float64))
    turned[:3] = cv2.Rodrigues(rotation @ orientation)[0][:, 0]
    return turned


def mirror_rotations(pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P,) axis-angle pose as a mirror at x = 0 shows it: each axis keeps x, y and z change sign, as axes do."""
    return (pose.reshape(-1, 3) * np.array((1, -1, -1), np.float32)).reshape(-1)


def mirror_smpl_pose(pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """(72,) pose of the mirrored body, whose left is the right of the one before."""
    return mirror_rotations(pose.reshape(-1, 3)[_SMPL_FLIP].reshape(-1))


_SMPL_FLIP = flip_permutation(SMPL_24)
