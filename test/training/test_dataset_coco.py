"""COCO's people: who counts, where they are, and which keypoints are known."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_fixtures import RED, write_coco

from metro_ros.core.errors import SourceError
from metro_ros.core.skeleton import J14
from training.datasets.coco import COCO_17, CocoKeypoints
from training.datasets.metro_tsv import J24_NAMES
from training.datasets.sample import SampleError


def opened(
    folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None, **options: Any
) -> CocoKeypoints:
    return CocoKeypoints(write_coco(folder, change=change), folder / "val2017", **options)


def test_names_are_spelt_as_everywhere() -> None:
    assert set(J24_NAMES) > set(COCO_17) and set(J14) - set(COCO_17) == {"Neck", "Head"}
    assert len(set(COCO_17)) == 17


def test_a_person(tmp_path: Path) -> None:
    data = opened(tmp_path)
    assert (data.name, len(data), data.joint_names) == ("person_keypoints_val2017", 2, COCO_17)
    sample = data[1]
    assert sample.key == "000000000001.jpg, annotation 1" and sample.image.shape == (48, 64, 3)
    np.testing.assert_allclose(sample.image[5, 5], RED, atol=3)
    assert sample.image[-1, -1, 0] == pytest.approx(80, abs=3)
    # bbox 8, 4, 40 wide, 36 high from the corner: the middle pixel is at 27.5, 21.5.
    assert (sample.box.cx, sample.box.cy, sample.box.size) == pytest.approx((27.5, 21.5, 48))
    np.testing.assert_allclose(sample.keypoints_px[5], (20, 20))
    assert sample.keypoint_confidence.tolist() == [1, 1, 0] + [1] * 14  # hidden ones count, unmarked ones do not
    assert not sample.has_joints and sample.pose is None and sample.vertices is None


def test_crowds_and_the_small_and_the_unmarked_do_not_count(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    images = tmp_path / "val2017"
    assert len(CocoKeypoints(path, images)) == 2
    assert len(CocoKeypoints(path, images, min_side_px=9)) == 3
    assert len(CocoKeypoints(path, images, min_keypoints=0, min_side_px=9)) == 4
    assert len(CocoKeypoints(path, images, min_keypoints=16)) == 2
    with pytest.raises(SourceError, match=r"nobody in .*person_keypoints_val2017\.json: expected people with 17"):
        CocoKeypoints(path, images, min_keypoints=17)


@pytest.mark.parametrize(
    ("field", "value"),
    [("keypoints", [1] * 50), ("keypoints", None), ("keypoints", [float("nan")] * 51), ("keypoints", ["a"] * 51),
     ("bbox", [1, 2, 3]), ("bbox", [1, 2, float("inf"), 4]), ("bbox", None), ("image_id", None), ("image_id", "0"),
     ("image_id", 10**30), ("image_id", 77)],
)  # fmt: skip
def test_a_damaged_annotation_is_its_own_error(tmp_path: Path, field: str, value: Any) -> None:
    data = opened(tmp_path, lambda content: content["annotations"][0].__setitem__(field, value))
    assert len(data) == 2 and data[1].key.startswith("000000000001.jpg")
    copy = pickle.loads(pickle.dumps(data))
    for each in (data, copy):
        with pytest.raises(SampleError, match=r"annotation 0 of .*person_keypoints_val2017\.json") as error:
            each[0]
        assert "\n" not in str(error.value)


def test_an_annotation_that_is_no_object(tmp_path: Path) -> None:
    data = opened(tmp_path, lambda content: content["annotations"].__setitem__(0, [1]))
    with pytest.raises(SampleError, match="annotation 0 of"):
        data[0]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", 7, None, "a\nb.jpg"])
def test_names_that_leave_the_folder_are_no_names(tmp_path: Path, name: Any) -> None:
    data = opened(tmp_path, lambda content: content["images"][0].__setitem__("file_name", name))
    with pytest.raises(SampleError, match=r"annotation 0 of .*the name of its image"):
        data[0]
    assert data[1].keypoint_confidence.any()


def test_a_missing_or_damaged_image(tmp_path: Path) -> None:
    data = opened(tmp_path)
    first, second = sorted((tmp_path / "val2017").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:99])
    for row in range(2):
        with pytest.raises(SampleError, match=f"annotation {row} of .*00000000000{row}.jpg"):
            data[row]
    for row in (-1, 2):
        with pytest.raises(IndexError):
            data[row]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"images": [], "annotations": 3}', "[" * 100000, "\xff"])
def test_a_file_that_is_not_cocos(tmp_path: Path, text: str) -> None:
    path = write_coco(tmp_path)
    path.write_text(text, encoding="latin1")
    with pytest.raises(SourceError, match=r"person_keypoints_val2017\.json") as error:
        CocoKeypoints(path, tmp_path / "val2017")
    assert "\n" not in str(error.value)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    with pytest.raises(SourceError, match=r"none\.json"):
        CocoKeypoints(tmp_path / "none.json", tmp_path / "val2017")
    with pytest.raises(SourceError, match="none is missing: expected the folder"):
        CocoKeypoints(path, tmp_path / "none")
    with pytest.raises(SourceError, match=r"nobody in .*got 2 damaged annotations"):
        opened(tmp_path / "damaged", lambda content: content.__setitem__("annotations", [1, 2]))


def test_a_copy_reads_the_same(tmp_path: Path) -> None:
    data = opened(tmp_path)
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy[1].image, data[1].image)
    np.testing.assert_array_equal(copy[1].keypoints_px, data[1].keypoints_px)
