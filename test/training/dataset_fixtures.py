"""Tiny datasets, written as the real ones lie on disk: METRO's TSV files, FreiHAND, 3DPW and COCO's keypoints."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from model_fixtures import python2_pickle
from numpy.typing import NDArray

RED = (200, 40, 20)
"""The colour in the upper left quarter of every image, RGB; the rest is a grey that differs from image to image."""

Change = Callable[[int, dict[str, Any]], Any]
"""(row, content) → what is written instead."""


def make_image(number: int = 0, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """(height, width, 3) RGB."""
    image = np.full((height, width, 3), 60 + 20 * (number % 8), np.uint8)
    image[: height // 2, : width // 2] = RED
    return image


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()


def write_metro_tsv(
    folder: Path,
    kind: str = "body",
    rows: int = 3,
    stem: str = "train",
    linelist: Sequence[int] | None = None,
    change: Change = lambda row, labels: [labels],
    image: tuple[int, int] = (64, 48),
) -> Path:
    """A split of one of METRO's own sets with all its .lineidx; returns its YAML. `change` makes a row's JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [f"images/{row:05d}.jpg" for row in range(rows)]
    pictures = [base64.b64encode(encode_jpeg(make_image(row, *image))).decode() for row in range(rows)]
    labels = [json.dumps(change(row, metro_labels(kind, row))) for row in range(rows)]
    sizes = [json.dumps([{"height": image[1], "width": image[0]}])] * rows
    for name, contents in (("img", pictures), ("label", labels), ("hw", sizes)):
        write_tsv(folder / f"{stem}.{name}.tsv", list(zip(keys, contents, strict=True)))
    write_tsv(folder / f"{stem}.linelist.tsv", [(str(row),) for row in (linelist or range(rows))])
    names = "".join(f"{name}: {stem}.{name}.tsv\n" for name in ("img", "hw", "label", "linelist"))
    path = folder / f"{stem}.yaml"
    path.write_text(names)
    return path


def metro_labels(kind: str, row: int = 0) -> dict[str, Any]:
    """One annotation, every label known; joint j lies at (j, row, 1) cm + its root's, and at (10 + j, 20 + row) px."""
    joints, pose = (24, 72) if kind == "body" else (21, 48)
    numbers = np.arange(joints)
    place = np.stack([0.01 * numbers, np.full(joints, 0.01 * row), np.full(joints, 0.01), np.ones(joints)], axis=1)
    return {
        "center": [30.5, 24.0],
        "scale": 0.25,
        "2d_joints": np.stack([10.0 + numbers, np.full(joints, 20.0 + row), np.ones(joints)], axis=1).tolist(),
        "has_2d_joints": 1,
        "3d_joints": place.tolist(),
        "has_3d_joints": 1,
        "pose": (0.001 * np.arange(pose)).tolist(),
        "betas": [0.1] * 10,
        "has_smpl": 1,
        "gender": "m",
    }


def write_tsv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """A TSV file and its .lineidx."""
    lines = ["\t".join(row).encode() + b"\n" for row in rows]
    path.write_bytes(b"".join(lines))
    starts = np.cumsum([0, *map(len, lines[:-1])])
    path.with_suffix(".lineidx").write_text("".join(f"{start}\n" for start in starts))


def write_freihand(
    folder: Path, hands: int = 2, split: str = "training", variants: int = 4, truth: bool = True
) -> Path:
    """The JSON files and the images of 224 px of a split; `variants` and no more than 1 for evaluation."""
    images = folder / split / "rgb"
    images.mkdir(parents=True)
    for number in range(hands * (variants if split == "training" else 1)):
        (images / f"{number:08d}.jpg").write_bytes(encode_jpeg(make_image(number, 224, 224)))
    joints = [freihand_joints(hand) for hand in range(hands)]
    content: dict[str, Any] = {"K": [[[480.0, 0, 112], [0, 480.0, 112], [0, 0, 1]]] * hands, "scale": [0.03] * hands}
    if truth:
        content["xyz"] = [hand.tolist() for hand in joints]
        content["verts"] = [freihand_vertices(hand).tolist() for hand in joints]
    if split == "training":
        content["mano"] = [[[0.1] * 61]] * hands
    for name, value in content.items():
        (folder / f"{split}_{name}.json").write_text(json.dumps(value))
    return folder


