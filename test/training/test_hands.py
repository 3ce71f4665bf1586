"""Synthetic hands: poses that a hand can take, an arm on every one, and pictures that say what their truth says."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation
from stand_in_hand import make_hand, make_hand_mesh

from metro_ros.core.clip import load_clip
from metro_ros.core.crop import box_from_points
from metro_ros.core.errors import ConfigError
from training.anny_hand import FINGERS, FLEXION_DEG, SPREAD_DEG, finger_axes
from training.body import bone_transforms, skin
from training.datasets.sample import Sample
from training.mesh_spec import HAND_21_NAMES
from training.synth.__main__ import main
from training.synth.forearm import Tube, forearm_axis, make_forearm, wrist_ring
from training.synth.hand_clips import HandClipConfig, write_hand_clips
from training.synth.hand_looks import find_hand_regions, sample_hand_look
from training.synth.hand_poses import SHAPES, HandPose, HandPoseConfig, HandPoseSampler, shape
from training.synth.hand_stage import NEAREST_M, Grip, HandStage
from training.synth.hands import HandSampleConfig, HandSampleMaker, draw_camera, draw_wrist
from training.synth.held import Thing, hold_something
from training.synth.light import sample_light

HAND = make_hand()
MESH = make_hand_mesh(HAND)
EASY = HandSampleConfig(
    whole_image=0.0, rough=0.0, no_person=0.0, occluded=0.0, holding=0.0, rooms=2, pose=HandPoseConfig(pinch_draws=150)
)
TIPS = [HAND_21_NAMES.index(f"{finger}_4") for finger in FINGERS]
POSES = HandPoseSampler(HAND, MESH, seed=0)


def _maker(**changes: float) -> HandSampleMaker:
    return HandSampleMaker(HAND, MESH, 0, dataclasses.replace(EASY, **changes))


def _joints(pose: HandPose) -> np.ndarray:
    """(21, 3) of the average hand, at rest but for its fingers."""
    transforms = bone_transforms(POSES.rotations(pose), HAND.template_heads, HAND.bone_parents)
    assert MESH.joint_regressor is not None
    return MESH.joint_regressor @ skin(HAND.template, transforms, HAND.skin_indices, HAND.skin_weights)


def _angles_deg(pose: HandPose) -> tuple[np.ndarray, np.ndarray]:
    """(5, 3) by how much each joint is bent about its finger's axis, and (5, 3) what it is turned by besides."""
    rotations = POSES.rotations(pose)
    flexions, rest = np.empty((5, 3)), np.empty((5, 3))
    for number, (finger, (flexion, sideways)) in enumerate(zip(FINGERS, finger_axes(HAND), strict=True)):
        for joint in range(3):
            bone = HAND.bone(f"{finger}_{joint + 1}")
            local = Rotation.from_matrix(rotations[HAND.bone_parents[bone]].T @ rotations[bone])
            axes = np.stack([sideways, flexion, np.cross(sideways, flexion)], axis=1)
            spread, bent, twist = Rotation.from_matrix(axes.T @ local.as_matrix() @ axes).as_euler("XYZ", degrees=True)
            flexions[number, joint] = bent
            rest[number, joint] = spread if joint == 0 else max(abs(spread), abs(twist))
    return flexions, rest


def test_sampled_poses_stay_within_the_joint_limits() -> None:
    rng = np.random.default_rng(0)
    low, high = np.moveaxis(np.array(FLEXION_DEG, float), 2, 0)
    narrow, wide = np.array(SPREAD_DEG, float).T
    seen = []
    for _ in range(150):
        pose = POSES.sample(rng)
        bent, besides = _angles_deg(pose)
        assert (bent > low - 0.1).all() and (bent < high + 0.1).all()
        assert (besides[:, 0] > narrow - 0.1).all() and (besides[:, 0] < wide + 0.1).all()
        np.testing.assert_allclose(besides[:, 1:], 0.0, atol=0.1)  # hinges
        # One tendon: the last joint bends by two thirds of the one before, from the same straight position.
        part = (bent - low) / (high - low)
        assert np.abs(part[1:, 2] - part[1:, 1]).max() < 0.15
        seen.append(bent)
    reached = (np.array(seen) - low) / (high - low)
    assert (reached.min(axis=0) < 0.15).all() and (reached.max(axis=0) > 0.8).all()  # and all of them are used
    again = np.random.default_rng(0)
    np.testing.assert_array_equal(_angles_deg(POSES.sample(again))[0], seen[0])


