"""Recall, precision, MOTA, ID switches, IDF1 and kept ids on scenes small enough to count by hand."""

import numpy as np
import pytest

from metro_ros.core.errors import SourceError
from metro_ros.core.tracking_metrics import TrackingCounts, TrackingScore, add_up, box_iou

A, B = (0.0, 0.0, 10.0, 20.0), (50.0, 0.0, 60.0, 20.0)
FAR = (200.0, 0.0, 210.0, 20.0)
NOBODY = (np.nan,) * 4
Found = dict[int, tuple[float, ...]]


def shifted(box: tuple[float, ...], by: float) -> tuple[float, ...]:
    return (box[0] + by, box[1], box[2] + by, box[3])


def score(*frames: tuple[list[tuple[float, ...]], list[bool], Found]) -> TrackingCounts:
    """Each frame: true boxes, who of them has to be found, and {id: found box}."""
    tracking = TrackingScore()
    for boxes, wanted, found in frames:
        tracking.add(np.array(boxes), np.array(wanted), np.array(list(found.values())), list(found))
    return tracking.counts()


def both(found: Found) -> tuple[list[tuple[float, ...]], list[bool], Found]:
    return [A, B], [True, True], found


def test_everyone_is_found_and_told_apart() -> None:
    counts = score(*(both({1: A, 2: B}) for _ in range(5)))
    assert counts == TrackingCounts(truths=10, found=10, matches=10, id_matches=10, clips=1, clips_kept=1)
    assert (counts.recall, counts.precision, counts.mota, counts.idf1) == (1, 1, 1, 1)


def test_ids_that_change_places() -> None:
    """After 4 of 5 frames: two switches; for good, each person has one id for 4 frames."""
    counts = score(*(both({1: A, 2: B}) for _ in range(4)), both({2: A, 1: B}))
    assert (counts.switches, counts.id_matches, counts.clips_kept) == (2, 8, 0)
    assert (counts.recall, counts.precision) == (1, 1)
    assert counts.mota == pytest.approx(1 - 2 / 10) and counts.idf1 == pytest.approx(16 / 20)


def test_a_new_id_after_a_gap_is_a_switch_and_the_old_one_is_none() -> None:
    gap = both({1: A})
    again = score(both({1: A, 2: B}), gap, both({1: A, 2: B}))
    assert (again.switches, again.clips_kept, again.matches) == (0, 1, 5)
    new = score(both({1: A, 2: B}), gap, both({1: A, 3: B}))
    assert (new.switches, new.clips_kept, new.id_matches) == (1, 0, 4)
    assert new.mota == pytest.approx(1 - (1 + 1) / 6) and new.idf1 == pytest.approx(2 * 4 / (6 + 5))


def test_a_missing_person_costs_recall_and_a_false_one_precision() -> None:
    counts = score(*(both({1: A, 7: FAR}) for _ in range(4)))
    assert (counts.truths, counts.found, counts.matches) == (8, 8, 4)
    assert (counts.recall, counts.precision, counts.mota, counts.idf1) == (0.5, 0.5, 0, 0.5)
    assert counts.clips_kept == 0  # one of the two never had an id


def test_an_id_that_two_people_have_one_after_the_other_is_not_kept() -> None:
    counts = score(([A, NOBODY], [True, False], {1: A}), ([NOBODY, B], [False, True], {1: B}))
    assert (counts.switches, counts.matches, counts.clips_kept) == (0, 2, 0)
    assert counts.id_matches == 1  # of two people one can have it


def test_who_can_hardly_be_seen_is_neither_missed_nor_wrongly_found() -> None:
    seen, hidden = [A, B], [True, False]
    perfect = TrackingCounts(truths=2, found=2, matches=2, id_matches=2, clips=1, clips_kept=1)
    assert score((seen, hidden, {1: A}), (seen, hidden, {1: A})) == perfect
    assert score((seen, hidden, {1: A, 2: B}), (seen, hidden, {1: A, 3: B})) == perfect
    # A second box on the hidden one, or one that shows nobody, is a mistake all the same.
    assert score((seen, hidden, {1: A, 2: B, 3: shifted(B, 1)})).found == 2
    assert score((seen, hidden, {1: A, 2: FAR})).precision == 0.5


def test_who_can_be_seen_comes_before_who_is_hidden_behind() -> None:
    counts = score(([A, shifted(A, 0.5)], [True, False], {1: shifted(A, 0.5)}))
    assert (counts.found, counts.matches) == (1, 1)


def test_a_match_lasts_while_the_boxes_allow_it() -> None:
    """The other box fits better, but the person already has an id (CLEAR MOT, step 1 of the matching)."""
    first = ([A], [True], {1: A})
    assert score(first, ([A], [True], {2: A, 1: shifted(A, 3)})).switches == 0
    assert score(first, ([A], [True], {2: A, 1: shifted(A, 6)})).switches == 1  # IoU 0.25: it doesn't


def test_more_pairs_come_before_better_ones() -> None:
    """Two found boxes lie exactly on the second and the third person, but then the first one has none."""
    row = [(2.9 * place, 0.0, 2.9 * place + 10, 10.0) for place in range(4)]
    counts = score((row[:3], [True] * 3, {1: row[1], 2: row[2], 3: row[3]}))
    assert counts.matches == 3


def test_clips_add_up() -> None:
    good, bad = score(both({1: A, 2: B})), score(both({}))
    total = add_up([good, bad])
    assert (total.clips, total.clips_kept, total.recall, total.precision, total.idf1) == (2, 1, 0.5, 1, 4 / 6)
    assert add_up([]) == TrackingCounts()


def test_nobody_at_all() -> None:
    empty = score(([NOBODY], [False], {}))
    assert (empty.recall, empty.precision, empty.mota, empty.idf1, empty.clips_kept) == (1, 1, 1, 1, 1)
    assert score(([NOBODY], [False], {1: A})).mota == 0


def test_one_id_twice_in_an_image() -> None:
    with pytest.raises(SourceError, match=r"expected one each, got \[4, 4\]"):
        TrackingScore().add(np.array([A]), np.array([True]), np.array([A, B]), [4, 4])


def test_box_iou() -> None:
    iou = box_iou(np.array([A, NOBODY]), np.array([A, shifted(A, 5), FAR]))
    np.testing.assert_allclose(iou, [[1, 1 / 3, 0], [0, 0, 0]])
    assert box_iou(np.array([A]), np.zeros((0, 4))).shape == (1, 0)
