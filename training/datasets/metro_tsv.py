"""METRO's own sets: images and labels in TSV files that a YAML names.

The YAML names `img` and `label`, perhaps `linelist`, relative to itself; `hw`, the sizes of the images, is not needed.
Rows of img: key, ..., base64 of a JPEG. Rows of label: key, ..., JSON, which is a list of annotations or one alone; as
in the original code the first one counts. Row numbers in linelist choose, in both files alike, rows of one key. With
`composite: true`, img and label are lists of files, in the YAML or one a line in a text file of their own, and each
line of linelist holds the number of a file and that of a row.

An annotation: center (px), scale (side of the person's square / 200 px), 2d_joints (J, 3) px and confidence, 3d_joints
(J, 4) metres and confidence, has_3d_joints, pose, betas and has_smpl; has_2d_joints says nothing that the confidences
do not. A gender may stand there; the original's truth is the neutral model all the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml
from numpy.typing import NDArray

from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.skeleton import J14
from training.datasets.images import decode_base64_image
from training.datasets.labels import make_box, take_numbers
from training.datasets.sample import Sample, SampleError
from training.datasets.tsv import TsvFile, read_line_list
from training.mesh_spec import HAND_21_NAMES
from training.unpickler import read_bytes

Kind = Literal["body", "hand"]

J24_NAMES = (
    *J14[:13], "Top_of_Head", "Pelvis", "Thorax", "Spine", "Jaw", "Head", "Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear",
)  # fmt: skip
"""The joints of METRO's body sets, in their order."""

_NAMES: dict[str, tuple[str, ...]] = {"body": J24_NAMES, "hand": HAND_21_NAMES}
_ROOT = {"body": J24_NAMES.index("Pelvis"), "hand": HAND_21_NAMES.index("Wrist")}
_POSE = {"body": 72, "hand": 48}
_PX_PER_SCALE = 200.0
_MAX_YAML_BYTES = 1 << 20
_MAX_LABEL_BYTES = 1 << 24


