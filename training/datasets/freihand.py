"""FreiHAND as published: colour images of right hands, with camera, joints and MANO's vertices in JSON files.

    training_K.json, training_xyz.json, training_verts.json     one entry a hand
    training/rgb/00000000.jpg                                   four images a hand: n, n + N, n + 2N, n + 3N
    evaluation_K.json, evaluation/rgb/00000000.jpg              and, in the later release,
    evaluation_xyz.json, evaluation_verts.json

Joints and vertices are metres in the camera's frame. training_mano.json is not read: the vertices are its mesh.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.images import read_image
from training.datasets.json_rows import NumberRows
from training.datasets.labels import make_box, project
from training.datasets.sample import Sample, SampleError
from training.mesh_spec import HAND_21_NAMES

Split = Literal["training", "evaluation"]

JOINTS, VERTICES = len(HAND_21_NAMES), 778
BOX_PX = (112.0, 112.0, 180.0)
"""METRO's crop of all these images of 224 px: centre and side, 0.9 times 200 px."""
_VARIANTS = 4
"""Images of the same hand: as it was taken, and three times on another background."""


class FreiHand:
    """One split of FreiHAND; satisfies `training.datasets.sample.Dataset`.

    Joints and vertices are relative to the wrist. Where an evaluation set has no joints, all confidences are 0; where
    it has no vertices, there are none. Of the training images those variants count whose first image is there.

    Args:
        folder: holds the JSON files.
        split: which of the two.
        kept_in: where the numbers of large JSON files are kept for the next time, see `training.datasets.json_rows`;
            None for `folder` itself.

    Raises:
        SourceError: a file is missing or damaged, or they hold different numbers of hands.
        ConfigError: another split.
    """

    joint_names = HAND_21_NAMES

    def __init__(self, folder: Path, split: Split = "training", kept_in: Path | None = None) -> None:
        if split not in get_args(Split):
            raise ConfigError("split of FreiHAND", expected=" or ".join(get_args(Split)), got=split)
        self.folder, self.split, self.name = folder, split, f"FreiHAND/{split}"
        self._kept_in = folder if kept_in is None else kept_in
        self._cameras = self._open("K", (3, 3))
        self._joints = self._open_truth("xyz", (JOINTS, 3))
        self._vertices = self._open_truth("verts", (VERTICES, 3))
        for rows in (self._joints, self._vertices):
            if rows is not None and len(rows) != len(self._cameras):
                raise SourceError(f"{rows.path} does not fit", expected=f"{len(self._cameras)} hands", got=len(rows))
        self._variants = self._count_variants()

    def __len__(self) -> int:
        return len(self._cameras) * self._variants

    def __getitem__(self, index: int) -> Sample:
        """Image `index`. Raises SampleError when it or its labels are damaged, IndexError when there is none."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        hand = index % len(self._cameras)
        what = f"{self.name}/{index:08d}"
        camera = self._cameras.row(hand)
        keypoints, joints = np.zeros((JOINTS, 2), np.float32), np.zeros((JOINTS, 3), np.float32)
        seen = known = np.zeros(JOINTS, bool)
        vertices = None
        if self._joints is not None:
            joints, known = self._joints.row(hand), ~known
            keypoints, seen = project(joints, camera)
            if not seen[0]:
                where = f"row {hand} of {self._joints.path}"
                raise SampleError(where, expected="a wrist in front of the camera", got=joints[0].tolist())
            if self._vertices is not None:
                vertices = self._vertices.row(hand) - joints[0]
        return Sample(
            key=what,
            image=read_image(self._image_path(index), what),
            box=make_box(*BOX_PX, what),
            keypoints_px=keypoints,
            keypoint_confidence=seen.astype(np.float32),
            joints=joints - joints[0],
            joint_confidence=known.astype(np.float32),
            vertices=vertices,
        )

    def _open(self, kind: str, shape: tuple[int, ...]) -> NumberRows:
        path = self.folder / f"{self.split}_{kind}.json"
        if not path.is_file():
            remedy = "give the folder that the archives of FreiHAND were unpacked in"
            raise SourceError(f"{path} is missing", expected=f"FreiHAND's {path.name}", got="nothing", remedy=remedy)
        return NumberRows(path, shape, self._kept_in)

    def _open_truth(self, kind: str, shape: tuple[int, ...]) -> NumberRows | None:
        """As `_open`, but None where the first release of the evaluation set has no such file."""
        if self.split == "evaluation" and not (self.folder / f"{self.split}_{kind}.json").exists():
            return None
        return self._open(kind, shape)

    def _count_variants(self) -> int:
        """How many images there are of each hand."""
        hands, most = len(self._cameras), _VARIANTS if self.split == "training" else 1
        if not hands:
            raise SourceError(f"{self._cameras.path} is empty", expected="a camera for each hand", got="none")
        found = 0
        while found < most and self._image_path(found * hands).is_file():
            found += 1
        if not found:
            raise SourceError(f"{self._image_path(0)} is missing", expected="the images of FreiHAND", got="nothing")
        return found

    def _image_path(self, index: int) -> Path:
        return self.folder / self.split / "rgb" / f"{index:08d}.jpg"
