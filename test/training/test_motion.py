"""Motions: reading the file, and retargeting by bone direction."""

from pathlib import Path

import numpy as np
import pytest
from bodies import make_bank, make_recording

from metro_ros.core.errors import SourceError
from training.body import bone_transforms, skin
from training.motion import load_motions, mirror, retarget, rotation_from_vector, swing_rotation, vector_from_rotation


def _write(path: Path, **changes: np.ndarray) -> Path:
    positions, names, parents = make_recording()
    np.savez(path, **({"01_01": positions, "joint_names": np.array(names), "parents": parents} | changes))
    return path


def test_swing_takes_one_direction_onto_the_other() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20, 3))
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    turn = swing_rotation(a, b)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", turn, a), b, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turn), 1.0, atol=1e-9)


def test_rotation_vectors_round_trip() -> None:
    vectors = np.random.default_rng(1).uniform(-1.6, 1.6, (50, 3))
    np.testing.assert_allclose(vector_from_rotation(rotation_from_vector(vectors)), vectors, atol=1e-9)


def test_limbs_point_where_the_recording_points(tmp_path: Path) -> None:
    bank = make_bank()
    positions, names, _ = make_recording()
    motion = load_motions(_write(tmp_path / "m.npz"), bank)[0]
    camera_axes = positions * [1, -1, -1]
    for bone, end, start_joint, end_joint in (
        ("upperleg01.L", "lowerleg01.L", "lhipjoint", "lfemur"),
        ("lowerleg01.R", "foot.R", "rfemur", "rtibia"),
        ("upperarm01.R", "lowerarm01.R", "rclavicle", "rhumerus"),
        ("lowerarm01.L", "wrist.L", "lhumerus", "lradius"),
    ):
        rest = bank.rest_heads.mean(axis=0)
        direction = rest[bank.bone(end)] - rest[bank.bone(bone)]
        ours = motion.rotations[:, bank.bone(bone)] @ (direction / np.linalg.norm(direction))
        theirs = camera_axes[:, names.index(end_joint)] - camera_axes[:, names.index(start_joint)]
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=bone)
    assert len(motion) == len(positions)


def test_a_standing_recording_faces_the_camera() -> None:
    bank = make_bank()
    positions, names, _ = make_recording()
    motion = retarget((positions * [1, -1, -1]).astype(np.float32), names, bank)
    pelvis = motion.rotations[0, 0]
    np.testing.assert_allclose(pelvis @ [0, 0, -1], [0, 0, -1], atol=0.05)  # the recording faces +z, y up
    np.testing.assert_allclose(pelvis @ [1, 0, 0], [1, 0, 0], atol=0.05)


def test_rest_pose_skins_to_the_rest_vertices() -> None:
    bank = make_bank()
    still = np.broadcast_to(np.eye(3, dtype=np.float32), (len(bank.bone_names), 3, 3))
    transforms = bone_transforms(still, bank.rest_heads[1], bank.bone_parents)
    posed = skin(bank.rest_vertices[1], transforms, bank.skin_indices, bank.skin_weights)
    np.testing.assert_allclose(posed, bank.rest_vertices[1], atol=1e-6)


def test_a_bent_elbow_moves_the_hand_about_the_elbow() -> None:
    bank = make_bank()
    turn = rotation_from_vector(np.array([0.0, 0.0, 0.7])).astype(np.float32)
    rotations = np.broadcast_to(np.eye(3, dtype=np.float32), (len(bank.bone_names), 3, 3)).copy()
    for bone in ("lowerarm01.L", "wrist.L", "finger3-1.L"):
        rotations[bank.bone(bone)] = turn
    heads = bank.rest_heads[2]
    transforms = bone_transforms(rotations, heads, bank.bone_parents)
    wrist, elbow = heads[bank.bone("wrist.L")], heads[bank.bone("lowerarm01.L")]
    moved = transforms[bank.bone("wrist.L")] @ np.append(wrist, 1.0)
    np.testing.assert_allclose(moved, elbow + turn @ (wrist - elbow), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"01_01": np.full((5, 31, 3), np.nan, np.float32)}, "finite"),
        ({"01_01": np.zeros((5, 30, 3), np.float32)}, "31"),
        ({"joint_names": np.array(["hip"] * 31)}, "lacks joints"),
    ],
)
def test_bad_motion_files_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_motions(_write(tmp_path / "m.npz", **changes), make_bank())


def test_files_that_are_no_motions(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    for path in (tmp_path / "text.npz", tmp_path / "missing.npz"):
        with pytest.raises(SourceError, match="cannot read"):
            load_motions(path, make_bank())


_SIDED = ("hipjoint", "femur", "tibia", "foot", "toes", "clavicle", "humerus", "radius", "wrist", "hand", "thumb",
          "fingers")  # fmt: skip


def test_a_mirrored_motion_is_the_recording_of_a_mirrored_person() -> None:
    bank = make_bank()
    positions, names, _ = make_recording(seed=1)
    camera_axes = (positions * [1, -1, -1]).astype(np.float32)
    swap = [names.index({"l": "r", "r": "l"}[n[0]] + n[1:]) if n[1:] in _SIDED else i for i, n in enumerate(names)]
    reflected = (camera_axes * [-1, 1, 1]).astype(np.float32)[:, swap]
    expected = retarget(reflected, names, bank)
    got = mirror(retarget(camera_axes, names, bank), bank)
    np.testing.assert_allclose(got.rotations, expected.rotations, atol=1e-4)
    np.testing.assert_allclose(got.root, expected.root, atol=1e-6)