def freihand_joints(hand: int) -> NDArray[np.float64]:
    """(21, 3) metres: the wrist at (0.01, 0.02, 0.6 + 0.1 hand), joint j further right by 2 mm times j."""
    joints = np.tile((0.01, 0.02, 0.6 + 0.1 * hand), (21, 1))
    joints[:, 0] += 0.002 * np.arange(21)
    return joints


def freihand_vertices(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(778, 3) on a line down from the wrist, a tenth of a millimetre apart."""
    return joints[0] + 1e-4 * np.arange(778)[:, None] * np.array((0.0, 1.0, 0.0))


def write_threedpw(
    folder: Path,
    split: str = "test",
    frames: int = 3,
    people: int = 2,
    name: str = "downtown_walk_00",
    change: Callable[[dict[str, Any]], None] = lambda sequence: None,
) -> Path:
    """A sequence of a split, its images 120 by 160 px; for the last person the first frame's camera is invalid."""
    images = folder / "imageFiles" / name
    images.mkdir(parents=True)
    for frame in range(frames):
        (images / f"image_{frame:05d}.jpg").write_bytes(encode_jpeg(make_image(frame, 120, 160)))
    valid = np.ones((people, frames), int)
    valid[-1, 0] = 0
    poses = np.zeros((frames, 72))
    poses[:, 0] = 0.3
    sequence: dict[str, Any] = {
        "sequence": name,
        "poses": [poses.copy() for _ in range(people)],
        "betas": [np.full(10, 0.1 * (person + 1)) for person in range(people)],
        "trans": [np.zeros((frames, 3)) for _ in range(people)],
        "poses2d": [np.zeros((frames, 3, 18)) for _ in range(people)],
        "jointPositions": [np.stack([smpl_joints(person).reshape(72)] * frames) for person in range(people)],
        "cam_intrinsics": np.array([[100.0, 0, 59.5], [0, 100.0, 79.5], [0, 0, 1]]),
        "cam_poses": np.stack([camera_from_world(frame) for frame in range(frames)]),
        "genders": ["m", "f"][:people],
        "campose_valid": list(valid),
        "img_frame_ids": np.arange(frames) * 2,
    }
    change(sequence)
    path = folder / "sequenceFiles" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(sequence))
    return folder


def smpl_joints(person: int) -> NDArray[np.float64]:
    """(24, 3) metres in the world, y up: a ladder of joints, 4 cm apart to the left and upwards."""
    return np.array((0.2 * person, 0.0, 0.0)) + 0.04 * np.arange(24)[:, None] * np.array((1.0, 1.0, 0.0))


def camera_from_world(frame: int) -> NDArray[np.float64]:
    """(4, 4) half a turn about x, then 2 m + 1 m a frame ahead."""
    motion = np.diag((1.0, -1.0, -1.0, 1.0))
    motion[2, 3] = 2.0 + frame
    return motion


def write_coco(folder: Path, people: int = 2, change: Callable[[dict[str, Any]], None] = lambda content: None) -> Path:
    """person_keypoints_val2017.json and its images in val2017; returns the former. A crowd and a tiny person on top."""
    images = folder / "val2017"
    images.mkdir(parents=True)
    for number in range(people):
        (images / f"{number:012d}.jpg").write_bytes(encode_jpeg(make_image(number)))
    keypoints = np.stack([10 + 2 * np.arange(17), np.full(17, 20), np.full(17, 2)], axis=1)
    keypoints[1, 2] = 1  # hidden
    keypoints[2] = 0  # not marked
    person = {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [8.0, 4.0, 40.0, 36.0],
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": 16,
        "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
    }
    annotations = [{**person, "id": 100 + number, "image_id": number} for number in range(people)]
    annotations.append({**person, "id": 900, "image_id": 0, "iscrowd": 1, "segmentation": {"size": [1], "counts": [1]}})
    annotations.append({**person, "id": 901, "image_id": 0, "bbox": [1.0, 1.0, 9.0, 9.0]})
    annotations.append({**person, "id": 902, "image_id": 0, "keypoints": [0] * 51, "num_keypoints": 0})
    content = {
        "info": {"year": 2017},
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": 48, "width": 64} for n in range(people)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    change(content)
    path = folder / "annotations" / "person_keypoints_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
