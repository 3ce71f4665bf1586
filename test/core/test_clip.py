import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from metro_ros.core.clip import load_clip
from metro_ros.core.errors import CameraError, SourceError

FRAMES, PEOPLE, BONES, VERTICES = 4, 2, 3, 20


def truth() -> dict[str, Any]:
    random = np.random.RandomState(0)
    weights = random.uniform(size=(VERTICES, 2))
    turns = [cv2.Rodrigues(random.standard_normal(3))[0] for _ in range(FRAMES * PEOPLE * BONES)]
    transforms = np.concatenate((np.stack(turns), random.standard_normal((FRAMES * PEOPLE * BONES, 3, 1))), axis=2)
    return {
        "rest_vertices": random.standard_normal((PEOPLE, VERTICES, 3)).astype(np.float32),
        "skin_indices": random.randint(0, BONES, (VERTICES, 2)).astype(np.uint8),
        "skin_weights": (weights / weights.sum(axis=1, keepdims=True)).astype(np.float16),
        "bone_transforms": transforms.reshape(FRAMES, PEOPLE, BONES, 3, 4).astype(np.float32),
        "visible": np.linspace(0, 1, FRAMES * PEOPLE).reshape(FRAMES, PEOPLE).astype(np.float16),
        "matrix": np.array(((60.0, 0, 31.5), (0, 60, 23.5), (0, 0, 1))),
        "size": np.array((64, 48)),
        "fps": np.float32(30),
    }


def write_clip(path: Path, video: bool, arrays: dict[str, Any] | None = None, frames: int = FRAMES) -> Path:
    images = [np.full((48, 64, 3), 50 * index + 20, np.uint8) for index in range(frames)]
    path.mkdir(exist_ok=True)
    if video:
        writer = cv2.VideoWriter(str(path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (64, 48))
        for image in images:
            writer.write(image)
        writer.release()
    else:
        (path / "frames").mkdir(exist_ok=True)
        for index, image in enumerate(images):
            cv2.imwrite(str(path / "frames" / f"{index:03}.png"), image)
    np.savez(path / "truth.npz", **(truth() if arrays is None else arrays))
    return path


@pytest.mark.parametrize("video", [True, False])
def test_frames_come_in_order(tmp_path: Path, video: bool) -> None:
    clip = load_clip(write_clip(tmp_path, video))
    assert (len(clip), clip.people, clip.fps, clip.camera.width, clip.camera.height) == (FRAMES, PEOPLE, 30, 64, 48)
    np.testing.assert_array_equal(clip.visible, truth()["visible"])
    means = [image.mean() for image in clip.frames()]
    np.testing.assert_allclose(means, [20, 70, 120, 170], atol=6)


def test_vertices_are_blended_bone_by_bone(tmp_path: Path) -> None:
    clip = load_clip(write_clip(tmp_path, video=False))
    arrays = truth()
    for frame, person in itertools.product(range(FRAMES), range(PEOPLE)):
        expected = np.zeros((VERTICES, 3))
        for vertex in range(VERTICES):
            rest = np.append(arrays["rest_vertices"][person, vertex], 1)
            for bone, weight in zip(arrays["skin_indices"][vertex], clip.skin_weights[vertex], strict=True):
                expected[vertex] += weight * (arrays["bone_transforms"][frame, person, bone] @ rest)
        np.testing.assert_allclose(clip.vertices(frame, person), expected, atol=1e-5)
    for place in ((FRAMES, 0), (0, PEOPLE)):
        with pytest.raises(IndexError):
            clip.vertices(*place)


def test_half_precision_weights_sum_to_one(tmp_path: Path) -> None:
    clip = load_clip(write_clip(tmp_path, video=False))
    np.testing.assert_allclose(clip.skin_weights.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("frames", [FRAMES - 1, FRAMES + 1])
@pytest.mark.parametrize("video", [True, False])
def test_another_number_of_frames(tmp_path: Path, frames: int, video: bool) -> None:
    clip = load_clip(write_clip(tmp_path, video, frames=frames))
    with pytest.raises(SourceError, match=f"expected {FRAMES}.*got {frames}"):
        list(clip.frames())


def test_frames_of_another_size(tmp_path: Path) -> None:
    clip = load_clip(write_clip(tmp_path, video=False, arrays={**truth(), "size": np.array((64, 47))}))
    with pytest.raises(SourceError, match="expected 64x47, got 64x48"):
        next(clip.frames())


def test_files_that_are_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"clip\.mp4 or frames/"):
        load_clip(tmp_path)
    path = write_clip(tmp_path, video=True)
    (path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match="cannot open"):
        list(load_clip(path).frames())
    (path / "truth.npz").unlink()
    with pytest.raises(SourceError, match="no truth"):
        load_clip(path)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("rest_vertices", np.full((PEOPLE, VERTICES, 3), np.nan, np.float32), "finite"),
        ("rest_vertices", np.zeros((PEOPLE, VERTICES, 2), np.float32), r"\(any, any, 3\)"),
        ("rest_vertices", np.zeros((VERTICES, 3), np.float32), r"\(any, any, 3\)"),
        ("rest_vertices", np.zeros((0, VERTICES, 3), np.float32), "one person"),
        ("skin_indices", np.full((VERTICES, 2), BONES, np.uint8), r"0\.\.2"),
        ("skin_indices", np.full((VERTICES, 2), -1, np.int16), r"0\.\.2"),
        ("skin_weights", np.full((VERTICES, 2), 0.4, np.float16), "sum to 1"),
        ("skin_weights", np.ones((VERTICES, 3), np.float16), "20, 2"),
        ("bone_transforms", np.zeros((FRAMES, PEOPLE, BONES, 4, 4), np.float32), "any, 2, any, 3, 4"),
        ("bone_transforms", np.zeros((FRAMES, PEOPLE + 1, BONES, 3, 4), np.float32), "any, 2, any, 3, 4"),
        ("visible", np.ones((FRAMES, PEOPLE + 1), np.float16), "4, 2"),
        ("visible", np.full((FRAMES, PEOPLE), 1.5, np.float16), r"0\.\.1"),
        ("visible", None, "visible.*nothing"),
        ("size", np.array((64.0, 48.0)), "size"),
        ("fps", np.float32(0), "above 0"),
        ("matrix", None, "matrix.*nothing"),
    ],
)
def test_a_truth_that_is_wrong(tmp_path: Path, name: str, value: Any, says: str) -> None:
    arrays = truth()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(SourceError, match=says):
        load_clip(write_clip(tmp_path, video=False, arrays=arrays))


def test_an_impossible_camera(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="not calibrated"):
        load_clip(write_clip(tmp_path, video=False, arrays={**truth(), "matrix": np.zeros((3, 3))}))
