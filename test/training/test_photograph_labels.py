"""Photographs labelled by a teacher: who counts, in which boxes, and what is written."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from metro_ros.core.detect import Detections
from metro_ros.core.errors import SourceError
from metro_ros.core.prominent import Prominent
from training.datasets.coco import CocoKeypoints
from training.evaluate_photographs import labelled_people
from training.landmarker import LANDMARKS, Landmarks, Square
from training.photograph_labels import annotate, find_people, label, main, read_images, whole_box, without_doubles


def _person(x: float = 100.0, y: float = 40.0, height: float = 200.0, score: float = 0.9) -> Landmarks:
    """Upright, its eyes at (x, y), its feet `height` below."""
    points = np.zeros((LANDMARKS, 2), np.float32)
    points[:11] = x, y
    points[[7, 8]] = (x - 0.04 * height, y), (x + 0.04 * height, y)
    points[[11, 12]] = (x - 0.1 * height, y + 0.1 * height), (x + 0.1 * height, y + 0.1 * height)
    points[13:23] = x, y + 0.3 * height
    points[[23, 24]] = x, y + 0.5 * height
    points[25:33] = x, y + height
    return Landmarks(points, np.ones(LANDMARKS, np.float32), score)


class Finds:
    """A pose detector and a teacher that know who is there."""

    def __init__(self, people: list[Landmarks]) -> None:
        self.people, self.squares = people, list[Square]()

    def find(self, image: np.ndarray) -> Prominent:
        boxes = np.array([whole_box(person) for person in self.people], np.float32).reshape(-1, 4)
        return Prominent(Detections(boxes, np.full(len(boxes), 0.9, np.float32)), boxes[:, :2])

    def __call__(self, image: np.ndarray, start: Square) -> Landmarks | None:
        self.squares.append(start)
        person = self.people[len(self.squares) - 1]
        return person if person.score >= 0.8 else None


def test_everyone_counts_once_and_hands_do_not() -> None:
    left, right = _person(100, score=0.9), _person(300, score=0.95)
    again, print_on_a_shirt = _person(104, score=0.85), _person(300, 70, 60, score=0.99)
    kept = without_doubles([left, again, print_on_a_shirt, right])
    assert [person is one for person, one in zip(kept, (right, left), strict=True)] == [True, True]


def test_the_teacher_looks_at_whom_the_detector_sees() -> None:
    stand_in = Finds([_person(100), _person(300, score=0.5)])
    found = find_people(np.zeros((300, 400, 3), np.uint8), stand_in, stand_in)  # type: ignore[arg-type]
    assert len(found) == 1 and found[0] is stand_in.people[0]
    left, top, right, bottom = whole_box(found[0])
    square = stand_in.squares[0]
    assert (square.cx, square.cy) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.1)
    assert square.side == pytest.approx(1.1 * (bottom - top), abs=0.1) and square.turn == 0


def test_the_box_holds_the_crown() -> None:
    left, top, right, bottom = whole_box(_person(100, 40, 200)).tolist()
    assert 15 < top < 30 and 240 <= bottom < 246 and left <= 80 and right >= 120


def test_whoever_is_seen_whole_has_one_annotation() -> None:
    (entry,) = annotate(_person(), 200, 300)
    rows = np.array(entry["keypoints"]).reshape(17, 3)
    assert (rows[:, 2] == 2).all() and rows[5, :2].tolist() == [80, 60] and entry["num_keypoints"] == 17
    left, top, right, bottom = whole_box(_person())
    assert entry["bbox"] == pytest.approx([left + 0.5, top + 0.5, right - left, bottom - top], abs=0.01)


def test_whoever_is_cut_off_has_two_boxes_and_the_keypoints_that_are_seen() -> None:
    person = _person()
    person.visible[15] = 0.4  # the left wrist is hidden
    whole, part = annotate(person, 200, 150)
    for entry in (whole, part):
        rows = np.array(entry["keypoints"]).reshape(17, 3)
        assert rows[[13, 14, 15, 16, 9], 2].tolist() == [0] * 5 and rows[9].tolist() == [0, 0, 0]
        assert entry["num_keypoints"] == 12
    assert whole["bbox"][3] > 215 and part["bbox"][1] + part["bbox"][3] == pytest.approx(150)


def test_too_little_of_somebody_is_nobody() -> None:
    assert annotate(_person(100, -190), 200, 150) == []


def _folder(path: Path) -> Path:
    path.mkdir()
    cv2.imwrite(str(path / "b.png"), np.full((300, 200, 3), 90, np.uint8))
    cv2.imwrite(str(path / "b.jpg"), np.full((300, 200, 3), 30, np.uint8))
    video = cv2.VideoWriter(str(path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (200, 300))
    for grey in range(0, 250, 50):
        video.write(np.full((300, 200, 3), grey, np.uint8))
    video.release()
    (path / "notes.txt").write_text("not an image")
    return path


def test_images_and_every_few_frames_of_videos(tmp_path: Path) -> None:
    found = [(name, round(image.mean() / 10) * 10) for name, image in read_images(_folder(tmp_path / "in"), 2)]
    assert found == [("a_avi_00000", 0), ("a_avi_00002", 100), ("a_avi_00004", 200), ("b_jpg", 30), ("b_png", 90)]


@pytest.mark.parametrize("name", ["broken.jpg", "broken.mp4"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(SourceError, match=f"{name}.*cannot read"):
        list(read_images(tmp_path, 1))


def test_what_is_written_is_a_dataset(tmp_path: Path) -> None:
    class Bright(Finds):
        def find(self, image: np.ndarray) -> Prominent:
            self.squares.clear()
            return super().find(image) if image.mean() > 60 else Finds([]).find(image)

    stand_in, out = Bright([_person()]), tmp_path / "out"
    assert label(_folder(tmp_path / "in"), out, 2, stand_in, stand_in) == (3, 3)  # type: ignore[arg-type]
    dataset = CocoKeypoints(out / "person_keypoints_photographs.json", out / "photographs")
    assert len(dataset) == 3 and sorted(path.stem for path in (out / "photographs").iterdir()) == [
        "a_avi_00002",
        "a_avi_00004",
        "b_png",
    ]
    sample = dataset[2]
    assert sample.image.shape == (300, 200, 3) and sample.keypoints_px[5].tolist() == [80, 60]
    rows = list(labelled_people(out / "person_keypoints_photographs.json", out / "photographs"))
    assert [len(people) for _, people in rows] == [1, 1, 1]  # it can be evaluated on, too
    stated = json.loads((out / "person_keypoints_photographs.json").read_text())
    assert stated["images"][2] == {"id": 2, "file_name": "b_png.jpg", "width": 200, "height": 300}


@pytest.mark.parametrize("every", ["0", "3"])
def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], every: str) -> None:
    words = [
        "--from",
        str(tmp_path),
        "--weights",
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "o"),
        "--every",
        every,
    ]
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith("photograph_labels: ") and output.err.count("\n") == 1 and not output.out
