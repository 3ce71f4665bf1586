"""Label photographs and videos with 2D keypoints, by MediaPipe's pose network: COCO's format, to train on.

python -m training.photograph_labels --from FOLDER --weights pose_landmark_full.tflite --out DIR

No synthetic image looks like a photograph. Train with `--data coco:DIR/person_keypoints_photographs.json@0.3` beside
crops whose bodies are known. What is labelled: who is prominent, by the bundle's pose detector, and whom the teacher is
sure of (training.landmarker). Whoever is cut off by the image's edge comes twice: in the box of the whole body, as
whoever is followed is looked at, and in that of what is seen of it, as whoever is new.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.bundle import default_bundle_path, load_bundle
from metro_ros.core.errors import ConfigError, MetroError, SourceError
from metro_ros.core.prominent import ProminentPeople
from training.datasets.coco import COCO_17
from training.landmarker import BODY, Landmarker, Landmarks, Square, open_network
from training.person_crops import IMAGE_SUFFIXES

NAME = "photographs"
VIDEOS = {".mp4", ".mkv", ".avi", ".mov", ".webm", ".gif"}
_COCO = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""COCO's keypoints, in its order, among BlazePose's landmarks."""
_EARS, _SHOULDERS = [7, 8], [11, 12]
_LOOSE = 1.1
"""Side of the first square, in that of whom the pose detector sees."""
MIN_VISIBLE = 0.5
MIN_KEYPOINTS = 5
SAME = 0.15
"""Two whose landmarks are nearer to each other, in the mean and in the larger side of the smaller one, are one."""
INSIDE, SMALL = 0.8, 0.45
"""Nobody, but a hand or a print on a shirt, is who lies in the box of somebody else with so much of its own, and has
less than so much of that one's area."""
CUT = 0.8
"""Part of the whole box that the image holds, below which somebody counts as cut off."""
_JPEG_QUALITY = 92


def find_people(image: NDArray[np.uint8], prominent: ProminentPeople, landmarker: Landmarker) -> list[Landmarks]:
    """Everyone in an image (H, W, 3) BGR whom the teacher is sure of, the surest first."""
    people = []
    for left, top, right, bottom in prominent.find(image).detections.boxes.tolist():
        side = _LOOSE * max(right - left, bottom - top)
        found = landmarker(image, Square((left + right) / 2, (top + bottom) / 2, side, 0.0))
        if found is not None:
            people.append(found)
    return without_doubles(people)


def without_doubles(people: Sequence[Landmarks]) -> list[Landmarks]:
    """One answer for each person, the surest first, and none inside of another's."""
    kept: list[Landmarks] = []
    for one in sorted(people, key=lambda person: -person.score):
        if not any(_are_same(one, other) for other in kept):
            kept.append(one)
    boxes = [whole_box(person) for person in kept]
    return [
        person
        for person, box in zip(kept, boxes, strict=True)
        if not any(_is_part(box, other) for other in boxes if other is not box)
    ]


def _are_same(one: Landmarks, other: Landmarks) -> bool:
    side = min(np.ptp(person.points[:BODY], axis=0).max() for person in (one, other))
    apart = np.linalg.norm(one.points[:BODY] - other.points[:BODY], axis=1).mean()
    return bool(apart < SAME * side)


def _is_part(box: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    shared = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    area, larger = np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2])
    return bool(np.prod(shared.clip(min=0)) > INSIDE * area and area < SMALL * larger)


def whole_box(person: Landmarks) -> NDArray[np.float32]:
    """(4,) left, top, right, bottom, px, of the whole body, in the image or not: landmarks end at the eyes."""
    points = person.points[:BODY]
    neck = points[_SHOULDERS].mean(axis=0)
    up = points[_EARS].mean(axis=0) - neck
    crown, flesh = neck + 1.75 * up, 0.2 * np.linalg.norm(up)
    low, high = np.minimum(points.min(axis=0), crown - flesh), np.maximum(points.max(axis=0), crown + flesh)
    return np.concatenate((low, high)).astype(np.float32)