class MetroTsv:
    """One split of a METRO set, such as human3.6m/valid.protocol2.yaml; satisfies `training.datasets.sample.Dataset`.

    A missing or stale .lineidx is made anew, see `training.datasets.tsv`. 3D joints are relative to the pelvis of J24
    or the wrist. Confidences are clipped to 0..1. What an annotation has not, or says that it has not, is unknown.

    Args:
        path: the YAML.
        kind: body: 24 joints and SMPL's pose; hand: 21 joints and MANO's.

    Raises:
        SourceError: the YAML or a file that it names is missing or damaged, or their rows do not fit together.
        ConfigError: another kind.
    """

    def __init__(self, path: Path, kind: Kind = "body") -> None:
        if kind not in get_args(Kind):
            raise ConfigError("kind of a METRO set", expected=" or ".join(get_args(Kind)), got=kind)
        self.path, self.kind = path, kind
        self.name = f"{path.resolve().parent.name}/{path.stem}"
        self.joint_names = _NAMES[kind]
        entries = _read_yaml(path)
        composite = entries.get("composite", False)
        self._images = [TsvFile(file) for file in _named_files(path, entries, "img", composite)]
        self._labels = [TsvFile(file) for file in _named_files(path, entries, "label", composite)]
        self._rows = self._choose_rows(entries, composite)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Row `index` of the split. Raises SampleError when it is damaged, IndexError when there is none."""
        key, annotations, what = self._read_labels(index)
        file, row = self._rows[index]
        columns = self._images[file].row(row)
        where = f"row {row} of {self._images[file].path}"
        if len(columns) < 2 or columns[0] != key:
            got = f"{len(columns)} columns, the first {columns[0][:100]!a}"
            raise SampleError(where, expected=f"the image of {key!a}, as in {what}", got=got)
        short = f"{self._labels[file].path.parent.name}/{self._labels[file].path.name}, row {row}"
        return self._sample(annotations[0], decode_base64_image(columns[-1], where), short, what)

    def extra_annotations(self, index: int) -> int:
        """How many annotations of a row go unused, because only the first counts. Raises as indexing does."""
        return len(self._read_labels(index)[1]) - 1

    def _choose_rows(self, entries: dict[str, Any], composite: bool) -> NDArray[np.int64]:
        """(N, 2) number of the file and of the row, of images and labels."""
        if len(self._images) != len(self._labels):
            expected = f"{len(self._images)} files, as img"
            raise SourceError(f"{self.path}: label", expected=expected, got=len(self._labels))
        pairs = list(zip(self._images, self._labels, strict=True))
        if entries.get("linelist") is None:
            for images, labels in pairs:
                if len(images) != len(labels):
                    expected = f"{len(images)} rows, as in {images.path.name}, or a linelist"
                    raise SourceError(f"{labels.path} does not fit", expected=expected, got=f"{len(labels)} rows")
            spans = [
                np.pad(np.arange(len(images))[:, None], ((0, 0), (1, 0)), constant_values=file)
                for file, (images, _) in enumerate(pairs)
            ]
            return np.concatenate(spans)
        lines = _beside(self.path, entries["linelist"], "linelist")
        rows = read_line_list(lines, 2 if composite else 1)
        if not composite:
            rows = np.pad(rows, ((0, 0), (1, 0)))
        counts = np.array([min(len(images), len(labels)) for images, labels in pairs])
        known = (rows[:, 0] >= 0) & (rows[:, 0] < len(counts)) & (rows[:, 1] >= 0)
        known[known] = rows[known, 1] < counts[rows[known, 0]]
        if not known.all():
            file, row = rows[int(np.argmin(known))]
            expected = f"rows below {counts[0]}" if len(counts) == 1 else f"files below {len(counts)} and their rows"
            raise SourceError(f"{lines} does not fit", expected=expected, got=f"row {row} of file {file}")
        return rows

    def _read_labels(self, index: int) -> tuple[bytes, list[Any], str]:
        """The key and the annotations, at least one, of a row, and what to call it."""
        if not 0 <= index < len(self._rows):
            raise IndexError(index)
        file, row = self._rows[index]
        columns = self._labels[file].row(row)
        what = f"row {row} of {self._labels[file].path}"
        if len(columns) < 2 or len(columns[-1]) > _MAX_LABEL_BYTES:
            expected = f"a key and up to {_MAX_LABEL_BYTES} bytes of JSON"
            raise SampleError(what, expected=expected, got=f"{len(columns)} columns, {len(columns[-1])} bytes")
        try:
            labels = json.loads(columns[-1])
        except (ValueError, RecursionError) as cause:
            raise SampleError(f"{what}: damaged labels", expected="JSON", got=cause) from cause
        annotations = labels if isinstance(labels, list) else [labels]
        if not annotations or not isinstance(annotations[0], dict):
            got = type(annotations[0]).__name__ if annotations else "none"
            raise SampleError(f"{what}: labels", expected="an annotation, as a JSON object", got=got)
        return columns[0], annotations, what

    def _sample(self, labels: dict[str, Any], image: NDArray[np.uint8], key: str, what: str) -> Sample:
        count, root = len(self.joint_names), _ROOT[self.kind]
        keypoints, joints = np.zeros((count, 3), np.float32), np.zeros((count, 4), np.float32)
        pose = betas = None
        if labels.get("2d_joints") is not None:
            keypoints = _numbers(labels, "2d_joints", (count, 3), what)
        if _has(labels, "has_3d_joints", what):
            joints = _numbers(labels, "3d_joints", (count, 4), what)
        if _has(labels, "has_smpl", what):
            pose, betas = _numbers(labels, "pose", (_POSE[self.kind],), what), _numbers(labels, "betas", (10,), what)
        (cx, cy), scale = _numbers(labels, "center", (2,), what), _numbers(labels, "scale", (), what)
        return Sample(
            key=key,
            image=image,
            box=make_box(cx, cy, _PX_PER_SCALE * float(scale), what),
            keypoints_px=keypoints[:, :2].copy(),
            keypoint_confidence=np.clip(keypoints[:, 2], 0.0, 1.0),
            joints=joints[:, :3] - joints[root, :3],
            joint_confidence=np.clip(joints[:, 3], 0.0, 1.0),
            pose=pose,
            betas=betas,
        )


def _numbers(labels: dict[str, Any], field: str, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    if labels.get(field) is None:
        raise SampleError(f"{what}: {field}", expected=f"numbers {shape}", got="nothing")
    value = labels[field]
    if not shape and isinstance(value, list) and len(value) == 1:
        value = value[0]
    return take_numbers(value, shape, f"{what}: {field}")


def _has(labels: dict[str, Any], flag: str, what: str) -> bool:
    """Whether a label is there, by its 0 or 1, which may be a list of one."""
    return labels.get(flag) is not None and float(_numbers(labels, flag, (), what)) > 0


def _read_yaml(path: Path) -> dict[str, Any]:
    raw = read_bytes(path, _MAX_YAML_BYTES)
    try:
        entries = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        raise SourceError(f"cannot read {path}", expected="YAML", got=cause) from cause
    if not isinstance(entries, dict) or not isinstance(entries.get("composite", False), bool):
        raise SourceError(f"{path} is no METRO set", expected="entries img, label, linelist", got=str(entries)[:100])
    missing = [name for name in ("img", "label") if not entries.get(name)]
    if missing:
        remedy = "the label TSV holds the boxes, without which no image can be cropped"
        raise SourceError(f"{path} is incomplete", expected="img and label", got=f"no {missing[0]}", remedy=remedy)
    if entries.get("composite") and entries.get("linelist") is None:
        raise SourceError(f"{path} is incomplete", expected="a linelist, as it is composite", got="none")
    return entries


def _named_files(path: Path, entries: dict[str, Any], name: str, composite: bool) -> list[Path]:
    named = entries[name]
    if composite and isinstance(named, str):
        raw = read_bytes(_beside(path, named, name), _MAX_YAML_BYTES)
        named = [line for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    if not composite:
        named = [named]
    if not isinstance(named, list) or not named:
        raise SourceError(f"{path}: {name}", expected="the names of files", got=type(named).__name__)
    return [_beside(path, text, name) for text in named]


def _beside(path: Path, text: Any, name: str) -> Path:
    """A file that the YAML names. Raises SourceError when it is not there."""
    if not isinstance(text, str) or "\0" in text:
        raise SourceError(f"{path}: {name}", expected="the name of a file", got=str(text)[:100])
    file = path.parent / text.strip()
    if not file.is_file():
        remedy = f"{path.name} names files relative to its own folder"
        raise SourceError(f"{file} is missing", expected=f"the {name} of {path.name}", got="nothing", remedy=remedy)
    return file
