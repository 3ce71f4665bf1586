"""3DPW as published: people on film with SMPL's joints, poses and shapes, and the camera of every frame.

    sequenceFiles/{train,validation,test}/NAME.pkl    pickles of Python 2
    imageFiles/NAME/image_00000.jpg                   one a frame

Of a pickle: poses, jointPositions, betas and campose_valid, lists of one a person; cam_poses (world to camera) and
cam_intrinsics. Metres; frame i of poses and of jointPositions is frame i of the film.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import box_from_points
from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.images import read_image
from training.datasets.joints import SMPL_24, turn_pose
from training.datasets.labels import project, take_numbers
from training.datasets.sample import Sample, SampleError
from training.unpickler import read_pickle

Split = Literal["train", "validation", "test"]

_SHARED = ("Ankle", "Knee", "Wrist", "Elbow", "Shoulder")
BOX_PADDING = 1.2


def shared_name(name: str) -> str:
    """What a joint of SMPL is called among those of other datasets.

    METRO takes knees, ankles, shoulders, elbows and wrists for the joints of SMPL, so they keep their names; what it
    calls hips, pelvis, neck and head lies elsewhere, by several centimetres. Those of SMPL are called L_SmplHip and so
    on, and no other mesh has them.
    """
    side, _, part = name.rpartition("_")
    return name if part in _SHARED else f"{side}_Smpl{part}" if side else f"Smpl{part}"


@dataclass(frozen=True, slots=True, eq=False)
class _Actor:
    """One person of a sequence, F frames. NaN where nobody knows: such frames are damaged rows.

    Attributes:
        film: its number among the films.
        poses: (F, 72) radians, in the world. joints: (F, 24, 3) metres, in the world. betas: (10,).
    """

    film: int
    poses: NDArray[np.float32]
    joints: NDArray[np.float32]
    betas: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Film:
    """A sequence: name, (F, 4, 4) camera from world, and (3, 3) camera matrix."""

    name: str
    cameras: NDArray[np.float64]
    matrix: NDArray[np.float64]


class ThreeDPW:
    """One split of 3DPW: each person in each frame whose camera is valid; `training.datasets.sample.Dataset`.

    Joints are relative to SMPL's pelvis; poses and joints are turned into the camera's frame. Keypoints are the joints
    as the camera sees them, the box is 1.2 times their larger extent. The betas are those of a man or a woman, and a
    sample says not of which: METRO, too, takes them for the neutral model's.

    Args:
        folder: holds sequenceFiles and imageFiles.
        split: train, validation or test.

    Raises:
        SourceError: the folder of the split has no sequence, one is damaged, or its images are missing.
        ConfigError: another split.
    """

    joint_names = tuple(shared_name(name) for name in SMPL_24)

    def __init__(self, folder: Path, split: Split = "train") -> None:
        if split not in get_args(Split):
            raise ConfigError("split of 3DPW", expected=" or ".join(get_args(Split)), got=split)
        self.folder, self.split, self.name = folder, split, f"3DPW/{split}"
        sequences = folder / "sequenceFiles" / split
        paths = sorted(sequences.glob("*.pkl"))
        if not paths:
            remedy = "give the folder that holds sequenceFiles and imageFiles"
            raise SourceError(f"no sequences in {sequences}", expected=".pkl files", got="none", remedy=remedy)
        self._films: list[_Film] = []
        self._actors: list[_Actor] = []
        rows: list[NDArray[np.int64]] = []
        for path in paths:
            rows += self._open_sequence(path)
        self._rows = np.concatenate(rows)
        if not len(self._rows):
            raise SourceError(f"{sequences} is empty", expected="frames with a valid camera", got="none")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Row `index`. Raises SampleError when it or its image is damaged, IndexError when there is none."""
        if not 0 <= index < len(self._rows):
            raise IndexError(index)
        number, frame, person = (int(value) for value in self._rows[index])
        actor = self._actors[number]
        film = self._films[actor.film]
        what = f"{film.name}/image_{frame:05d}, person {person}"
        where = f"{self.name}/{what}"
        camera = take_numbers(film.cameras[frame], (4, 4), f"{where}: cam_poses").astype(np.float64)
        world = take_numbers(actor.joints[frame], (len(SMPL_24), 3), f"{where}: jointPositions")
        pose = take_numbers(actor.poses[frame], (72,), f"{where}: poses")
        joints = world @ camera[:3, :3].T + camera[:3, 3]
        keypoints, seen = project(joints, film.matrix)
        if not seen.any():
            raise SampleError(where, expected="a joint in front of the camera", got="none")
        return Sample(
            key=what,
            image=read_image(self._image_folder(film.name) / f"image_{frame:05d}.jpg", where),
            box=box_from_points(keypoints[seen], BOX_PADDING),
            keypoints_px=keypoints,
            keypoint_confidence=seen.astype(np.float32),
            joints=(joints - joints[0]).astype(np.float32),
            joint_confidence=np.ones(len(SMPL_24), np.float32),
            pose=turn_pose(pose, camera[:3, :3]),
            betas=take_numbers(actor.betas, (10,), f"{where}: betas"),
        )

    def _image_folder(self, name: str) -> Path:
        return self.folder / "imageFiles" / name

    def _open_sequence(self, path: Path) -> list[NDArray[np.int64]]:
        """Take in a sequence; (N, 3) actor, frame and person of its rows, for each of its people."""
        content = read_pickle(path)
        if not isinstance(content, dict):
            raise SourceError(f"{path} is no sequence", expected="a dictionary", got=type(content).__name__)
        if not self._image_folder(path.stem).is_dir():
            missing = self._image_folder(path.stem)
            raise SourceError(f"{missing} is missing", expected=f"the images of {path.name}", got="nothing")
        cameras = _array(content, "cam_poses", (None, 4, 4), path)
        frames = len(cameras)
        film = len(self._films)
        self._films.append(_Film(path.stem, cameras, _array(content, "cam_intrinsics", (3, 3), path)))
        people = content.get("poses")
        if not isinstance(people, list) or not people:
            raise SourceError(f"poses of {path}", expected="a list, one a person", got=type(people).__name__)
        rows = []
        for person in range(len(people)):
            actor = _Actor(
                film,
                _array(content, "poses", (frames, 72), path, person).astype(np.float32),
                _array(content, "jointPositions", (frames, 72), path, person).astype(np.float32).reshape(frames, 24, 3),
                _betas(content, path, person),
            )
            valid = np.flatnonzero(_array(content, "campose_valid", (frames,), path, person))
            row = np.full((len(valid), 3), (len(self._actors), 0, person))
            row[:, 1] = valid
            rows.append(row)
            self._actors.append(actor)
        return rows


