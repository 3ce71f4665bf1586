"""Crops and labels: numbers worked out by hand, and pictures that must agree with what is said of them."""

import dataclasses
from typing import get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from samples import NAMES, draw_dots, find_dot, make_dense, make_sample

from metro_ros.core.crop import Box, crop_image
from metro_ros.core.errors import ConfigError
from training.datasets.augment import DEFAULT, NONE, PAPER_BODY, PAPER_HAND, AugmentConfig
from training.datasets.crops import CropStyle, crop_dense, crop_keypoints, crop_pixels, turn
from training.datasets.joints import SMPL_24, JointSelection
from training.datasets.prepare import Example, mirror_sample, prepare
from training.datasets.sample import Dense, Sample, SampleError

STYLES = get_args(CropStyle)
SAME = JointSelection.between(NAMES, NAMES)
FLIP = dataclasses.replace(NONE, flip=1.0)
WILD = dataclasses.replace(PAPER_HAND, flip=0.5, upright=0.0, scale_limits=(0.9, 1.1))


def _prepare(sample: Sample, config: AugmentConfig = NONE, style: CropStyle = "smooth", seed: int = 0) -> Example:
    return prepare(sample, SAME, config, style, 64, np.random.default_rng(seed))


def test_the_papers_keypoints_by_hand() -> None:
    box = Box(100.3, 80.7, 120.0)
    # (90.2 - 100.3 + 60)·64/120 = 26.61 → 26 + 1; (75.9 - 80.7 + 60)·64/120 = 29.44 → 29 + 1; u = 2p/64 - 1.
    # (30 - 40.3)·64/120 = -5.49 → toward zero, -5 + 1; (141 - 20.7)·64/120 = 64.16 → 64 + 1.
    points = np.array([[90.2, 75.9], [30.0, 141.0]], np.float32)
    expected = [[2 * 27 / 64 - 1, 2 * 30 / 64 - 1], [2 * -4 / 64 - 1, 2 * 65 / 64 - 1]]
    np.testing.assert_allclose(crop_keypoints(points, box, 0.0, 64, "paper"), expected, atol=1e-6)
    # A quarter turn counter-clockwise: (26.61 - 32, 29.44 - 32) = (-5.39, -2.56) → (-2.56, 5.39) → (29.44, 37.39).
    turned = crop_keypoints(points[:1], box, 90.0, 64, "paper")
    np.testing.assert_allclose(turned, [[2 * 30 / 64 - 1, 2 * 38 / 64 - 1]], atol=1e-6)