def annotate(person: Landmarks, width: int, height: int) -> list[dict[str, Any]]:
    """Annotations without ids, in an image of that size: one, two of whom the image cuts off, none of too few points.

    Only what is seen has a visibility of 2; a bbox may reach beyond the image.
    """
    points, edges = person.points[list(_COCO)], np.array((width, height)) - 0.5
    seen = (person.visible[list(_COCO)] > MIN_VISIBLE) & (points > -0.5).all(axis=1) & (points < edges).all(axis=1)
    if seen.sum() < MIN_KEYPOINTS:
        return []
    rows = np.where(seen[:, None], np.concatenate((points, np.full((len(points), 1), 2.0)), axis=1), 0.0)
    whole = whole_box(person)
    part = np.concatenate((whole[:2].clip(min=-0.5), np.minimum(whole[2:], edges)))
    is_cut = np.prod(part[2:] - part[:2]) < CUT * np.prod(whole[2:] - whole[:2])
    boxes = [whole, part] if is_cut else [whole]
    return [
        {
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": int(seen.sum()),
            "keypoints": [round(value, 2) for value in rows.ravel().tolist()],
            "bbox": [round(float(value), 2) for value in (*(box[:2] + 0.5), *(box[2:] - box[:2]))],
            "area": round(float(np.prod(box[2:] - box[:2])), 1),
        }
        for box in boxes
    ]


def read_images(folder: Path, every: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(name, image (H, W, 3) BGR) of a folder's images, and of every so many frames of its videos.

    Raises SourceError when there is neither, or one cannot be read.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES | VIDEOS)
    if not paths:
        expected = "images or videos: " + ", ".join(sorted(IMAGE_SUFFIXES | VIDEOS))
        raise SourceError(f"photographs in {folder}", expected=expected, got="none")
    for path in paths:
        name, count = path.name.replace(".", "_"), 0
        if path.suffix.lower() in IMAGE_SUFFIXES:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None:
                count = 1
                yield name, np.asarray(image, np.uint8)
        else:
            capture = cv2.VideoCapture(str(path))
            while capture.grab():
                if count % every == 0:
                    _, frame = capture.retrieve()
                    yield f"{name}_{count:05d}", np.asarray(frame, np.uint8)
                count += 1
            capture.release()
        if not count:
            raise SourceError(f"{path}", expected="an image or a video", got="what OpenCV cannot read")


def label(folder: Path, out: Path, every: int, prominent: ProminentPeople, landmarker: Landmarker) -> tuple[int, int]:
    """Write images and annotations below `out`; returns how many of each. Images without anyone are left out.

    Raises SourceError, see `read_images`, and when nobody was found in any.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (out / NAME).mkdir(parents=True, exist_ok=True)
    for name, image in read_images(folder, every):
        height, width = image.shape[:2]
        people = find_people(image, prominent, landmarker)
        found = [entry for person in people for entry in annotate(person, width, height)]
        if not found:
            continue
        file, number = f"{name}.jpg", len(images)
        cv2.imwrite(str(out / NAME / file), image, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        annotations += [{"id": len(annotations) + row, "image_id": number, **entry} for row, entry in enumerate(found)]
    if not images:
        raise SourceError(f"photographs in {folder}", expected="people", got="nobody whom the teacher is sure of")
    sides = {"L": "left", "R": "right"}
    keypoints = ["_".join(sides.get(word, word) for word in name.split("_")).lower() for name in COCO_17]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": keypoints}],
    }
    (out / f"person_keypoints_{NAME}.json").write_text(json.dumps(content))
    return len(images), len(annotations)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.photograph_labels", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="folder of images and videos")
    parser.add_argument("--weights", type=Path, required=True, help="pose_landmark_full.tflite")
    parser.add_argument("--out", type=Path, required=True, help="folder for images and annotations")
    parser.add_argument("--every", type=int, default=3, help="frames of a video, of which one is taken (%(default)s)")
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="with a pose detector")
    options = parser.parse_args(arguments)
    try:
        if options.every < 1:
            raise ConfigError("--every", expected="1 or more", got=options.every)
        prominent, landmarker = ProminentPeople(load_bundle(options.bundle)), Landmarker(open_network(options.weights))
        images, annotations = label(options.folder, options.out, options.every, prominent, landmarker)
    except MetroError as error:
        print(f"photograph_labels: {error}", file=sys.stderr)
        return 2
    print(f"{annotations} annotations in {images} images: {options.out / f'person_keypoints_{NAME}.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
