"""Motions: joint positions from motion capture, retargeted to the body by bone direction.

A motion file is an .npz with one (T, 31, 3) float32 array a recording (metres, +y up), `joint_names (31,)` and
`parents (31,)`, in the naming of the CMU Graphics Lab Motion Capture Database, where a name stands for its bone's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.arrays import read_arrays
from metro_ros.core.errors import SourceError
from training.body import BodyBank

MAX_BYTES = 1 << 31
"""Of a motion file: two days of 31 joints at 30 Hz."""
# Body bone -> (start joint, end joint) of the motion whose direction it takes; listed parents first.
_SWINGS: dict[str, tuple[str, str]] = {
    "neck01": ("lowerneck", "upperneck"),
    "head": ("upperneck", "head"),
    **{f"clavicle.{s}": ("thorax", f"{p}clavicle") for s, p in (("L", "l"), ("R", "r"))},
    **{f"upperarm01.{s}": (f"{p}clavicle", f"{p}humerus") for s, p in (("L", "l"), ("R", "r"))},
    **{f"lowerarm01.{s}": (f"{p}humerus", f"{p}radius") for s, p in (("L", "l"), ("R", "r"))},
    **{f"wrist.{s}": (f"{p}radius", f"{p}hand") for s, p in (("L", "l"), ("R", "r"))},
    **{f"upperleg01.{s}": (f"{p}hipjoint", f"{p}femur") for s, p in (("L", "l"), ("R", "r"))},
    **{f"lowerleg01.{s}": (f"{p}femur", f"{p}tibia") for s, p in (("L", "l"), ("R", "r"))},
    **{f"foot.{s}": (f"{p}tibia", f"{p}foot") for s, p in (("L", "l"), ("R", "r"))},
}
# Where the rest direction of each swung bone ends.
_REST_ENDS = {
    "neck01": "head",
    "head": "eyes",
    **{f"clavicle.{s}": f"upperarm01.{s}" for s in "LR"},
    **{f"upperarm01.{s}": f"lowerarm01.{s}" for s in "LR"},
    **{f"lowerarm01.{s}": f"wrist.{s}" for s in "LR"},
    **{f"wrist.{s}": f"finger3-1.{s}" for s in "LR"},
    **{f"upperleg01.{s}": f"lowerleg01.{s}" for s in "LR"},
    **{f"lowerleg01.{s}": f"foot.{s}" for s in "LR"},
    **{f"foot.{s}": f"toe2-1.{s}" for s in "LR"},
}
# The spine turns little by little from the pelvis to the chest.
_SPINE_SHARE = {"spine05": 0.2, "spine04": 0.4, "spine03": 0.6, "spine02": 0.8, "spine01": 1.0}


@dataclass(frozen=True, slots=True)
class Motion:
    """One retargeted recording.

    Attributes:
        name: the recording.
        rotations: (T, B, 3, 3) float32, each bone's rotation from rest to pose, camera axes, world.
        root: (T, 3) float32 metres, where the pelvis is, camera axes (y down; the floor lies near y = 0).
        fps: frames a second.
    """

    name: str
    rotations: NDArray[np.float32]
    root: NDArray[np.float32]
    fps: float = 30.0

    def __len__(self) -> int:
        return len(self.rotations)


def load_recordings(path: Path) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Joint positions of every recording in a motion file, in camera axes: {name: (T, 31, 3)}, joint names.

    Raises:
        SourceError: when the file is missing, is not a motion file, or holds values that are not finite.
    """
    layout = "an .npz with joint_names, parents and one (T, J, 3) array a recording"
    arrays = read_arrays(path, SourceError, MAX_BYTES, text=True)
    if "joint_names" not in arrays:
        raise SourceError(f"cannot read motions from {path}", expected=layout, got=f"keys {sorted(arrays)[:5]}")
    names = [str(name) for name in arrays.pop("joint_names")]
    arrays.pop("parents", None)
    missing = {joint for pair in _SWINGS.values() for joint in pair} - set(names)
    if missing:
        raise SourceError(f"{path} lacks joints", expected="the CMU skeleton's names", got=f"no {sorted(missing)}")
    recordings = {}
    for name, positions in arrays.items():
        if positions.ndim != 3 or positions.shape[1:] != (len(names), 3) or not np.isfinite(positions).all():
            raise SourceError(
                f"recording {name} of {path} is not usable",
                expected=f"finite (T, {len(names)}, 3)",
                got=f"{positions.shape}, finite: {bool(np.isfinite(positions).all())}",
            )
        if len(positions):
            recordings[name] = (positions * np.array([1.0, -1.0, -1.0])).astype(np.float32)
    return recordings, names


def _unit(vectors: NDArray) -> NDArray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def swing_rotation(source: NDArray, target: NDArray) -> NDArray:
    """Smallest rotations (..., 3, 3) that take unit vectors `source` (..., 3) onto `target` (Rodrigues)."""
    axis = np.cross(source, target)
    cosine = np.sum(source * target, axis=-1)[..., None, None]
    skew = np.zeros((*axis.shape[:-1], 3, 3))
    skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2] = -axis[..., 2], axis[..., 1], -axis[..., 0]
    skew[..., 1, 0], skew[..., 2, 0], skew[..., 2, 1] = axis[..., 2], -axis[..., 1], axis[..., 0]
    return np.eye(3) + skew + skew @ skew / np.maximum(1.0 + cosine, 1e-6)