def test_the_papers_corners_are_truncated() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    # 25.9 - 16.2 = 9.7 → 9, 25.9 + 16.2 = 42.1 → 42; 24.3 - 16.2 = 8.1 → 8, 24.3 + 16.2 = 40.5 → 40.
    part = image[8:40, 9:42].astype(np.float32)
    expected = cv2.resize(part, (20, 20), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(crop_pixels(image, Box(25.9, 24.3, 32.4), 0.0, 20, "paper"), expected)


@pytest.mark.parametrize("box", [Box(10, 12, 40.0), Box(45, 55, 30.0), Box(25, 30, 90.0)])
def test_a_box_of_whole_pixels_is_a_slice(box: Box) -> None:
    image = np.random.default_rng(1).integers(0, 256, (60, 50, 3), np.uint8)
    padded = np.pad(image, ((50, 50), (50, 50), (0, 0))).astype(np.float32)
    # Truncation is toward zero, so that -10 stays -10.
    left, top = int(box.cx - box.size / 2) + 50, int(box.cy - box.size / 2) + 50
    part = padded[top : top + int(box.size), left : left + int(box.size)]
    expected = cv2.resize(part, (32, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(crop_pixels(image, box, 0.0, 32, "paper"), expected)


def test_smooth_without_a_turn_is_the_crop_of_running() -> None:
    sample = make_sample()
    expected = crop_image(np.ascontiguousarray(sample.image[..., ::-1]), sample.box, 64)
    np.testing.assert_array_equal(crop_pixels(sample.image, sample.box, 0.0, 64, "smooth"), expected)
    expected_uv = sample.box.to_crop(sample.keypoints_px)
    np.testing.assert_allclose(
        crop_keypoints(sample.keypoints_px, sample.box, 0.0, 64, "smooth"), expected_uv, atol=1e-6
    )


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("side", [110.0, 190.0])
def test_a_positive_turn_is_counter_clockwise(style: CropStyle, side: float) -> None:
    image = draw_dots(np.array([[90.0, 60.0]]), 120, 120)  # to the right of the centre
    found = find_dot(crop_pixels(image, Box(60.0, 60.0, side), 90.0, 64, style))
    np.testing.assert_allclose(found, [0.0, -60 / side], atol=0.06)  # ends above it


@pytest.mark.parametrize("style", STYLES)
def test_a_dot_and_its_keypoint_land_on_each_other(style: CropStyle) -> None:
    """To a tenth of a pixel; in the paper's style by what both are cut off, turned away from each other at worst."""
    rng = np.random.default_rng(2)
    for seed in range(60):
        point = rng.uniform(70, 130, 2).astype(np.float32)
        box = Box(*rng.uniform(90, 110, 2), rng.uniform(60, 190))
        sample = _with_dot(point, box)
        if seed % 3 == 0:
            sample = mirror_sample(sample)
        example = _prepare(sample, WILD, style, seed)
        if np.abs(example.keypoints[0]).max() > 0.8:
            continue
        off_px = (example.keypoints[0] - find_dot(example.image)) * 32
        scale = WILD.draw(np.random.default_rng(seed)).scale
        limit_px = 0.1 if style == "smooth" else 1.1 + 1.5 * np.sqrt(2) * 64 / (box.size * scale)
        assert np.abs(off_px).max() < limit_px


def _with_dot(point: NDArray[np.float32], box: Box) -> Sample:
    return make_sample(
        image=draw_dots(point[None], 200, 200, sigma=4.0),
        box=box,
        keypoints_px=np.repeat(point[None], len(NAMES), axis=0),
    )


@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.0])
def test_the_papers_labels_and_pictures_agree_in_the_mean(ratio: float) -> None:
    rng, off_px = np.random.default_rng(3), []
    image = draw_dots(np.array([[100.0, 100.0]]), 200, 200, sigma=4.0)
    for _ in range(250):
        box = Box(*rng.uniform(95, 105, 2), 48 * ratio + rng.uniform(-1, 1))
        label = crop_keypoints(np.array([[100.0, 100.0]]), box, 0.0, 48, "paper")[0]
        off_px.append((label - find_dot(crop_pixels(image, box, 0.0, 48, "paper"))) * 24)
    np.testing.assert_allclose(np.mean(off_px, axis=0), 0.5 - 1 / ratio, atol=0.08)
    assert np.abs(off_px).max() < max(1.0, 1.5 / ratio) + 0.05


def test_smooth_crops_average_what_they_shrink() -> None:
    checks = np.repeat((np.indices((400, 400)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    box = Box(199.5, 199.5, 250.0)
    for rotation in (0.0, 20.0):
        assert crop_pixels(checks, box, rotation, 32, "smooth").std() < 5
    assert crop_pixels(checks, box, 0.0, 32, "paper").std() > 15


@pytest.mark.parametrize("style", STYLES)
def test_outside_of_the_image_is_black(style: CropStyle) -> None:
    white = np.full((40, 40, 3), 255, np.uint8)
    crop = crop_pixels(white, Box(0.0, 20.0, 40.0), 0.0, 40, style)
    assert not crop[:, :19].any() and (crop[2:-2, 22:] == 255).all()
    assert not crop_pixels(white, Box(-100.0, 20.0, 40.0), 30.0, 40, style).any()


def test_3d_joints_turn_and_mirror_with_the_picture() -> None:
    """Seen from far away, joints lie where their keypoints do: before, and after every change."""
    flipped = set()
    for seed in range(40):
        sample = make_sample(seed)
        example = _prepare(sample, WILD, "smooth", seed)
        scale = WILD.draw(np.random.default_rng(seed)).scale
        np.testing.assert_allclose(example.keypoints, example.joints[:, :2] * 80 / (70 * scale), atol=1e-5)
        order = [0, 1, 2, 3]
        if not np.allclose(example.joints[:, 2], sample.joints[:, 2]):
            order = [0, 2, 1, 3]
        flipped.add(order[1])
        np.testing.assert_allclose(example.joints[:, 2], sample.joints[order, 2])
        np.testing.assert_array_equal(example.joint_confidence, sample.joint_confidence[order])
        np.testing.assert_array_equal(example.keypoint_confidence, sample.keypoint_confidence[order])
    assert flipped == {1, 2}


def test_a_mirrored_picture() -> None:
    sample = make_sample()
    plain, mirrored = _prepare(sample), _prepare(sample, FLIP)
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    np.testing.assert_allclose(mirrored.keypoints, (plain.keypoints * [-1, 1])[[0, 2, 1, 3]])
    np.testing.assert_allclose(mirrored.joints, (plain.joints * [-1, 1, 1])[[0, 2, 1, 3]])


def test_samples_that_have_no_mirror_image_stay() -> None:
    vertices = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    for changes in ({"vertices": vertices}, {"pose": np.zeros(48, np.float32), "betas": np.zeros(10, np.float32)}):
        sample = make_sample(**changes)
        np.testing.assert_array_equal(_prepare(sample, FLIP).image, _prepare(sample).image)
        np.testing.assert_array_equal(_prepare(sample, FLIP).joints, sample.joints)


def test_vertices_turn_as_joints_do() -> None:
    joints = make_sample().joints
    for seed in range(5):
        example = _prepare(make_sample(vertices=joints), WILD, "paper", seed)
        assert example.vertices is not None and example.has_vertices == 1
        np.testing.assert_allclose(example.vertices, example.joints, atol=1e-6)
        assert not np.allclose(example.joints, joints, atol=0.01)


SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


def _forward_kinematics(pose: NDArray[np.float32]) -> NDArray[np.float64]:
    """(24, 3) joints of a symmetric stick figure about its pelvis."""
    rng = np.random.default_rng(9)
    offset_of = {name: rng.uniform(-0.3, 0.3, 3) for name in SMPL_24 if not name.startswith("R_")}
    for name in SMPL_24:
        if name.startswith("R_"):
            offset_of[name] = offset_of["L_" + name[2:]] * [-1, 1, 1]
        elif not name.startswith("L_"):
            offset_of[name] *= [0, 1, 1]
    places, turns = np.zeros((24, 3)), np.zeros((24, 3, 3))
    for joint, parent in enumerate(SMPL_PARENTS):
        own = cv2.Rodrigues(pose[3 * joint : 3 * joint + 3].astype(np.float64))[0]
        turns[joint] = own if parent < 0 else turns[parent] @ own
        if parent >= 0:
            places[joint] = places[parent] + turns[parent] @ offset_of[SMPL_24[joint]]
    return places


def test_the_pose_turns_and_mirrors_as_its_joints() -> None:
    selection = JointSelection.between(SMPL_24, SMPL_24)
    seen = set()
    for seed in range(20):
        pose = np.random.default_rng(seed).normal(0, 0.6, 72).astype(np.float32)
        betas, ones = np.arange(10, dtype=np.float32), np.ones(24, np.float32)
        places = _forward_kinematics(pose).astype(np.float32)
        sample = make_sample(
            keypoints_px=places[:, :2] + 40,
            keypoint_confidence=ones,
            joints=places,
            joint_confidence=ones,
            pose=pose,
            betas=betas,
        )
        example = prepare(sample, selection, WILD, "smooth", 32, np.random.default_rng(seed))
        seen.add(WILD.draw(np.random.default_rng(seed)).flip)
        assert example.pose is not None and example.has_pose == 1
        np.testing.assert_allclose(_forward_kinematics(example.pose), example.joints, atol=1e-4)
        np.testing.assert_array_equal(example.betas, betas)
    assert seen == {True, False}


@pytest.mark.parametrize("style", STYLES)
def test_dense_maps_follow_the_picture(style: CropStyle) -> None:
    dots = draw_dots(np.array([[70.0, 40.0], [50.0, 90.0]]), 128, 128, sigma=16.0)
    light = cv2.resize(dots[..., 0].astype(np.float32) / 255, (32, 32), interpolation=cv2.INTER_AREA)
    dense = Dense(light, np.stack([light, 2 * light, 3 * light]))
    plain = dataclasses.replace(WILD, gain=(1.0, 1.0), channel_gain=(1.0, 1.0))
    for seed in range(10):
        sample = make_sample(image=dots, box=Box(60.0, 70.0, 100.0), dense=dense)
        example = prepare(sample, SAME, plain, style, 128, np.random.default_rng(seed))
        shown = cv2.resize(example.image[..., 0] / 255, (32, 32), interpolation=cv2.INTER_AREA)
        assert example.mask is not None and example.surface is not None and example.has_dense == 1
        assert np.abs(example.mask - shown)[1:-1, 1:-1].max() < 0.02
        assert np.abs(example.mask - shown).mean() < 0.004
        x_sign = -1 if WILD.draw(np.random.default_rng(seed)).flip else 1
        np.testing.assert_allclose(example.surface[0], x_sign * example.mask, atol=1e-5)
        np.testing.assert_allclose(example.surface[2], 3 * example.mask, atol=1e-5)


def test_dense_maps_of_the_whole_image_stay_and_are_mirrored() -> None:
    dense = make_dense()
    whole = crop_dense(dense, 96, 96, Box(47.5, 47.5, 96.0), 0.0, "smooth")
    np.testing.assert_allclose(whole.surface, dense.surface, atol=1e-5)
    sample = make_sample(width=96, height=96, box=Box(47.5, 47.5, 96.0), dense=dense)
    example = _prepare(sample, FLIP)
    assert example.mask is not None and example.surface is not None
    np.testing.assert_allclose(example.mask, dense.mask[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(example.surface[1:], dense.surface[1:, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(example.surface[0], -dense.surface[0][:, ::-1], atol=1e-5)
    turned = crop_dense(dense, 96, 96, Box(47.5, 47.5, 96.0), 90.0, "smooth")
    np.testing.assert_allclose(turned.mask, np.rot90(dense.mask), atol=1e-5)


def test_gains_are_clamped_and_channels_change_places() -> None:
    sample = make_sample(image=np.full((80, 96, 3), (50, 100, 200), np.uint8), box=Box(47.5, 39.5, 40.0))
    config = dataclasses.replace(NONE, channel_gain=(0.6, 1.4))
    gain = config.draw(np.random.default_rng(5)).gain
    example = _prepare(sample, config, seed=5)
    expected = np.minimum(np.array([50, 100, 200]) * gain, 255)
    np.testing.assert_allclose(example.image, np.broadcast_to(expected, example.image.shape), rtol=1e-5)
    assert (_prepare(sample, dataclasses.replace(NONE, gain=(2.0, 2.0))).image[0, 0] == [100, 200, 255]).all()
    swap = dataclasses.replace(NONE, swap_channels=1.0)
    orders = {tuple(_prepare(sample, swap, seed=seed).image[0, 0]) for seed in range(60)}
    assert len(orders) == 6


def test_keypoints_that_leave_the_crop_lose_their_confidence_if_wanted() -> None:
    points = np.array([[48, 40], [100, 40], [48, 2], [48, 60]], np.float32)  # the box reaches from 5 to 75 and 13 to 83
    sample = make_sample(keypoints_px=points)
    hidden = _prepare(sample, dataclasses.replace(NONE, hide_outside=True)).keypoint_confidence
    np.testing.assert_array_equal(hidden > 0, [True, False, False, True])
    np.testing.assert_array_equal(_prepare(sample).keypoint_confidence, sample.keypoint_confidence)


def test_joints_are_selected_by_name() -> None:
    selection = JointSelection.between(NAMES, ("Head", "Nose", "R_Hip", "L_Hip"))
    sample = make_sample()
    example = prepare(sample, selection, NONE, "smooth", 32, np.random.default_rng(0))
    np.testing.assert_array_equal(example.joints, [sample.joints[3], [0, 0, 0], sample.joints[2], sample.joints[1]])
    assert example.joint_confidence[1] == example.keypoint_confidence[1] == 0
    np.testing.assert_array_equal(selection.flip, [0, 1, 3, 2])
    with pytest.raises(ConfigError, match="shares no joint"):
        JointSelection.between(NAMES, ("Thumb_1",))
    with pytest.raises(ConfigError, match=r"without a mirror image.*L_Hip"):
        JointSelection.between(NAMES, ("Pelvis", "L_Hip"))


def test_a_left_hand_becomes_a_right_one() -> None:
    sample = make_sample(
        width=97,
        vertices=make_sample(3).joints,
        pose=np.arange(48, dtype=np.float32) / 10,
        betas=np.ones(10, np.float32),
        dense=make_dense(),
    )
    mirrored = mirror_sample(sample)
    plain, seen = _prepare(sample), _prepare(mirrored)
    np.testing.assert_allclose(seen.image, plain.image[:, ::-1], atol=1)
    np.testing.assert_allclose(seen.keypoints, plain.keypoints * [-1, 1], atol=1e-5)  # no joint changes its name
    np.testing.assert_array_equal(mirrored.joints, sample.joints * np.float32([-1, 1, 1]))
    assert mirrored.vertices is not None and sample.vertices is not None and mirrored.pose is not None
    np.testing.assert_array_equal(mirrored.vertices, sample.vertices * np.float32([-1, 1, 1]))
    np.testing.assert_allclose(mirrored.pose[:6], [0, -0.1, -0.2, 0.3, -0.4, -0.5])
    again = mirror_sample(mirrored)
    for field in dataclasses.fields(Sample):
        before, after = getattr(sample, field.name), getattr(again, field.name)
        if field.name == "dense":
            np.testing.assert_array_equal(before.surface, after.surface)
        elif isinstance(before, np.ndarray):
            np.testing.assert_allclose(before, after, atol=1e-5)
        else:
            assert before == after


def test_what_is_unknown_is_said() -> None:
    unknown = np.zeros(len(NAMES), np.float32)
    example = _prepare(make_sample(joint_confidence=unknown, person=False), PAPER_BODY)
    assert example.vertices is example.pose is example.betas is example.mask is example.surface is None
    assert not any((example.has_joints, example.has_vertices, example.has_pose, example.has_dense, example.person))
    full = _prepare(make_sample())
    assert full.has_joints == full.person == 1.0
    assert all(array.dtype == np.float32 for array in full if array is not None)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("config", [DEFAULT, PAPER_BODY, PAPER_HAND, NONE])
def test_the_same_state_gives_the_same_example(style: CropStyle, config: AugmentConfig) -> None:
    sample = make_sample(dense=make_dense())
    for seed in range(4):
        for one, other in zip(*(_prepare(sample, config, style, seed) for _ in range(2)), strict=True):
            np.testing.assert_array_equal(one, other)
    assert sample.image.sum() == make_sample(dense=make_dense()).image.sum()


def test_turn_is_a_rotation_about_the_viewing_axis() -> None:
    np.testing.assert_allclose(turn(90.0) @ [1, 0, 5], [0, -1, 5], atol=1e-12)


def test_bad_input_is_said() -> None:
    with pytest.raises(SampleError, match="made/0: box for a crop: expected a side of 1 to 8192 px, got 100000"):
        _prepare(make_sample(box=Box(40, 40, 1e5)), style="paper")
    with pytest.raises(SampleError, match="box for a crop"):
        _prepare(make_sample(box=Box(40.5, 40.5, 0.2)), style="paper")
    with pytest.raises(ConfigError, match="style of crops"):
        _prepare(make_sample(), style="rough")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size of crops"):
        prepare(make_sample(), SAME, NONE, "paper", 0, np.random.default_rng(0))
