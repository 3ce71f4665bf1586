"""Synthetic images: the picture and the truth must say the same."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bodies import make_bank, make_body_mesh, make_recording

from metro_ros.core.clip import load_clip
from metro_ros.core.crop import Box
from metro_ros.core.errors import ConfigError
from training.body import BodyBank
from training.datasets.sample import Sample
from training.datasets.shards import ShardDataset, write_shards
from training.mesh_spec import MeshSpec
from training.motion import Motion, retarget
from training.synth import render, render_gl
from training.synth.clips import ClipConfig, write_clips
from training.synth.poses import PoseConfig, PoseSampler
from training.synth.recordings import choose
from training.synth.render import rasterise
from training.synth.samples import SampleConfig, SampleMaker
from training.synth.stage import vertex_normals
from training.synth.views import ViewConfig, sample_view

ROOT = Path(__file__).resolve().parents[2]
BANK = make_bank()
MESH = make_body_mesh(BANK)


def _motions() -> list[Motion]:
    motions = []
    for seed in (0, 1):
        positions, names, _ = make_recording(seed=seed)
        motions.append(retarget((positions * [1, -1, -1]).astype(np.float32), names, BANK, f"01_0{seed}"))
    return motions


MOTIONS = _motions()
EASY = SampleConfig(size=128, whole_image=0.0, rough=0.0, no_person=0.0, occluded=0.0, rooms=2, view=ViewConfig())


def _keypoints(sample: Sample) -> np.ndarray:
    """(J, 2) in crop coordinates."""
    return sample.box.to_crop(sample.keypoints_px)


def _maker(config: SampleConfig = EASY, bank: BodyBank = BANK, mesh: MeshSpec = MESH) -> SampleMaker:
    return SampleMaker(bank, mesh, MOTIONS, 0, config)


def test_the_rasteriser_agrees_with_the_pinhole() -> None:
    matrix = np.array([[300.0, 0, 40.3], [0, 320.0, 70.9], [0, 0, 1]])
    corners = np.array([[20.5, 30.5], [61.5, 30.5], [61.5, 52.5], [20.5, 52.5]])  # between pixels 20|21 and 61|62
    rays = (corners - matrix[:2, 2]) / [300.0, 320.0]
    vertices = np.column_stack([rays * 2.5, np.full(4, 2.5)]).astype(np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    image, covered = rasterise(vertices, faces, np.full((4, 3), 0.25, np.float32), matrix, 96, 128)
    rows, columns = np.nonzero(covered)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (31, 52, 21, 61)
    np.testing.assert_allclose(image[covered], 0.25, atol=1e-3)


def test_the_nearer_surface_hides_the_farther() -> None:
    matrix = np.array([[50.0, 0, 31.5], [0, 50.0, 31.5], [0, 0, 1]])
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    vertices = np.concatenate([np.add(square, (0, 0, 4)), np.add(square, (0, 0, 3))]).astype(np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    colours = np.repeat(np.array([[1, 0, 0], [0, 1, 0]], np.float32), 4, axis=0)
    image, _ = rasterise(vertices, faces, colours, matrix, 64, 64)
    np.testing.assert_allclose(image[32, 32], [0, 1, 0], atol=1e-3)


OPENGL_AGAINST_OPENCV = """
import numpy as np
from bodies import make_bank
from metro_ros.core.errors import ConfigError
from training.synth import render

bank = make_bank()
vertices = bank.rest_vertices[1] + np.float32([0.1, 0.2, 2.5])
colours = np.random.default_rng(0).random(vertices.shape).astype(np.float32)
matrix = np.array([[150.0, 0, 60.3], [0, 160.0, 50.9], [0, 0, 1]])
arguments = (vertices, bank.faces, colours, matrix, 128, 96)
expected_image, expected = render.rasterise(*arguments)
try:
    render.choose_renderer("opengl")
except ConfigError as error:
    print("skip:", error)
    raise SystemExit