def test_fingers_bend_towards_the_palm() -> None:
    open_, fist = _joints(shape("open")), _joints(shape("fist"))
    knuckles = [open_[HAND_21_NAMES.index(f"{finger}_1")] - open_[0] for finger in ("Index", "Pinky")]
    out_of_palm = np.cross(*knuckles)
    assert out_of_palm[0] > 0  # of a right hand that hangs down beside a body that faces the camera: towards the thigh
    half = _joints(shape("open").towards(shape("fist"), 0.5))
    assert ((half - open_)[TIPS] @ out_of_palm > 0).all()
    reach = np.linalg.norm((fist - fist[0])[TIPS[1:]], axis=1)
    assert (reach < 0.75 * np.linalg.norm((open_ - open_[0])[TIPS[1:]], axis=1)).all()


@pytest.mark.parametrize(
    ("name", "stretched"),
    [("point", "I"), ("two", "IM"), ("three", "IMR"), ("four", "IMRP"), ("horns", "IP"), ("fist", "")],
)
def test_shapes_stretch_the_fingers_that_they_are_called_by(name: str, stretched: str) -> None:
    joints = _joints(shape(name))
    reach = dict(zip("IMRP", np.linalg.norm(joints[TIPS[1:]] - joints[0], axis=1), strict=True))
    longest = dict(zip("IMRP", np.linalg.norm(_joints(shape("open"))[TIPS[1:]], axis=1), strict=True))
    assert {finger for finger in "IMRP" if reach[finger] > 0.9 * longest[finger]} == set(stretched)
    assert name in SHAPES


def test_pinches_bring_two_tips_together() -> None:
    config = HandPoseConfig(pinch=1.0, disturb=0.0)
    pinching, rng = HandPoseSampler(HAND, MESH, 0, config), np.random.default_rng(1)
    for _ in range(20):
        tips = _joints(pinching.sample(rng))[TIPS]
        assert np.linalg.norm(tips[1:3] - tips[0], axis=1).min() < config.touch_m + 1e-4


def test_pinches_that_nobody_finds_are_told() -> None:
    with pytest.raises(ConfigError, match="pinch_draws: expected enough"):
        HandPoseSampler(HAND, MESH, 0, HandPoseConfig(touch_m=1e-9, pinch_draws=2))


def _arm(bend: Rotation, cuff_m: float = 1.0) -> tuple[np.ndarray, Tube]:
    ring = wrist_ring(HAND.faces)
    axis = forearm_axis(HAND.template[ring])
    return ring, make_forearm(HAND.template[ring], axis, bend, 0.2, cuff_m, 0.006, 1.0)


@pytest.mark.parametrize("bend_deg", [(0, 0, 0), (60, 0, 0), (0, 20, -50)])
def test_hand_and_forearm_are_one_closed_surface(bend_deg: tuple[float, float, float]) -> None:
    bend = Rotation.from_euler("xyz", bend_deg, degrees=True)
    ring, arm = _arm(bend)
    joined = np.concatenate([ring, len(HAND.template) + np.arange(len(arm.vertices) - len(ring))])
    vertices = np.concatenate([HAND.template, arm.vertices[len(ring) :]])
    np.testing.assert_array_equal(arm.vertices[: len(ring)], HAND.template[ring])
    whole = trimesh.Trimesh(vertices, np.concatenate([HAND.faces, joined[arm.faces]]), process=False)
    assert whole.is_watertight and whole.is_winding_consistent and whole.volume > 0
    far = arm.vertices[-1] - HAND.template[ring].mean(axis=0)
    straight = forearm_axis(HAND.template[ring])
    assert straight @ (HAND.template_heads[HAND.bone("Middle_1")] - HAND.template_heads[0]) < 0  # away from the fingers
    assert 0.17 < np.linalg.norm(far) < 0.23 and far @ bend.apply(straight) > 0.95 * np.linalg.norm(far)


def test_sleeves_begin_at_their_cuff_and_stand_off() -> None:
    (_, bare), (_, sleeved) = _arm(Rotation.identity()), _arm(Rotation.identity(), cuff_m=0.07)
    width = [max(np.ptp(arm.vertices[np.abs(arm.along - 0.12) < 0.004], axis=0)) for arm in (bare, sleeved)]
    assert 0.008 < width[1] - width[0] < 0.013
    look = dataclasses.replace(sample_hand_look(np.random.default_rng(0), find_hand_regions(HAND)), cuff_m=0.07)
    colours = look.forearm_colours(sleeved.along, 1.0)
    np.testing.assert_array_equal((colours == look.arm).all(axis=1), sleeved.along < 0.07)


