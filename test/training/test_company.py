"""Clips of several people: who hides whom, that nobody gets into anybody, and that the truth says so."""

import dataclasses
import json
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from bodies import make_bank, make_body_mesh, make_recording

from metro_ros.core.clip import Clip, load_clip
from metro_ros.core.draw import silhouette
from metro_ros.core.errors import ConfigError
from training.motion import Motion, retarget
from training.synth.__main__ import main
from training.synth.actors import make_actor, walks
from training.synth.appearance import Appearance
from training.synth.clips import ClipConfig, cast, write_clips
from training.synth.company import inside_share, paint_company
from training.synth.crossing import pose_all
from training.synth.light import sample_light
from training.synth.placing import place
from training.synth.stage import Stage
from training.synth.views import ViewConfig

BANK = make_bank()
MESH = make_body_mesh(BANK)
STAGE = Stage(BANK, MESH)
SMALL = ViewConfig(width=160, height=120, person_share=(0.4, 0.7))


def recording(name: str, seed: int, away: float) -> Motion:
    """40 frames that go `away` metres in all."""
    positions, names, _ = make_recording(seed=seed)
    motion = retarget((positions * [1, -1, -1]).astype(np.float32), names, BANK, name)
    root = motion.root.copy()
    root[:, 2] = -np.linspace(0, away, len(motion))
    return dataclasses.replace(motion, root=root)


STANDS, GOES = recording("stands", 0, 0.0), recording("goes", 1, 2.5)


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    out = tmp_path_factory.mktemp("crossing")
    # The tube people are thin: they hide little.
    config = ClipConfig(
        frames=40, view=SMALL, people=2, crossing=True, hidden_s=(0.05, 1.0), hidden_most=0.55, noise_scale=0.0
    )
    write_clips(BANK, MESH, [STANDS, GOES], 1, 4, out, config)
    return load_clip(out / "clip_0000")


def silhouettes(clip: Clip, frame: int) -> list[np.ndarray]:
    return [silhouette(clip.vertices(frame, person), BANK.faces, clip.camera) for person in range(clip.people)]


def distances(clip: Clip, frame: int) -> list[float]:
    return [float(np.linalg.norm(clip.vertices(frame, person).mean(axis=0)[[0, 2]])) for person in range(clip.people)]


def test_the_farther_one_is_hidden_by_more_than_half_for_a_while(crossing: Clip) -> None:
    farther = int(np.argmax(distances(crossing, int(crossing.visible.min(axis=1).argmin()))))
    hidden = crossing.visible[:, farther] < 0.5
    assert 2 <= hidden.sum() <= 30 and np.count_nonzero(np.diff(hidden.astype(int)) > 0) <= 1
    assert not hidden[0] and not hidden[-1]
    assert (crossing.visible[:, 1 - farther] > 0.85).all()  # nobody is before the nearer one


def test_what_shows_is_what_silhouettes_leave(crossing: Clip) -> None:
    """By another rasteriser, and by bare bodies: clothes add a pixel or so around thin limbs."""
    for frame in range(0, len(crossing), 4):
        masks, far = silhouettes(crossing, frame), int(np.argmax(distances(crossing, frame)))
        expected = [1.0, 1.0]
        expected[far] = 1 - (masks[far] & masks[1 - far]).sum() / masks[far].sum()
        np.testing.assert_allclose(crossing.visible[frame], expected, atol=0.15)


