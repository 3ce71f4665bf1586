"""People who were close and part again: whose id is whose, by what they wear."""

from collections.abc import Sequence

import numpy as np
import pytest
from walker_looks import CONFIG, EXTENT_M, FPS, seen_at

from metro_ros.core.look import Look
from metro_ros.core.tracking import Tracker


def _pair(tracker: Tracker, t: float, looks: Sequence[Look]) -> list[int]:
    """One image in which two looks are had; the ids of those shown, in the order of their x."""
    tracker.begin(t)
    fresh = tracker.match(looks, CONFIG)
    for index in fresh:
        tracker.add(looks[index], 0.9, CONFIG)
    shown = tracker.end(CONFIG, False)
    for track in shown:
        track.id = track.id or max((other.id for other in tracker.tracks), default=0) + 1
    return [track.id for track in sorted(shown, key=lambda track: float(track.position[0]))]


def _meet_and_part(dark: float, bright: float, swap: bool) -> tuple[list[int], list[list[int]]]:
    """Two meet at x = 0 and part again, to where they came from or, if `swap`, to where the other one did.

    The tracker sees both go straight back either way: who they are, only what they wear tells. Their ids before, and
    in each image after.
    """
    tracker, t = Tracker(EXTENT_M), 0.0
    before: list[int] = []
    for x in np.linspace(-1.5, -0.45, 20):
        before = _pair(tracker, t, [seen_at(x, 4.0, wears=dark), seen_at(-x, 4.0, wears=bright)])
        t += 1 / FPS
    for _ in range(10):
        _pair(tracker, t, [seen_at(-0.25, 4.0, wears=0.5), seen_at(0.25, 4.0, wears=0.5)])  # all mixed up
        t += 1 / FPS
    after = []
    left, right = (bright, dark) if swap else (dark, bright)
    for x in np.linspace(0.45, 1.5, 20):
        after.append(_pair(tracker, t, [seen_at(-x, 4.0, wears=left), seen_at(x, 4.0, wears=right)]))
        t += 1 / FPS
    return before, after


def test_who_changed_places_while_close_is_known_by_the_clothes() -> None:
    before, after = _meet_and_part(0.2, 0.8, swap=True)
    assert before == [1, 2] and after[-1] == [2, 1]
    assert after.index([2, 1]) < 12, "as soon as both have been seen apart for some images"
    assert all(ids == [2, 1] for ids in after[after.index([2, 1]) :]), "and for good"


def test_who_went_back_keeps_the_id_and_so_do_those_who_are_dressed_alike() -> None:
    for dark, bright, swap in ((0.2, 0.8, False), (0.5, 0.5, True), (0.5, 0.52, True), (np.nan, 0.8, True)):
        before, after = _meet_and_part(dark, bright, swap)
        assert all(ids == before for ids in after), (dark, bright)


def test_colours_of_whoever_is_close_to_another_are_not_learned() -> None:
    tracker = Tracker(EXTENT_M)
    for number in range(30):
        _pair(tracker, number / FPS, [seen_at(-0.25, 4.0, wears=0.2), seen_at(0.25, 4.0, wears=0.8 - 0.01 * number)])
    (bright,) = [track for track in tracker.tracks if track.position[0] > 0]
    assert bright.colours[0, 0] > 0.78
    for number in range(30, 120):  # alone, they are, once it is settled who is who
        _pair(tracker, number / FPS, [seen_at(-1.0, 4.0, wears=0.2), seen_at(1.0, 4.0, wears=0.5)])
    (bright,) = [track for track in tracker.tracks if track.position[0] > 0]
    assert bright.colours[0, 0] == pytest.approx(0.5, abs=0.01)