def test_forearms_end_before_the_camera() -> None:
    rng, stage = np.random.default_rng(0), HandStage(HAND, MESH, POSES)
    look = sample_hand_look(rng, find_hand_regions(HAND))
    behind = 0
    for _ in range(30):
        grip = Grip(2, POSES.sample(rng), Rotation.random(random_state=rng).as_matrix(), Rotation.identity(), 0.3)
        posed = stage.pose(grip, np.array((0.0, 0.0, 0.35)))
        scene = stage.dress(posed, grip, look, None, np.zeros((1, 3)))
        behind += posed.joints[:, 2].min() > 0.3
        assert stage.is_in_front(scene) or posed.vertices[:, 2].min() < NEAREST_M + 0.05
    assert behind  # in some of them the arm came towards the camera


def test_things_fit_into_the_hand() -> None:
    rng = np.random.default_rng(0)
    joints = _joints(shape("grasp"))
    held = [thing for thing in (hold_something(rng, joints, 1.0) for _ in range(30)) if thing is not None]
    assert len(held) > 15
    for thing in held:
        body = trimesh.Trimesh(thing.vertices, thing.faces, process=True)
        body.update_faces(body.nondegenerate_faces())  # a ball has many at its poles
        assert body.is_watertight and body.volume > 0
        from_faces = (joints[:, None] - body.triangles[None, :, 0]) * body.face_normals
        assert not (from_faces.sum(axis=2) < 0).all(axis=1).any()  # it is convex, and no joint is behind all its faces
        distance = np.linalg.norm(thing.vertices.mean(axis=0) - joints[HAND_21_NAMES.index("Middle_1")])
        assert distance < 0.12
    palm = 0.8 * joints[[5, 9, 13, 17]].mean(axis=0) + 0.2 * joints[0]
    joints[TIPS] = palm + np.outer((0.02, 0.03, 0.04, 0.05, 0.055), (1, 0, 0))
    assert all(hold_something(rng, joints, 1.0) is None for _ in range(5))  # the fingers fill the palm


def _keypoints(sample: Sample) -> np.ndarray:
    return sample.box.to_crop(sample.keypoints_px)


