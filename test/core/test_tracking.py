"""The tracker on simulated walkers: what a network would see of them, with its noise and its mistakes."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from walker_looks import CONFIG, EXTENT_M, FPS, HEIGHT, WIDTH, WIDTH_M, seen_at

from metro_ros.core.crop import Box
from metro_ros.core.detect import Detections
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.look import Look
from metro_ros.core.tracking import Tracker, overlap


@dataclass
class Walker:
    """Someone who walks at a constant velocity, metres and seconds."""

    x: float
    z: float
    vx: float = 0.0
    vz: float = 0.0

    def at(self, t: float) -> tuple[float, float]:
        return self.x + self.vx * t, self.z + self.vz * t


class World:
    """Drives a tracker as the estimator does, by looks that are noisy, and mix up those who overlap."""

    def __init__(self, walkers: Sequence[Walker], seed: int = 0, config: EstimatorConfig = CONFIG) -> None:
        self.walkers, self.config = walkers, config
        self.tracker = Tracker(EXTENT_M)
        self.random = np.random.RandomState(seed)
        self.ids = itertools.count(1)

    def look(self, index: int, t: float, present: Sequence[int]) -> Look:
        """1 % of noise in place, 4 % in depth; who is covered in part is mixed with whoever covers it."""
        x, z = self.walkers[index].at(t)
        for other in present:
            nearer_x, nearer_z = self.walkers[other].at(t)
            part = self.covered(index, other, t)
            x, z = x + part * (nearer_x / nearer_z * z - x), z + part * (nearer_z - z)
        noise, scale, change = self.random.standard_normal(3) * (0.02, 0.04, 0.03)
        look = seen_at(x + noise, z, change=abs(change))
        return look._replace(translation=look.translation * (1 + scale))

    def covered(self, index: int, other: int, t: float) -> float:
        """The part of someone that another one hides."""
        (x, z), (nearer_x, nearer_z) = self.walkers[index].at(t), self.walkers[other].at(t)
        if nearer_z >= z:
            return 0.0
        half, nearer_half = WIDTH_M / 2 / z, WIDTH_M / 2 / nearer_z
        left, right = (
            max(x / z - half, nearer_x / nearer_z - nearer_half),
            min(x / z + half, nearer_x / nearer_z + nearer_half),
        )
        return max(right - left, 0.0) / (2 * half)

    def step(self, t: float, absent: Sequence[int] = (), detect: bool = True) -> dict[int, int]:
        """One image at time t; `absent` cannot be seen at all. Returns the ids by walker, of those who are shown."""
        tracker = self.tracker
        tracker.begin(t)
        present = [index for index in range(len(self.walkers)) if index not in absent]
        visible = [i for i in present if all(self.covered(i, other, t) <= 0.5 for other in present)]
        owner: dict[int, int] = {}

        def looks_at(indices: Sequence[int]) -> list[Look]:
            looks = [self.look(index, t, present) for index in indices]
            owner.update({id(look): index for look, index in zip(looks, indices, strict=True)})
            return looks

        cropped = []
        for _, (crop,) in tracker.crops(1.25):  # it shows whoever is visible nearest to the middle of it
            middles = {abs(seen_at(*self.walkers[index].at(t)).box.cx - crop.cx): index for index in visible}
            cropped += [middles[off] for off in middles if off == min(middles) and off < crop.size / 2]
        tracker.match(looks_at(self.random.permutation(cropped)), self.config)
        if detect:
            new = looks_at(self.random.permutation(visible))
            for index in tracker.match(new, self.config, detected=True):
                tracker.add(new[index], 0.9, self.config)
        shown = {}
        for track in tracker.end(self.config, detect):
            track.id = track.id or next(self.ids)
            walker = owner[id(track.look)]
            assert walker not in shown, "one person was shown twice"
            shown[walker] = track.id
        return shown


def run(world: World, seconds: float, absent: Callable[[float], Sequence[int]] = lambda t: ()) -> list[dict[int, int]]:
    """A detector every sixth image, as with 0.2 s at 30 Hz."""
    return [world.step(n / FPS, absent(n / FPS), n % 6 == 0) for n in range(round(seconds * FPS) + 1)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("speed", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("behind", [3.8, 5.0])
def test_ids_survive_a_crossing(speed: float, behind: float, seed: int) -> None:
    """One passes behind the other, who walks the other way or stands."""
    reach = 1.2 * speed
    for front in (Walker(reach, 3.0, -speed), Walker(0.0, 3.0)):
        shown = run(World([front, Walker(-reach, behind, speed)], seed), 2.4)
        assert any(len(people) == 1 for people in shown), "nobody was hidden"
        assert shown[0] == shown[-1] and len(shown[-1]) == 2
        assert all(identity == shown[0][walker] for people in shown for walker, identity in people.items())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("velocity", [(0.0, 0.0), (1.2, 0.0), (0.3, -1.0)])
def test_ids_survive_half_a_second_of_occlusion(velocity: tuple[float, float], seed: int) -> None:
    world = World([Walker(-0.8, 5.0, *velocity), Walker(-1.8, 4.0)], seed)
    shown = run(world, 2.0, lambda t: (0,) if 0.8 < t < 1.3 else ())
    assert shown[0] == shown[-1] and len(shown[0]) == 2
    hidden = [people for n, people in enumerate(shown) if 0.8 < n / FPS < 1.3]
    assert all(set(people) == {1} for people in hidden), "who is hidden is not shown"


def test_three_of_whom_one_is_hidden() -> None:
    world = World([Walker(-1.0, 3.0, 0.5), Walker(0.0, 4.5), Walker(2.4, 5.0, -0.1)])
    shown = run(world, 3.5)
    assert min(map(len, shown)) == 2 and len(shown[-1]) == 3
    assert all(identity == shown[0][walker] for people in shown for walker, identity in people.items())


def test_who_is_hidden_too_long_comes_back_as_another() -> None:
    shown = run(World([Walker(0.0, 4.0)]), 4.0, lambda t: (0,) if 0.5 < t < 3.0 else ())
    assert shown[0] == {0: 1} and shown[-1] == {0: 2}
    assert shown[round(0.8 * FPS)] == {}


def test_who_left_the_image_is_forgotten() -> None:
    world = World([Walker(0.0, 3.0), Walker(1.5, 3.0, 2.0)])
    run(world, 1.0, lambda t: (1,) if t > 0.5 else ())
    assert len(world.tracker.tracks) == 2
    world.step(0.5 + CONFIG.max_lost_s + 0.1, (1,))
    assert len(world.tracker.tracks) == 1


def test_the_order_of_looks_and_detections_means_nothing() -> None:
    walkers = [Walker(-1.2, 4.0, 0.2), Walker(0.0, 3.5, -0.1), Walker(1.0, 4.2)]
    shown = run(World(walkers, seed=3), 1.0)  # World shuffles both
    assert len(shown[0]) == 3 and all(people == shown[0] for people in shown)


def images(
    tracker: Tracker, looks: Sequence[Look], config: EstimatorConfig, scores: Sequence[float], detect: bool = True
) -> list[int]:
    """One image after the other in which one person is seen, detected with those scores; how many are shown in each."""
    counts = []
    for number, (look, score) in enumerate(zip(looks, scores, strict=True)):
        tracker.begin(number / FPS)
        tracker.match([look], config)
        if detect or not number:
            for index in tracker.match([look], config, detected=True):
                tracker.add([look][index], score, config)
        counts.append(len(tracker.end(config, detect or not number)))
    return counts


def test_who_is_sure_is_shown_at_once_and_who_is_not_must_be_detected_again() -> None:
    steady = [seen_at(0.0, 4.0, score=0.6)] * 4
    assert images(Tracker(EXTENT_M), steady, CONFIG, [0.6] * 4) == [1, 1, 1, 1]
    assert images(Tracker(EXTENT_M), steady, CONFIG, [0.4] * 4) == [0, 0, 1, 1]
    assert images(Tracker(EXTENT_M), [seen_at(0.0, 4.0, score=0.4)] * 4, CONFIG, [0.9] * 4) == [0, 0, 1, 1]
    assert images(Tracker(EXTENT_M), steady, EstimatorConfig(birth_looks=1), [0.1] * 4) == [1, 1, 1, 1]
    assert images(Tracker(EXTENT_M), steady, CONFIG, [0.4] * 4, detect=False) == [0, 0, 0, 0]


def test_who_was_not_sure_is_forgotten_when_not_seen_once_or_not_detected_for_a_while() -> None:
    for missed, forgotten_s in (("seen", 0.1), ("detected", 0.6)):
        tracker, look = Tracker(EXTENT_M), seen_at(0.0, 4.0)
        tracker.begin(0.0)
        tracker.add(look, 0.3, CONFIG)
        tracker.end(CONFIG, True)
        for time_s in np.arange(0.1, 1.0, 0.1):
            tracker.begin(time_s)
            tracker.match([look] if missed == "detected" else [], CONFIG)
            assert tracker.end(CONFIG, detector_asked=missed == "detected") == []
            assert bool(tracker.tracks) == (time_s < forgotten_s - 1e-6)


def test_whom_the_model_is_sure_of_needs_no_detection() -> None:
    """The doubtful one is shown only when detected three times, and for a while after."""
    doubtful, sure = (seen_at(0.0, 4.0)._replace(body=seen_at(0.0, 4.0).body._replace(sure=s)) for s in (0.2, 0.3))
    shown = {}
    for name, look in (("doubtful", doubtful), ("sure", sure)):
        tracker, shown[name] = Tracker(EXTENT_M, sure=0.25), []
        for number in range(60):
            tracker.begin(number / 10)
            tracker.match([look], CONFIG)
            if not number:
                tracker.add(look, 0.3, CONFIG)
            shown[name].append(len(tracker.end(CONFIG, detector_asked=True)))
    assert not any(shown["doubtful"])
    assert shown["sure"] == [0, 0] + [1] * 58


def test_who_is_seen_but_no_longer_detected_is_not_believed_for_ever() -> None:
    tracker, look, shown = Tracker(EXTENT_M), seen_at(0.0, 4.0), []
    for number in range(40):
        tracker.begin(number / 10)
        tracker.match([look], CONFIG)
        if not number:
            tracker.add(look, 0.9, CONFIG)
        shown.append(bool(tracker.end(CONFIG, detector_asked=number % 2 == 0)))
    assert shown.index(False) == pytest.approx(10 * (CONFIG.max_undetected_s + 0.2), abs=2)
    assert not any(shown[shown.index(False) :])


def test_coinciding_looks_are_one_person_and_others_are_not() -> None:
    tracker = Tracker(EXTENT_M)
    tracker.begin(0.0)
    looks = [seen_at(0.0, 4.0, change=0.3), seen_at(0.03, 4.1), seen_at(0.0, 4.0, sway=0.6), seen_at(0.7, 4.0)]
    assert sorted(tracker.match(looks, CONFIG, detected=True)) == [1, 2, 3], "the squarest look stands for both"


def test_whoever_foresaw_a_look_better_has_it() -> None:
    """Two tracks, one visible person: the one with the wrong depth is hidden, whatever their order."""
    for order in (1, -1):
        tracker = Tracker(EXTENT_M)
        tracker.begin(0.0)
        for look in [seen_at(0.0, 3.0), seen_at(0.1, 5.0)][::order]:
            tracker.add(look, 0.9, CONFIG)
        near = tracker.tracks[::order][0]
        tracker.end(CONFIG, True)
        tracker.begin(0.1)
        assert tracker.match([seen_at(0.0, 3.1), seen_at(0.0, 3.05)], CONFIG) == []
        assert tracker.end(CONFIG, False) == [near]


def test_a_hidden_one_is_not_looked_for_in_a_crop_that_shows_someone_else() -> None:
    tracker = Tracker(EXTENT_M)
    tracker.begin(0.0)
    for x in (-1.0, 0.0, 2.0):
        tracker.add(seen_at(x, 4.0), 0.9, CONFIG)
    tracker.end(CONFIG, True)
    for hidden, looked_at in ((0, 2), (2, 3)):  # the crop around the first one reaches the second one
        looks = [seen_at(x, 4.0) for x in np.delete((-1.0, 0.0, 2.0), hidden)]
        tracker.begin(0.1)
        tracker.match([seen_at(x, 4.0) for x in (-1.0, 0.0, 2.0)], CONFIG)
        tracker.begin(0.2)
        assert len(tracker.crops(1.25)) == 3
        tracker.match(looks, CONFIG)
        tracker.begin(0.3)
        assert len(tracker.crops(1.25)) == looked_at


@pytest.mark.parametrize("nearer", [3.0, 8.0])
def test_who_is_covered_is_foreseen_by_how_it_moved_before(nearer: float) -> None:
    """Behind someone nearer the network mixes up both; who stands before someone is seen as it is."""
    tracker = Tracker(EXTENT_M)
    for n in range(8):
        tracker.begin(n / FPS)
        mixed = 0.3 if n == 7 else 0.0  # 30 cm towards the other one
        looks = [seen_at(-0.5 + mixed, 5.0), seen_at(0.0, nearer)]
        for index in tracker.match(looks, CONFIG, detected=True):
            tracker.add(looks[index], 0.9, CONFIG)
        assert len(tracker.end(CONFIG, True)) == 2
    tracker.begin(8 / FPS)
    x = tracker.tracks[0].position[0]
    assert x == pytest.approx(-0.5, abs=0.06) if nearer < 5 else x > -0.2


@pytest.mark.parametrize(("nearer", "change", "detected", "shown"), [
    (3.0, 0.15, False, 1), (3.0, 0.05, False, 2), (3.0, 0.15, True, 2), (8.0, 0.15, False, 2),
])  # fmt: skip
def test_who_is_covered_and_wanders_is_hidden(nearer: float, change: float, detected: bool, shown: int) -> None:
    """Unless a detection says where to look; who stands before the other one may wander."""
    tracker = Tracker(EXTENT_M)
    tracker.begin(0.0)
    for look in (seen_at(-0.1, 5.0), seen_at(0.0, nearer)):
        tracker.add(look, 0.9, CONFIG)
    assert len(tracker.end(CONFIG, True)) == 2
    tracker.begin(1 / FPS)
    assert tracker.match([seen_at(0.0, nearer)], CONFIG) == []
    assert tracker.match([seen_at(-0.1, 5.0, change=change, sway=0.6)], CONFIG, detected) == []
    assert len(tracker.end(CONFIG, False)) == shown


def test_one_person_explains_one_detection() -> None:
    tracker = Tracker(EXTENT_M)
    tracker.begin(0.0)
    look = seen_at(0.0, 4.0)
    tracker.add(look, 0.9, CONFIG)
    boxes = np.array((look.bounds + 4, look.bounds + 12, look.bounds + 300, look.bounds * (1, 1, 1, 0.6)))
    assert tracker.explain(Detections(boxes, np.ones(4)), np.ones(4, np.float32), WIDTH, HEIGHT) == [1, 2, 3]
    cut = Detections(look.bounds[None] * (1, 1, 1, 0.6), np.ones(1))  # the legs are out of the image
    assert tracker.explain(cut, cut.scores, WIDTH, round(look.bounds[3] * 0.6)) == []


def test_the_lowest_scores_are_dropped() -> None:
    config = EstimatorConfig(max_people=2)
    tracker = Tracker(EXTENT_M)
    tracker.begin(0.0)
    for x, score in ((-1.0, 0.8), (0.0, 0.6), (1.0, 0.9)):
        tracker.add(seen_at(x, 4.0, score=score), 0.9, config)
    assert [track.score for track in tracker.end(config, True)] == [0.8, 0.9]
    assert len(tracker.tracks) == 2


def test_stamps_that_stand_still_do_not_make_anyone_infinitely_fast() -> None:
    tracker = Tracker(EXTENT_M)
    for number, t in enumerate((0.0, 0.1, 0.1, 0.1, 0.2)):
        tracker.begin(t)
        look = seen_at(0.02 * number, 4.0)
        if tracker.match([look], CONFIG):
            tracker.add(look, 0.9, CONFIG)
        tracker.end(CONFIG, True)
    tracker.begin(0.3)
    (track,) = tracker.tracks
    assert 0.05 < track.position[0] < 0.2
    assert track.seen_s == 0.2


def test_prediction_is_damped_and_sizes_follow_the_depth() -> None:
    tracker = Tracker(EXTENT_M)
    for n in range(31):
        tracker.begin(n / FPS)
        if tracker.match([look := seen_at(n / FPS, 6.0 - n / FPS)], CONFIG):
            tracker.add(look, 0.9, CONFIG)
        tracker.end(CONFIG, True)
    (track,) = tracker.tracks
    height = track.bounds[3] - track.bounds[1]
    tracker.begin(1.5)
    assert 1.3 < track.position[0] < 1.5
    assert track.bounds[3] - track.bounds[1] == pytest.approx(height * 5.0 / np.exp(track.position[2]), rel=0.02)
    tracker.begin(100.0)
    assert track.position[0] == pytest.approx(2.0, abs=0.1), "who is gone does not run away for ever"


def test_overlap() -> None:
    boxes = np.array(((0.0, 0, 2, 2), (1, 0, 3, 2), (5, 5, 6, 6)))
    np.testing.assert_allclose(overlap(boxes[:1], boxes), [[1, 1 / 3, 0]])
    assert overlap(boxes[:0], boxes).shape == (0, 3)


def test_a_look_that_wanders_is_not_believed_however_sure_it_is() -> None:
    """Where there is no one, the box shrinks from look to look."""

    def changing(*changes: float) -> list[Look]:
        return [seen_at(0.0, 4.0 * math.exp(sum(changes[: n + 1])), change=c) for n, c in enumerate(changes)]

    sure = [0.9] * 6
    assert images(Tracker(EXTENT_M), changing(*[0.15] * 6), CONFIG, sure) == [0] * 6
    assert images(Tracker(EXTENT_M), changing(0.15, 0.05, 0.15, 0.05, 0.05, 0.05), CONFIG, sure) == [0, 0, 0, 0, 0, 1]
    assert images(Tracker(EXTENT_M), changing(0.05, *[0.15] * 5), CONFIG, sure) == [1] * 6, "once shown, it stays so"
    assert images(Tracker(EXTENT_M), changing(0.15), EstimatorConfig(birth_looks=1), [0.9]) == [1]
    still = [seen_at(0.0, 4.0, change=0.15)] * 6
    assert images(Tracker(EXTENT_M), still, CONFIG, sure) == [0, 0, 0, 1, 1, 1], "beside the middle, but at rest there"


def test_who_leaves_a_doubt_is_looked_at_again_in_the_crop_that_moves_along() -> None:
    tracker = Tracker(EXTENT_M, sure=0.25)
    for number in range(4):
        look = seen_at(0.5 * number / FPS, 4.0)
        kept = Box(look.box.cx + 9, look.box.cy, 1.3 * look.box.size)
        look = look._replace(body=look.body._replace(sure=0.2), crop=kept)
        tracker.begin(number / FPS)
        if tracker.match([look], CONFIG):
            tracker.add(look, 0.9, CONFIG)
        tracker.end(CONFIG, True)
    tracker.begin(4 / FPS)
    ((_, (own, same)),) = tracker.crops(1.25)
    expected = seen_at(0.5 * 4 / FPS, 4.0).box
    assert (own.cx, own.cy, own.size) == pytest.approx((expected.cx, expected.cy, expected.size), abs=0.5)
    assert (same.cx, same.cy, same.size) == pytest.approx((expected.cx + 9, expected.cy, 1.3 * expected.size), abs=0.5)
    tracker.match([seen_at(0.5 * 4 / FPS, 4.0)], CONFIG)
    tracker.end(CONFIG, True)
    tracker.begin(5 / FPS)
    assert [len(crops) for _, crops in tracker.crops(1.25)] == [1], "no doubt any more"


def test_no_one_new_has_the_head_of_whom_the_image_shows() -> None:
    """Half of a second body seen around the head of the first is that first person, seen wrongly."""
    first = seen_at(0.0, 4.0)
    joints = first.joints_px.copy()
    joints[1:] += 60.0
    wrong = first._replace(joints_px=joints, bounds=first.bounds + 60.0, change=0.01)
    beside = wrong._replace(joints_px=joints + np.array((30.0, 0.0)))
    for head, look, people in ((0, wrong, 1), (0, beside, 2), (None, wrong, 2)):
        tracker = Tracker(EXTENT_M, head)
        tracker.begin(0.0)
        for one in (first, look):
            tracker.add(one, 0.9, CONFIG)
        assert len(tracker.end(CONFIG, True)) == people