image, covered = render.rasterise(*arguments)
assert expected.sum() > 500 and (covered != expected).mean() < 2e-3
both = covered & expected
assert np.percentile(np.abs(image - expected_image)[both], 95) < 1e-3
print("the same")
"""


def test_opengl_draws_what_opencv_draws() -> None:
    """In a process of its own: a software OpenGL brings an LLVM, and so does anny."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", OPENGL_AGAINST_OPENCV], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("skip:"):
        pytest.skip(f"this machine has no OpenGL: {done.stdout}")
    assert "the same" in done.stdout


def test_opencv_draws_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not render.has_gpu(tmp_path)
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri" / "renderD128").touch()
    assert render.has_gpu(tmp_path)
    monkeypatch.setattr(render, "has_gpu", lambda: False)
    monkeypatch.setattr(render_gl, "GlRasteriser", lambda: pytest.fail("OpenGL was asked all the same"))
    assert render.choose_renderer("auto") == "OpenCV"


def test_opencv_draws_where_there_is_no_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", None)
    monkeypatch.setattr(render, "has_gpu", lambda: True)
    assert render.choose_renderer("auto") == "OpenCV"
    with pytest.raises(ConfigError, match="no OpenGL: expected moderngl"):
        render.choose_renderer("opengl")


def test_normals_point_outward() -> None:
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    hull = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
                     [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]], np.int32)  # fmt: skip
    assert (np.sum(vertex_normals(cube, hull) * cube, axis=1) > 1.0).all()


@pytest.mark.parametrize("portraits", [0.0, 1.0])
def test_views_put_the_hips_where_they_say(portraits: float) -> None:
    rng = np.random.default_rng(0)
    config = ViewConfig(roll_deg=0.0, portraits=portraits)
    rows = config.portrait_row if portraits else config.row_share
    for _ in range(50):
        view = sample_view(rng, config, stature=1.7, hip_height=0.9)
        column, row = view.camera.project(view.root[None])[0]
        (left, right), (top, bottom) = config.column_share, rows
        assert left * 640 - 1 <= column <= right * 640 and top * 480 - 1 <= row <= bottom * 480
        world = view.camera_from_world.T @ view.root
        if abs(world[1]) < 0.65 * np.linalg.norm(view.root):  # unless the tilt was limited
            low, high = config.camera_height_m
            assert low - 0.9 - 1e-6 <= world[1] <= high - 0.9 + 1e-6  # the camera's height over the hips