def test_a_sample_of_a_hand_is_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn, where keypoints are and what joints and vertices are, in one geometry."""
    maker, rng = _maker(), np.random.default_rng(3)
    assert MESH.joint_regressor is not None and MESH.template is not None
    seen_joints = 0
    monkeypatch.setattr("training.synth.hands.choose_box", lambda rng, pixels, *_: box_from_points(pixels, 1.3))
    for _ in range(12):
        posed, scene, camera = maker.place(rng)
        if not maker.stage.is_in_front(scene):
            continue
        sample = maker._photograph(rng, posed, scene, camera)
        assert sample.image.shape == (128, 128, 3) and sample.person and sample.vertices is not None
        np.testing.assert_allclose(MESH.joint_regressor @ sample.vertices, sample.joints, atol=1e-5)
        np.testing.assert_allclose(sample.joints[0], 0.0, atol=1e-5)
        # Keypoints are the image's, moved and scaled by the box; the joints' axes are those of the ray through it.
        box, truth = box_from_points(camera.project(posed.vertices), 1.3), _keypoints(sample)
        np.testing.assert_allclose(box.to_crop(camera.project(posed.joints)), truth, atol=1e-4)
        turn, _ = Rotation.align_vectors(posed.joints - posed.joints[0], sample.joints)
        np.testing.assert_allclose(turn.as_matrix(), camera.ray_rotation((box.cx, box.cy)), atol=1e-3)
        assert sample.dense is not None
        mask = cv2.dilate(sample.dense.mask, np.ones((3, 3)))
        for u, v in truth[sample.keypoint_confidence > 0]:
            seen_joints += 1
            assert mask[int((v + 1) / 2 * 32), int((u + 1) / 2 * 32)] > 0.2 or _behind_arm(sample)
        shown = sample.dense.surface[:, sample.dense.mask > 0.9]
        low, high = MESH.template.min(axis=0) - 1e-3, MESH.template.max(axis=0) + 1e-3
        assert ((shown >= low[:, None]) & (shown <= high[:, None])).all()
    assert seen_joints > 150


def _behind_arm(sample: Sample) -> bool:
    """Whether the forearm comes towards the camera, before the hand: the fingers point away from it."""
    middle = sample.joints[HAND_21_NAMES.index("Middle_1")]
    return bool(middle[2] > 0)


def test_what_hides_a_hand_is_not_in_its_mask() -> None:
    stage, rng = HandStage(HAND, MESH, POSES), np.random.default_rng(0)
    camera, _ = draw_camera(rng, EASY, stage.length_m)
    grip = Grip(2, shape("grasp"), np.eye(3), draw_wrist(rng, HAND, EASY), 0.2)
    posed = stage.pose(grip, np.array((0.0, -0.08, 0.5)))
    look = sample_hand_look(rng, find_hand_regions(HAND))
    free = stage.dress(posed, grip, look, None, np.zeros((1, 3)))
    before = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.03
    corners = np.column_stack([before, np.full(4, 0.3)]).astype(np.float32)
    towards_camera = np.tile(np.float32((0, 0, -1)), (4, 1))
    board = Thing(corners, towards_camera, np.array([[0, 1, 2], [0, 2, 3]], np.int32), np.zeros(4, np.int64))
    hidden = stage.dress(posed, grip, look, board, np.array([[1.0, 0.0, 1.0]]))
    masks = []
    for scene in (free, hidden):
        picture = np.zeros((480, 640, 3), np.float32)
        masks.append(stage.paint(picture, scene, camera.matrix, sample_light(np.random.default_rng(1))))
    seen, rest = masks
    pixels = camera.project(corners)
    (left, top), (right, bottom) = np.ceil(pixels.min(axis=0)).astype(int), np.floor(pixels.max(axis=0)).astype(int)
    assert seen[top:bottom, left:right].any() and not rest[top + 1 : bottom, left + 1 : right].any()
    outside = np.ones_like(seen)
    outside[top - 2 : bottom + 2, left - 2 : right + 2] = False
    np.testing.assert_array_equal(seen[outside], rest[outside])


def test_the_same_seed_gives_the_same_hand_and_rooms_can_be_empty() -> None:
    busy = {"occluded": 0.5, "holding": 0.5, "company": 0.5}
    first, second, third = (_maker(**busy).sample(np.random.default_rng(seed)) for seed in (4, 4, 5))
    for name in ("image", "keypoints_px", "joints", "vertices"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.image, third.image)
    nobody = _maker(no_person=1.0).sample(np.random.default_rng(0))
    assert not nobody.person and nobody.dense is not None and not nobody.dense.mask.any()
    assert not nobody.keypoint_confidence.any() and not nobody.has_joints and nobody.vertices is None


def test_clips_of_hands_show_their_truth(tmp_path: Path) -> None:
    look = dataclasses.replace(EASY, width=160, height=120, hand_share=(0.5, 0.8))  # most movements leave the image
    config = HandClipConfig(frames=12, key_frames=(5, 8), look=look)
    write_hand_clips(HAND, MESH, 1, 3, tmp_path, config)
    clip = load_clip(tmp_path / "clip_0000")
    frames = list(clip.frames())
    assert len(clip) == len(frames) == 12 and clip.rest_vertices.shape[1] == len(HAND.template)
    assert json.loads((tmp_path / "clip_0000" / "meta.json").read_text())["frames"] == 12
    pixels = np.concatenate([clip.camera.project(clip.vertices(frame, 0)) for frame in range(12)])
    assert (pixels >= 0).all() and (pixels <= (159, 119)).all()  # it never leaves the image
    moved = np.linalg.norm(clip.vertices(0, 0) - clip.vertices(11, 0), axis=1).mean()
    steps = [np.linalg.norm(clip.vertices(t, 0) - clip.vertices(t + 1, 0), axis=1).max() for t in range(11)]
    assert moved > 0.005 and max(steps) < 0.1  # smoothly


def _refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--out", "nowhere"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no motions: expected --motions FILE.npz, or --subject hand" in _refusal(capsys, "--crops", "4")
    refused = _refusal(capsys, "--subject", "hand", "--motions", "some.npz", "--crops", "4")
    assert "--motions: expected --subject body" in refused
    assert "--only: expected --subject body" in _refusal(capsys, "--subject", "hand", "--only", "a", "--clips", "1")
    assert "nothing to make" in _refusal(capsys, "--subject", "hand", "--crops", "0")
    assert "share of occluded crops" in _refusal(capsys, "--subject", "hand", "--crops", "4", "--occluded", "1.5")


def test_a_hand_that_no_camera_sees_is_told(tmp_path: Path) -> None:
    config = HandClipConfig(frames=2, look=dataclasses.replace(EASY, hand_share=(3.0, 3.1)))
    with pytest.raises(ConfigError, match="no camera keeps the hand in view"):
        write_hand_clips(HAND, MESH, 1, 3, tmp_path, config)
