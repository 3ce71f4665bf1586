"""COCO's people: person_keypoints_*.json and a folder of images. 2D only.

A keypoint is known where its visibility is above 0, hidden or not. COCO counts keypoints as pixels from 0, as this
package does; its bbox counts from the corner of the image, half a pixel further up and left.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.errors import SourceError
from training.datasets.images import read_image
from training.datasets.labels import make_box, take_numbers
from training.datasets.sample import Sample, SampleError
from training.unpickler import read_bytes

COCO_17 = (
    "Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear", "L_Shoulder", "R_Shoulder", "L_Elbow", "R_Elbow", "L_Wrist", "R_Wrist",
    "L_Hip", "R_Hip", "L_Knee", "R_Knee", "L_Ankle", "R_Ankle",
)  # fmt: skip
"""COCO's keypoints in its order, by this package's names."""

MIN_KEYPOINTS = 6
MIN_SIDE_PX = 32.0
BOX_PADDING = 1.2
_MAX_JSON_BYTES = 1 << 30


class CocoKeypoints:
    """People with keypoints; satisfies `training.datasets.sample.Dataset`.

    Crowds are left out, and people with few keypoints or a small bbox. The box is 1.2 times the larger side of bbox.

    Args:
        annotations: person_keypoints_*.json.
        images: the folder of the images.
        min_keypoints: of a person, known ones.
        min_side_px: of the larger side of bbox.

    Raises:
        SourceError: a file or folder is missing or damaged, or nobody is left.
    """

    joint_names: tuple[str, ...] = COCO_17

    def __init__(
        self,
        annotations: Path,
        images: Path,
        min_keypoints: int = MIN_KEYPOINTS,
        min_side_px: float = MIN_SIDE_PX,
    ) -> None:
        self.annotations, self.images, self.name = annotations, images, annotations.stem
        if not images.is_dir():
            raise SourceError(f"{images} is missing", expected="the folder of COCO's images", got="nothing")
        content = read_coco(annotations)
        self._file_names = file_names(content["images"])
        numbers: list[int] = []
        people: list[_Person] = []
        self._problems: dict[int, str] = {}
        """Row -> what is wrong with its annotation."""
        for number, entry in enumerate(content["annotations"]):
            try:
                person = _parse(entry, f"annotation {number} of {annotations}")
            except SampleError as error:
                self._problems[len(numbers)] = str(error)
                person = _Person(-1, False, np.zeros((len(COCO_17), 3), np.float32), np.zeros(4, np.float32))
            else:
                known = np.count_nonzero(person.keypoints[:, 2] > 0)
                if person.crowd or known < min_keypoints or person.bbox[2:].max() < min_side_px:
                    continue
            numbers.append(number)
            people.append(person)
        if len(numbers) == len(self._problems):
            expected = f"people with {min_keypoints} keypoints and {min_side_px:g} px"
            raise SourceError(f"nobody in {annotations}", expected=expected, got=f"{len(numbers)} damaged annotations")
        self._numbers, self._images_of = np.array(numbers), np.array([person.image for person in people])
        self._keypoints = np.stack([person.keypoints for person in people])
        self._boxes = np.stack([person.bbox for person in people])

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Sample:
        """Person `index`. Raises SampleError when it or its image is damaged, IndexError when there is none."""
        if not 0 <= index < len(self._numbers):
            raise IndexError(index)
        what = f"annotation {self._numbers[index]} of {self.annotations}"
        if index in self._problems:
            raise SampleError(self._problems[index])
        file_name = self._file_names.get(int(self._images_of[index]))
        if file_name is None:
            raise SampleError(what, expected="the name of its image in images", got=self._images_of[index])
        keypoints = self._keypoints[index]
        confidence = (keypoints[:, 2] > 0).astype(np.float32)
        left, top, width, height = (float(number) for number in self._boxes[index])
        centre = left + width / 2 - 0.5, top + height / 2 - 0.5  # bbox counts from the corner of the image
        count = len(COCO_17)
        return Sample(
            key=f"{file_name}, annotation {self._numbers[index]}",
            image=read_image(self.images / file_name, what),
            box=make_box(*centre, BOX_PADDING * max(width, height), what),
            keypoints_px=keypoints[:, :2].copy(),
            keypoint_confidence=confidence,
            joints=np.zeros((count, 3), np.float32),
            joint_confidence=np.zeros(count, np.float32),
        )


class _Person(NamedTuple):
    """What an annotation says: id of its image, whether it is of a crowd, (17, 3) keypoints, (4,) bbox."""

    image: int
    crowd: bool
    keypoints: NDArray[np.float32]
    bbox: NDArray[np.float32]


def _parse(entry: Any, what: str) -> _Person:
    if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), int):
        raise SampleError(what, expected="an annotation with an image_id", got=str(entry)[:100])
    if not -(1 << 63) <= entry["image_id"] < 1 << 63:
        raise SampleError(what, expected="an image_id of 64 bits", got="a larger one")
    keypoints = take_numbers(entry.get("keypoints"), (3 * len(COCO_17),), f"{what}: keypoints")
    bbox = take_numbers(entry.get("bbox"), (4,), f"{what}: bbox")
    return _Person(entry["image_id"], bool(entry.get("iscrowd")), keypoints.reshape(-1, 3), bbox)


def read_coco(path: Path) -> dict[str, list[Any]]:
    """The lists of an annotation file, without outlines. Raises SourceError when it is none."""
    raw = read_bytes(path, _MAX_JSON_BYTES)
    try:
        content = json.loads(raw, object_hook=_without_outline)
    except (ValueError, RecursionError) as cause:
        raise SourceError(f"cannot read {path}", expected="JSON", got=cause) from cause
    if not isinstance(content, dict) or not all(isinstance(content.get(n), list) for n in ("images", "annotations")):
        raise SourceError(f"{path} is not COCO's", expected="lists images and annotations", got=str(content)[:100])
    return content


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of the file and of no use here: gone as soon as they are read, they take no memory."""
    entry.pop("segmentation", None)
    return entry


def file_names(images: list[Any]) -> dict[int, str]:
    """Image id → name of its file; only names that stay inside of the images' folder."""
    names = {}
    for image in images:
        if isinstance(image, dict) and isinstance(image.get("id"), int) and isinstance(image.get("file_name"), str):
            path = PurePosixPath(image["file_name"])
            if not path.is_absolute() and ".." not in path.parts and image["file_name"].isprintable():
                names[image["id"]] = image["file_name"]
    return names
