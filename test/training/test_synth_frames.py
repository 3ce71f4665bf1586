"""Whole frames: boxes and visible shares are those of the people in the picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bodies import make_bank, make_body_mesh, make_recording

from training.datasets.frames import FrameSet, write_frame_shards
from training.motion import retarget
from training.synth import frames
from training.synth.coarse import middle_bank
from training.synth.frames import FrameConfig, FrameMaker, Standing
from training.synth.render import rasterise
from training.synth.stage import Stage

BANK = make_bank()
ALL = np.arange(len(BANK.template), dtype=np.int32)
_SPARSE = make_body_mesh(BANK)
MESH = replace(  # the middle level is the whole tube man: every other vertex of his has no faces
    _SPARSE,
    level_sizes=(_SPARSE.level_sizes[0], len(ALL), len(ALL)),
    faces=(_SPARSE.faces[0], BANK.faces, BANK.faces),
    rows=(_SPARSE.rows[0], ALL, ALL),
)


def _maker(**settings: object) -> FrameMaker:
    positions, names, _ = make_recording()
    motion = retarget((positions * [1, -1, -1]).astype(np.float32), names, BANK, "01_01")
    settings = {"rooms": 2, "occluded": 0.0, **settings}
    return FrameMaker(BANK, MESH, [motion], 0, FrameConfig(**settings))  # type: ignore[arg-type]


def _standing(maker: FrameMaker, x: float, z: float, matrix: np.ndarray) -> Standing:
    """An adult at rest, upright, x metres aside and z before the camera."""
    turns = np.broadcast_to(np.eye(3, dtype=np.float32), (len(BANK.bone_names), 3, 3)).copy()
    posed = maker.stages[True].pose(2, turns, np.array([x, 0.0, z]))
    middle = posed.vertices[MESH.rows[1]]
    outline = (middle @ matrix.T)[:, :2].T / middle[:, 2]
    return Standing(2, posed, middle, outline, True)


@pytest.fixture
def maker() -> FrameMaker:
    return _maker()


def _frame_of(maker: FrameMaker, people: list[Standing], matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "SIZES", ((320, 240),))
    monkeypatch.setattr(maker, "_place", lambda *_: (people, np.array([0.0, 1.0, 0.0]), matrix))
    return maker.frame(np.random.default_rng(0))


def test_who_stands_behind_is_seen_less(maker: FrameMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.array([[400.0, 0, 239.5], [0, 400.0, 179.5], [0, 0, 1]])
    far, near, alone = (_standing(maker, x, z, matrix) for x, z in ((0.0, 4.0), (0.0, 2.5), (-1.6, 4.0)))
    frame = _frame_of(maker, [far, alone, near], matrix, monkeypatch)
    # The near one is in front of the far one, and neither of the third.
    assert frame.visible[2] > 0.6 and frame.visible[1] > 0.6  # clothes make the tube man thinner: he is inside out
    assert frame.visible[0] < 0.45
    for box, person in zip(frame.boxes, (far, alone, near), strict=True):
        low, high = (person.outline.min(axis=1) + 0.5) / 1.5, (person.outline.max(axis=1) + 0.5) / 1.5
        np.testing.assert_allclose(box[:2], low.clip(0), atol=1e-3)
        np.testing.assert_allclose(box[2:], np.minimum(high, [320, 240]), atol=1e-3)


def test_who_stands_half_outside_is_half_seen(maker: FrameMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.array([[400.0, 0, 239.5], [0, 400.0, 179.5], [0, 0, 1]])
    edge = _standing(maker, -240 / 400 * 3.0, 3.0, matrix)  # the middle of the body is on the left edge
    frame = _frame_of(maker, [edge], matrix, monkeypatch)
    whole = _frame_of(maker, [_standing(maker, 0.0, 3.0, matrix)], matrix, monkeypatch)
    assert frame.visible[0] / whole.visible[0] == pytest.approx(0.5, abs=0.1) and frame.boxes[0, 0] == 0


def test_boxes_are_around_what_changes_in_the_picture(maker: FrameMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.array([[400.0, 0, 239.5], [0, 400.0, 179.5], [0, 0, 1]])
    person = _standing(maker, 0.3, 3.0, matrix)
    left, top, right, bottom = _frame_of(maker, [person], matrix, monkeypatch).boxes[0] * 1.5
    vertices = person.posed.vertices
    _, inside = rasterise(vertices, BANK.faces, np.zeros_like(vertices), matrix, 480, 360)
    rows, columns = np.nonzero(inside)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose([left, top, right, bottom], seen, atol=2)


def test_frames_hold_what_they_say_and_are_repeatable(tmp_path: Path) -> None:
    maker = _maker(people=(0.2, 0.4, 0.4), occluded=0.5)
    write_frame_shards(maker, tmp_path / "a", seed=4, count=12, size=6)
    write_frame_shards(maker, tmp_path / "b", seed=4, count=12, size=6)
    one, other = FrameSet(tmp_path / "a"), FrameSet(tmp_path / "b")
    assert len(one) == 12
    counts = set()
    for index in range(12):
        image, boxes, visible = one[index]
        np.testing.assert_array_equal(image, other[index].image)
        height, width = image.shape[:2]
        assert (width, height) in frames.SIZES
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and ((visible >= 0) & (visible <= 1)).all()
        counts.add(len(boxes))
    assert len(counts) > 1


def test_shards_that_are_there_are_kept(tmp_path: Path) -> None:
    maker = _maker(people=(0.5, 0.5))
    write_frame_shards(maker, tmp_path, seed=1, count=2, size=2)
    (before,) = tmp_path.glob("*.npz")
    stamp = before.stat().st_mtime_ns
    write_frame_shards(maker, tmp_path, seed=1, count=4, size=2)
    assert before.stat().st_mtime_ns == stamp and len(list(tmp_path.glob("*.npz"))) == 2


def test_the_middle_level_poses_as_the_whole_mesh() -> None:
    whole, coarse = Stage(BANK, _SPARSE), Stage(*middle_bank(BANK, _SPARSE))
    positions, names, _ = make_recording()
    motion = retarget((positions * [1, -1, -1]).astype(np.float32), names, BANK, "01_01")
    root = np.array([0.2, 0.1, 3.0])
    full, reduced = (stage.pose(1, motion.rotations[5], root) for stage in (whole, coarse))
    np.testing.assert_allclose(reduced.vertices, full.vertices[_SPARSE.rows[1]], atol=0.05)  # joints are the nearest's
    np.testing.assert_allclose(reduced.transforms, full.transforms, atol=0.05)