def _array(
    content: dict[Any, Any], name: str, shape: tuple[int | None, ...], path: Path, person: int | None = None
) -> NDArray[np.float64]:
    """One array of a sequence, or one person's of a list of them. None in `shape` is any length."""
    value = content.get(name)
    what = f"{name} of {path}" if person is None else f"{name} of person {person} of {path}"
    wanted = f"numbers ({', '.join('any' if size is None else str(size) for size in shape)})"
    if person is not None:
        if not isinstance(value, list) or len(value) <= person:
            raise SourceError(what, expected=wanted, got=f"{type(value).__name__} of fewer people")
        value = value[person]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise SourceError(what, expected=wanted, got=type(value).__name__)
    fits = value.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, value.shape, strict=True))
    if not fits:
        raise SourceError(what, expected=wanted, got=value.shape)
    return value.astype(np.float64)


def _betas(content: dict[Any, Any], path: Path, person: int) -> NDArray[np.float32]:
    """(10,): some releases hold more shapes than the ten that count."""
    values = content.get("betas")
    if not isinstance(values, list) or len(values) <= person or np.size(values[person]) < 10:
        raise SourceError(f"betas of person {person} of {path}", expected="ten numbers", got="fewer, or nothing")
    flat = {"betas": np.ravel(values[person])[:10]}
    return _array(flat, "betas", (10,), path).astype(np.float32)