def _frame(lateral: NDArray, up: NDArray) -> NDArray:
    """Right-handed frames (..., 3, 3), columns (lateral, down, forward), from two directions; `up` is kept exactly."""
    down = -_unit(up)
    side = _unit(lateral - np.sum(lateral * down, axis=-1, keepdims=True) * down)
    return np.stack([side, down, np.cross(side, down)], axis=-1)


def rotation_from_vector(vectors: NDArray) -> NDArray:
    """Rotation vectors (..., 3) in radians to matrices (..., 3, 3) (Rodrigues' formula)."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    axis = _unit(vectors)
    skew = np.zeros((*axis.shape[:-1], 3, 3))
    skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2] = -axis[..., 2], axis[..., 1], -axis[..., 0]
    skew[..., 1, 0], skew[..., 2, 0], skew[..., 2, 1] = axis[..., 2], -axis[..., 1], axis[..., 0]
    return np.eye(3) + np.sin(angle) * skew + (1.0 - np.cos(angle)) * (skew @ skew)


def vector_from_rotation(matrices: NDArray) -> NDArray:
    """Inverse of `rotation_from_vector` for angles below pi: (..., 3, 3) -> (..., 3) radians."""
    cosine = np.clip((np.trace(matrices, axis1=-2, axis2=-1) - 1.0) / 2.0, -1.0, 1.0)
    angle = np.arccos(cosine)[..., None]
    off = np.stack(
        [
            matrices[..., 2, 1] - matrices[..., 1, 2],
            matrices[..., 0, 2] - matrices[..., 2, 0],
            matrices[..., 1, 0] - matrices[..., 0, 1],
        ],
        axis=-1,
    )
    return off * np.where(angle < 1e-4, 0.5, angle / np.maximum(2.0 * np.sin(angle), 1e-6))


def retarget(positions: NDArray[np.float32], joint_names: list[str], bank: BodyBank, name: str = "") -> Motion:
    """Align the body's bones with a recording's bone directions.

    The pelvis takes its frame from the hips, the chest from the shoulders, the spine goes from one to the other; limbs,
    neck and hands swing onto their direction without twist; every other bone follows its parent.

    Args:
        positions: (T, 31, 3) metres, camera axes.
        joint_names: the 31 names.
        bank: the body whose mean rest skeleton is aligned.
        name: of the recording.
    """
    at = {joint: positions[:, index].astype(np.float64) for index, joint in enumerate(joint_names)}
    heads = {bone: bank.rest_heads.mean(axis=0)[bank.bone(bone)].astype(np.float64) for bone in bank.bone_names}
    heads["eyes"] = heads["head"] + [0.0, -0.1, 0.0]

    def turn(lateral_from: NDArray, lateral_to: NDArray, low: NDArray, high: NDArray, rest: NDArray) -> NDArray:
        return _frame(lateral_to - lateral_from, high - low) @ rest.T

    def rest_frame(right: str, left: str, low: str, high: str) -> NDArray:
        return _frame(heads[left] - heads[right], heads[high] - heads[low])

    pelvis_rest = rest_frame("upperleg01.R", "upperleg01.L", "spine05", "spine03")
    chest_rest = rest_frame("upperarm01.R", "upperarm01.L", "spine03", "spine01")
    hips = 0.5 * (at["lhipjoint"] + at["rhipjoint"])
    pelvis = turn(at["rhipjoint"], at["lhipjoint"], hips, at["lowerback"], pelvis_rest)
    chest = turn(at["rclavicle"], at["lclavicle"], at["lowerback"], at["thorax"], chest_rest)
    twist = vector_from_rotation(pelvis.transpose(0, 2, 1) @ chest)

    frames = len(positions)
    rotations = np.empty((frames, len(bank.bone_names), 3, 3))
    for index, bone in enumerate(bank.bone_names):
        parent = bank.bone_parents[index]
        rotations[:, index] = pelvis if parent < 0 else rotations[:, parent]
        if bone in _SPINE_SHARE:
            rotations[:, index] = pelvis @ rotation_from_vector(twist * _SPINE_SHARE[bone])
        elif bone in _SWINGS:
            start, end = _SWINGS[bone]
            rest = _unit(heads[_REST_ENDS[bone]] - heads[bone])
            current = np.einsum("tij,j->ti", rotations[:, index], rest)
            rotations[:, index] = swing_rotation(current, _unit(at[end] - at[start])) @ rotations[:, index]
    return Motion(name=name, rotations=rotations.astype(np.float32), root=hips.astype(np.float32))


def mirror(motion: Motion, bank: BodyBank) -> Motion:
    """The same motion seen in a mirror: left and right change places (x to -x)."""
    swapped = {".L": ".R", ".R": ".L"}
    order = [bank.bone(name[:-2] + swapped.get(name[-2:], name[-2:])) for name in bank.bone_names]
    flip = np.array([-1.0, 1.0, 1.0], np.float32)
    rotations = motion.rotations[:, order] * flip[:, None] * flip
    return Motion(f"{motion.name} mirrored", rotations, motion.root * flip, motion.fps)


def load_motions(path: Path, bank: BodyBank) -> list[Motion]:
    """Every recording of a motion file, retargeted."""
    recordings, names = load_recordings(path)
    return [retarget(positions, names, bank, name) for name, positions in recordings.items()]
