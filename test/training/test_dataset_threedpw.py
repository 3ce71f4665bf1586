"""3DPW as published: people in the camera's frame, of frames whose camera is known."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_fixtures import RED, camera_from_world, smpl_joints, write_threedpw

from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.skeleton import J14
from training.datasets.metro_tsv import J24_NAMES
from training.datasets.sample import SampleError
from training.datasets.threedpw import ThreeDPW

Change = Callable[[dict[str, Any]], None]


def test_only_joints_that_mean_the_same_have_the_names_of_others() -> None:
    shared = set(ThreeDPW.joint_names) & set(J24_NAMES)
    parts = ("Ankle", "Knee", "Wrist", "Elbow", "Shoulder")
    assert shared == {f"{side}_{part}" for side in "LR" for part in parts} < set(J14)
    assert ThreeDPW.joint_names[:3] == ("SmplPelvis", "L_SmplHip", "R_SmplHip")
    # Where METRO has J24 from the joints of SMPL, by their numbers there.
    numbers = {"R_Ankle": 8, "R_Knee": 5, "L_Knee": 4, "L_Ankle": 7, "R_Wrist": 21, "R_Elbow": 19, "R_Shoulder": 17,
               "L_Shoulder": 16, "L_Elbow": 18, "L_Wrist": 20}  # fmt: skip
    assert {name: ThreeDPW.joint_names.index(name) for name in shared} == numbers


def test_rows_are_people_in_frames_with_a_valid_camera(tmp_path: Path) -> None:
    write_threedpw(tmp_path, name="b_01")
    write_threedpw(tmp_path, name="a_00", frames=2, people=1)
    write_threedpw(tmp_path, "train", name="other")
    data = ThreeDPW(tmp_path, "test")
    assert data.name == "3DPW/test" and len(data.joint_names) == 24
    assert [data[row].key for row in range(len(data))] == [
        "a_00/image_00001, person 0",
        "b_01/image_00000, person 0",
        "b_01/image_00001, person 0",
        "b_01/image_00002, person 0",
        "b_01/image_00001, person 1",
        "b_01/image_00002, person 1",
    ]
    for row in (-1, 6):
        with pytest.raises(IndexError):
            data[row]


def test_a_person(tmp_path: Path) -> None:
    data = ThreeDPW(write_threedpw(tmp_path), "test")
    sample = data[4]  # person 1, frame 2, whose camera is 4 m away
    assert sample.image.shape == (160, 120, 3)
    np.testing.assert_allclose(sample.image[5, 5], RED, atol=3)
    assert sample.image[-1, -1, 0] == pytest.approx(100, abs=3)
    # Joint j of person 1 in the world: (0.2 + 0.04 j, 0.04 j, 0); the camera has y down.
    np.testing.assert_allclose(sample.keypoints_px[10], (59.5 + 100 * 0.6 / 4, 79.5 - 100 * 0.4 / 4), atol=1e-4)
    np.testing.assert_allclose(sample.joints[10], (0.4, -0.4, 0), atol=1e-6)
    assert not sample.joints[0].any() and (sample.joint_confidence == 1).all()
    assert (sample.keypoint_confidence == 1).all()
    # From joint 0 at (64.5, 79.5) to joint 23 at (87.5, 56.5), and a fifth more.
    assert (sample.box.cx, sample.box.cy) == pytest.approx((76, 68)) and sample.box.size == pytest.approx(1.2 * 23)
    assert sample.betas is not None and sample.betas == pytest.approx(np.full(10, 0.2))
    assert sample.vertices is None


def test_the_pose_is_turned_into_the_camera_and_nothing_else_is(tmp_path: Path) -> None:
    def change(sequence: dict[str, Any]) -> None:
        sequence["poses"][0] = np.tile(np.linspace(0.1, 0.8, 72), (3, 1))

    sample = ThreeDPW(write_threedpw(tmp_path, change=change), "test")[1]
    pose = np.linspace(0.1, 0.8, 72)
    assert sample.pose is not None
    expected = camera_from_world(1)[:3, :3] @ cv2.Rodrigues(pose[:3])[0]
    np.testing.assert_allclose(cv2.Rodrigues(sample.pose[:3].astype(np.float64))[0], expected, atol=1e-5)
    np.testing.assert_allclose(sample.pose[3:], pose[3:], atol=1e-6)


def test_cam_poses_lead_from_the_world_to_the_camera(tmp_path: Path) -> None:
    """Not the other way: this turn, x → z → y → x, is not its own inverse."""
    motion = np.eye(4)[[1, 2, 0, 3]]
    motion[:3, 3] = 0.1, 0.2, 5.0

    def change(sequence: dict[str, Any]) -> None:
        sequence["cam_poses"] = np.stack([motion] * 3)

    sample = ThreeDPW(write_threedpw(tmp_path, change=change), "test")[0]
    # Joint 10 is at (0.4, 0.4, 0) in the world: at (0.5, 0.2, 5.4) before the camera.
    np.testing.assert_allclose(sample.joints[10], (0.4, 0, 0.4), atol=1e-6)
    np.testing.assert_allclose(sample.keypoints_px[10], (59.5 + 50 / 5.4, 79.5 + 20 / 5.4), atol=1e-4)


def test_joints_behind_the_camera_are_not_seen(tmp_path: Path) -> None:
    def change(sequence: dict[str, Any]) -> None:
        world = smpl_joints(0)
        world[3, 2] = 5.0  # the camera stands at z = 2 and looks back
        sequence["jointPositions"][0][0] = world.reshape(72)
        sequence["jointPositions"][0][1] = world.reshape(72) + np.tile((0, 0, 50), 24)

    data = ThreeDPW(write_threedpw(tmp_path, change=change), "test")
    sample = data[0]
    assert sample.keypoint_confidence.tolist() == [1.0] * 3 + [0.0] + [1.0] * 20
    assert sample.joint_confidence.all()
    assert sample.box.size == pytest.approx(1.2 * 100 * 0.92 / 2)  # without it
    with pytest.raises(SampleError, match=r"image_00001, person 0: expected a joint in front"):
        data[1]


def test_more_than_ten_shapes(tmp_path: Path) -> None:
    def change(sequence: dict[str, Any]) -> None:
        sequence["betas"][0] = np.arange(300.0)[:, None]

    betas = ThreeDPW(write_threedpw(tmp_path, change=change), "test")[0].betas
    assert betas is not None and betas.tolist() == list(range(10))


@pytest.mark.parametrize("field", ["poses", "jointPositions", "cam_poses", "betas"])
def test_frames_that_nobody_knows_are_damaged_rows(tmp_path: Path, field: str) -> None:
    def change(sequence: dict[str, Any]) -> None:
        part = sequence[field] if field == "cam_poses" else sequence[field][0]
        part[0] = np.nan

    data = ThreeDPW(write_threedpw(tmp_path, change=change), "test")
    with pytest.raises(SampleError, match=rf"3DPW/test/downtown_walk_00/image_00000, person 0: {field}"):
        data[0]
    assert data[3].has_joints


def test_a_missing_or_damaged_image(tmp_path: Path) -> None:
    data = ThreeDPW(write_threedpw(tmp_path), "test")
    first, second = (tmp_path / "imageFiles" / "downtown_walk_00" / f"image_{n:05d}.jpg" for n in range(2))
    first.unlink()
    second.write_bytes(second.read_bytes()[:99])
    for row in range(2):
        with pytest.raises(SampleError, match=f"image_0000{row}"):
            data[row]
    assert data[2].has_joints


def _set(name: str, value: Any) -> Change:
    return lambda sequence: sequence.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "named"),
    [(_set("poses", [np.zeros((3, 71))] * 2), "poses of person 0"), (_set("poses", []), "poses of"),
     (_set("poses", np.zeros((2, 3, 72))), "poses of"), (lambda s: s.pop("cam_poses"), "cam_poses of"),
     (_set("cam_poses", np.zeros((2, 4, 4))), "poses of person 0"),
     (_set("cam_intrinsics", [[1]]), "cam_intrinsics of"),
     (lambda s: s["jointPositions"].pop(), "jointPositions of person 1"),
     (_set("campose_valid", [np.ones(9)] * 2), "campose_valid of person 0"),
     (_set("betas", [np.zeros(9)] * 2), "betas of person 0"), (_set("betas", [["a"] * 10] * 2), "betas"),
     (_set("jointPositions", ["text"] * 2), "jointPositions of person 0")],
)  # fmt: skip
def test_a_sequence_that_is_none(tmp_path: Path, change: Change, named: str) -> None:
    write_threedpw(tmp_path, change=change)
    with pytest.raises(SourceError, match=rf"{named}.*downtown_walk_00\.pkl") as error:
        ThreeDPW(tmp_path, "test")
    assert "\n" not in str(error.value)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no sequences in .*sequenceFiles/train.*Give the folder"):
        ThreeDPW(tmp_path)
    with pytest.raises(ConfigError, match="train or validation or test"):
        ThreeDPW(tmp_path, "valid")  # type: ignore[arg-type]
    write_threedpw(tmp_path, "train", change=_set("campose_valid", [np.zeros(3)] * 2))
    with pytest.raises(SourceError, match="train is empty: expected frames with a valid camera"):
        ThreeDPW(tmp_path)
    images = tmp_path / "imageFiles" / "downtown_walk_00"
    images.rename(images.with_name("elsewhere"))
    with pytest.raises(SourceError, match=r"imageFiles/downtown_walk_00 is missing"):
        ThreeDPW(tmp_path)
    path = tmp_path / "sequenceFiles" / "train" / "downtown_walk_00.pkl"
    for content in (b"", path.read_bytes()[:200], pickle.dumps([1]), b"cos\nsystem\n(S'true'\ntR."):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"downtown_walk_00\.pkl"):
            ThreeDPW(tmp_path)


def test_a_copy_reads_the_same(tmp_path: Path) -> None:
    data = ThreeDPW(write_threedpw(tmp_path), "test")
    copy = pickle.loads(pickle.dumps(data))
    for field in ("image", "joints", "pose", "keypoints_px"):
        np.testing.assert_array_equal(getattr(copy[2], field), getattr(data[2], field))