def test_both_bodies_are_in_the_picture(crossing: Clip) -> None:
    """Where somebody moves, pixels change; all that changes lies around the two bodies."""
    frames = list(crossing.frames())
    change = np.abs(frames[0].astype(int) - frames[-1]).max(axis=2) > 60
    ends = [mask for frame in (0, len(frames) - 1) for mask in silhouettes(crossing, frame)]
    around = cv2.dilate(np.any(ends, axis=0).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert change.sum() > 30 and (change & ~around).sum() < 0.2 * change.sum()


def test_nobody_gets_into_anybody_and_all_feet_are_on_one_floor(tmp_path: Path) -> None:
    config = ClipConfig(frames=20, view=dataclasses.replace(SMALL, roll_deg=0.0), people=3)
    write_clips(BANK, MESH, [STANDS, GOES], 1, 5, tmp_path, config)
    clip = load_clip(tmp_path / "clip_0000")
    assert clip.people == 3 and len(clip) == 20
    meta = json.loads((tmp_path / "clip_0000" / "meta.json").read_text())
    assert {person["motion"] for person in meta["people"]} == {"stands", "goes"}
    assert len({person["age_years"] for person in meta["people"]}) == 3
    for frame in range(0, 20, 5):
        bodies = [clip.vertices(frame, person) for person in range(3)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert np.linalg.norm(bodies[a][:, None] - bodies[b], axis=2).min() > 0.05
    # The soles of three people, none in line with the others, lie in a plane; others are in it too.
    soles = np.concatenate([lowest(clip, person) for person in range(3)])
    normal = np.linalg.svd(soles - soles.mean(axis=0))[2][-1]
    assert np.abs((soles - soles.mean(axis=0)) @ normal).max() < 0.08


def test_whatever_is_placed_is_apart() -> None:
    actors = [make_actor(STAGE, identity, motion) for identity, motion in enumerate((STANDS, GOES, GOES))]
    rng, placed = np.random.default_rng(0), 0
    for _ in range(40):
        arrangement = place(actors, rng, 30, dataclasses.replace(SMALL, person_share=(0.2, 0.3)), 0.05, False)
        if arrangement is not None:
            placed += 1
            for a, b in combinations(arrangement.tracks, 2):
                gaps = np.linalg.norm(a.outline[:, :, None] - b.outline[:, None, ::2], axis=3)
                assert gaps.min() > 0.05
    assert placed >= 5


def lowest(clip: Clip, person: int) -> np.ndarray:
    """(4, 3), the lowest vertex in some frames; the camera hardly tilts, so that y is nearly down."""
    bodies = [clip.vertices(frame, person) for frame in range(0, 20, 5)]
    return np.array([body[body[:, 1].argmax()] for body in bodies])


def test_the_part_that_lies_inside_of_the_image() -> None:
    matrix = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
    for column, expected in ((0.0, 1.0), (-2.385, 0.5), (-6.0, 0.0)):  # 79.5 px to the left is the image's edge
        posed = STAGE.pose(1, STANDS.rotations[0], np.array([column, 0.0, 3.0]))
        assert inside_share(posed, BANK.faces, matrix, 160, 120) == pytest.approx(expected, abs=0.12)


def test_shadows_fall_on_the_floor_and_not_on_people() -> None:
    actors = [make_actor(STAGE, identity, motion) for identity, motion in enumerate((STANDS, GOES))]
    rng, placed = np.random.default_rng(3), None
    while placed is None:
        placed = place(actors, rng, 30, dataclasses.replace(SMALL, roll_deg=0.0), 0.05, True)
    count = len(BANK.template)
    fine = dataclasses.replace(  # a middle level with faces, which cast the shadow
        MESH,
        level_sizes=(MESH.level_sizes[0], count, count),
        rows=(MESH.rows[0], MESH.rows[2], MESH.rows[2]),
        faces=(MESH.faces[0], BANK.faces, BANK.faces),
    )
    stage = Stage(BANK, fine)
    plain = Appearance(np.full_like(BANK.template, 0.5), np.zeros(count, np.float32))
    posed = pose_all(STAGE, actors, placed, 0)
    darkened = 0
    for seed in range(4):
        together, alone = np.ones((120, 160, 3), np.float32), np.ones((120, 160, 3), np.float32)
        paint_company(
            together, stage, [(each, plain) for each in posed], [], placed, sample_light(np.random.default_rng(seed))
        )
        paint_company(alone, stage, [(posed[0], plain)], [], placed, sample_light(np.random.default_rng(seed)))
        first, second = (silhouette(each.vertices, BANK.faces, placed.view.camera) for each in posed)
        only_first = cv2.erode(first.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~second
        np.testing.assert_array_equal(together[only_first & ~near(second)], alone[only_first & ~near(second)])
        darkened += int((together[~near(first | second)] < 0.98).any())
    assert darkened >= 1


def near(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


def test_things_hide_people_and_the_truth_says_so(tmp_path: Path) -> None:
    shares = []
    for things in (0, 2):
        config = ClipConfig(frames=4, view=SMALL, people=2, occluders=things)
        write_clips(BANK, MESH, [STANDS, GOES], 1, 6, tmp_path / str(things), config)
        clip = load_clip(tmp_path / str(things) / "clip_0000")
        assert (len(clip), clip.people) == (4, 2)
        shares.append(clip.visible)
    assert shares[0].min() > 0.6 and shares[1].min() < 0.9 and shares[1].mean() < shares[0].mean() - 0.1


def test_climbers_stay_on_the_floor_and_jumpers_leave_it() -> None:
    def feet(root_y: np.ndarray) -> np.ndarray:
        root = STANDS.root.copy()
        root[:, 1] -= root_y
        actor = make_actor(STAGE, 1, dataclasses.replace(STANDS, root=root))
        return actor.path[:, 1] + actor.outline[:, :, 1].max(axis=1)

    climbs = np.linspace(0.0, 0.5, 40)
    assert np.abs(feet(climbs)).max() < 0.2  # behind by a quarter of a second of climbing
    jumps = np.where(np.abs(np.arange(40) - 20) <= 3, 0.4, 0.0)
    assert feet(jumps)[20] < -0.3 and np.abs(feet(jumps)[[0, 10, 30, 39]]).max() < 0.1


def test_clips_are_made_again_by_their_seed(tmp_path: Path) -> None:
    config = ClipConfig(frames=2, view=SMALL, people=2, occluders=1)
    truths = []
    for folder in ("a", "b"):
        write_clips(BANK, MESH, [STANDS, GOES], 1, 7, tmp_path / folder, config)
        with np.load(tmp_path / folder / "clip_0000" / "truth.npz") as file:
            truths.append(dict(file))
    assert all(np.array_equal(truths[0][name], truths[1][name]) for name in truths[0])
    videos = [(tmp_path / folder / "clip_0000" / "clip.mp4").read_bytes() for folder in ("a", "b")]
    assert videos[0] == videos[1]


def test_the_second_one_walks_in_a_crossing() -> None:
    assert walks(GOES) and not walks(STANDS)
    config = ClipConfig(people=2, crossing=True)
    for number in range(3):
        assert [motion.name for motion in cast([GOES, STANDS], number, config)] == ["stands", "goes"]
    with pytest.raises(ConfigError, match="nobody crosses"):
        cast([STANDS], 0, config)
    names = [motion.name for number in range(2) for motion in cast([STANDS, GOES], number, ClipConfig(people=3))]
    assert all(a != b for a, b in pairwise(names))  # in turns


def test_a_crossing_that_no_camera_sees(tmp_path: Path) -> None:
    near = dataclasses.replace(SMALL, person_share=(8.0, 9.0))
    config = ClipConfig(frames=20, view=near, people=2, crossing=True)
    with pytest.raises(ConfigError, match="expected somebody who walks by"):
        write_clips(BANK, MESH, [STANDS, GOES], 1, 4, tmp_path, config)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--motions", str(tmp_path / "none.npz"), "--out", str(tmp_path), "--clips", "1"]
    for more in (["--people", "0"], ["--crossing"], ["--occluders", "-1"]):
        assert main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("synth: people and things in a clip: expected one person or more")