def test_a_sample_is_consistent() -> None:
    """What is drawn, where keypoints are and what the joints are, in one geometry."""
    maker, rng = _maker(), np.random.default_rng(3)
    for _ in range(10):
        sample = maker.sample(rng)
        assert sample.image.shape == (128, 128, 3) and sample.box == Box(63.5, 63.5, 128.0)
        assert sample.person and (sample.joint_confidence == 1.0).all()
        assert sample.vertices is not None and sample.vertices.shape == (MESH.level_sizes[1], 3)
        assert sample.dense is not None
        low, high = sample.vertices.min(axis=0) - 0.1, sample.vertices.max(axis=0) + 0.1
        assert ((sample.joints >= low) & (sample.joints <= high)).all()  # about the same origin
        np.testing.assert_allclose(sample.joints[:2].mean(axis=0), 0.0, atol=1e-5)
        # Turned into the ray's frame the crop is a camera of its own: two joints fix scale, the third must agree.
        for index in np.flatnonzero(sample.keypoint_confidence):
            u, v = _keypoints(sample)[index]
            column, row = int((u + 1) / 2 * 32), int((v + 1) / 2 * 32)
            near = sample.dense.mask[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            assert near.max() > 0.3
        seen = sample.dense.mask > 0.5
        if seen.any():
            shown = sample.dense.surface[:, seen]
            low, high = MESH.template.min(axis=0) - 1e-3, MESH.template.max(axis=0) + 1e-3
            assert ((shown >= low[:, None]) & (shown <= high[:, None])).all()


def test_dense_truth_is_a_quarter_of_the_crop() -> None:
    rng = np.random.default_rng(0)
    for no_person in (0.0, 1.0):
        sample = _maker(dataclasses.replace(EASY, size=192, no_person=no_person)).sample(rng)
        assert sample.image.shape == (192, 192, 3) and sample.box == Box(95.5, 95.5, 192.0)
        assert sample.dense is not None
        assert sample.dense.mask.shape == (48, 48) and sample.dense.surface.shape == (3, 48, 48)
    with pytest.raises(ConfigError, match="multiple of 32"):
        SampleConfig(size=100)


def test_joints_project_onto_keypoints_in_the_ray_frame() -> None:
    maker, rng = _maker(), np.random.default_rng(5)
    posed, view = maker._place(rng, 1, MOTIONS[0].rotations[3])
    sample = maker._photograph(rng, 1, posed, view)
    # A camera along the ray through the crop's centre sees the joints at keypoints, up to one scale: find the depth.
    truth = _keypoints(sample)
    errors = []
    for depth in np.linspace(0.5, 20, 400):
        seen = sample.joints[:, :2] / (sample.joints[:, 2:] + depth)
        seen, wanted = seen - seen[0], truth - truth[0]
        scale = (seen * wanted).sum() / (seen * seen).sum()
        errors.append(np.abs(scale * seen - wanted).max())
    assert min(errors) < 0.05


def test_a_companion_hides_and_is_not_the_person() -> None:
    """Whoever stands before the person takes pixels of the mask, and never adds any."""
    alone = _maker(dataclasses.replace(EASY, occluded=0.0, no_person=0.0, company=0.0))
    together = _maker(dataclasses.replace(EASY, occluded=0.0, no_person=0.0, company=1.0))
    rng = np.random.default_rng(2)
    hidden = added = 0
    for _ in range(12):
        posed, view = together._place(rng, 1, MOTIONS[0].rotations[3])
        state = rng.bit_generator.state
        with_company = together._photograph(rng, 1, posed, view)
        rng.bit_generator.state = state
        without = alone._photograph(rng, 1, posed, view)
        assert with_company.dense is not None and without.dense is not None
        extra = with_company.dense.mask - without.dense.mask
        hidden, added = hidden + (extra < -0.5).sum(), added + (extra > 0.5).sum()
    assert hidden > 20 and added < 0.02 * 12 * 32 * 32  # other clothes, but not another body


def test_empty_rooms_hold_nobody() -> None:
    sample = _maker(dataclasses.replace(EASY, no_person=1.0)).sample(np.random.default_rng(0))
    assert not sample.person and sample.dense is not None and not sample.dense.mask.any()
    assert not sample.keypoint_confidence.any() and not sample.has_joints and sample.vertices is None
    assert sample.image.std() > 0


def test_the_same_seed_gives_the_same_sample() -> None:
    first, second, third = (_maker().sample(np.random.default_rng(seed)) for seed in (4, 4, 5))
    for name in ("image", "keypoints_px", "keypoint_confidence", "joints", "vertices"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.dense is not None and second.dense is not None
    assert np.array_equal(first.dense.mask, second.dense.mask)
    assert np.array_equal(first.dense.surface, second.dense.surface)
    assert not np.array_equal(first.image, third.image)


def test_sampled_poses_are_rotations_and_undisturbed_ones_are_recorded() -> None:
    rng = np.random.default_rng(0)
    wild = PoseSampler(BANK, MOTIONS, PoseConfig(recombine=1.0, sample_arm=1.0, disturb=1.0))
    for _ in range(20):
        world = wild.sample(rng)
        np.testing.assert_allclose(world @ world.transpose(0, 2, 1), np.broadcast_to(np.eye(3), world.shape), atol=1e-4)
        np.testing.assert_allclose(np.linalg.det(world), 1.0, atol=1e-4)
    still = PoseSampler(BANK, MOTIONS, PoseConfig(recombine=0.0, sample_arm=0.0, disturb=0.0))
    frames = np.concatenate([motion.rotations for motion in MOTIONS])
    assert (np.abs(frames - still.sample(rng)).max(axis=(1, 2, 3)) == 0).any()


def test_crops_are_kept_as_shards(tmp_path: Path) -> None:
    config = dataclasses.replace(EASY, no_person=0.5)
    write_shards(_maker(config), tmp_path, seed=7, count=5, size=3)
    data = ShardDataset(tmp_path)
    assert len(data) == 6 and data.joint_names == MESH.joint_names
    again, rng = _maker(config), np.random.default_rng([7, 1])
    for row in range(3, 6):
        stored, made = data[row], again.sample(rng)
        assert stored.key == f"7_00001/{row - 3}" and stored.person == made.person
        assert np.abs(stored.image.astype(int) - made.image).mean() < 3.0  # JPEG
        for name in ("keypoints_px", "keypoint_confidence", "joints", "joint_confidence"):
            assert np.array_equal(getattr(stored, name), getattr(made, name))
        assert (stored.vertices is None) == (made.vertices is None)
        if made.vertices is not None:
            np.testing.assert_allclose(stored.vertices, made.vertices, atol=1e-3)


def test_clips_show_their_truth(tmp_path: Path) -> None:
    config = ClipConfig(frames=6, view=ViewConfig(width=160, height=120, person_share=(0.4, 0.7)))
    write_clips(BANK, MESH, MOTIONS, 2, 3, tmp_path, config)
    for name in ("clip_0000", "clip_0001"):
        clip = load_clip(tmp_path / name)
        frames = list(clip.frames())
        assert len(clip) == len(frames) == 6
        assert json.loads((tmp_path / name / "meta.json").read_text())["people"][0]["motion"] in ("01_00", "01_01")
        # Somebody moves, the room does not: what changes between frames lies around the projected body.
        change = np.abs(frames[0].astype(int) - frames[-1]).max(axis=2) > 60
        pixels = np.concatenate([clip.camera.project(clip.vertices(frame, 0)) for frame in (0, 5)])
        around = cv2.dilate(_hull(pixels, change.shape), np.ones((25, 25), np.uint8)) > 0
        assert not (change & ~around).sum() > 0.2 * max(1, change.sum())


def test_a_long_walk_is_cut_to_what_a_camera_sees(tmp_path: Path) -> None:
    still = MOTIONS[0]
    away = still.root + np.linspace(0, 1, len(still))[:, None] * np.array([30.0, 0, 0], np.float32)
    walk = dataclasses.replace(still, root=away.astype(np.float32))
    config = ClipConfig(frames=40, view=ViewConfig(width=160, height=120, person_share=(0.3, 0.4)))
    write_clips(BANK, MESH, [walk], 1, 3, tmp_path, config)
    clip = load_clip(tmp_path / "clip_0000")
    assert 15 <= len(clip) < 40 and len(list(clip.frames())) == len(clip)
    with pytest.raises(ConfigError, match="no camera sees 01_00"):
        write_clips(BANK, MESH, [dataclasses.replace(walk, root=100 * away)], 1, 3, tmp_path / "far", config)


def _hull(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(pixels).astype(np.int32)), 255)
    return mask


def test_recordings_are_chosen_by_name() -> None:
    assert [motion.name for motion in choose(MOTIONS, "", "01_00")] == ["01_01"]
    assert [motion.name for motion in choose(MOTIONS, "01_00", "")] == ["01_00"]
    with pytest.raises(ConfigError, match="unknown recordings"):
        choose(MOTIONS, "99_99", "")
    with pytest.raises(ConfigError, match="no recording is left"):
        choose(MOTIONS, "01_00", "01_00")
