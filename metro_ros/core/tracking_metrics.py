"""How well people are told apart over time: recall, precision, MOTA, ID switches and IDF1, by boxes and ids.

MOTA and the matching of a frame: Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The
CLEAR MOT Metrics", EURASIP JIVP 2008. IDF1: Ristani et al., "Performance Measures and a Data Set for Multi-Target,
Multi-Camera Tracking", ECCV Workshops 2016.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.assignment import assign
from metro_ros.core.errors import SourceError

MATCH_IOU = 0.5
"""Boxes that overlap by so much, intersection over union, may show the same person; MOTChallenge takes the same."""


class TrackingCounts(NamedTuple):
    """What the figures are made of; those of several clips add up (`add_up`).

    truths, found: boxes, summed over frames; matches: pairs of both; switches: how often a true person's id is another
    than it last was; id_matches: IDTP, the matches when each true person is given one id for good; clips, and
    clips_kept, in which ids were kept: everyone was found, each under one id from beginning to end, each under an own
    one.
    """

    truths: int = 0
    found: int = 0
    matches: int = 0
    switches: int = 0
    id_matches: int = 0
    clips: int = 0
    clips_kept: int = 0

    @property
    def recall(self) -> float:
        """Part of the true boxes that are found; 1 where there are none."""
        return self.matches / self.truths if self.truths else 1.0

    @property
    def precision(self) -> float:
        """Part of the found boxes that are true; 1 where there are none."""
        return self.matches / self.found if self.found else 1.0

    @property
    def mota(self) -> float:
        """1 - (misses + false positives + switches) / truths; negative where there are more errors than people."""
        errors = (self.truths - self.matches) + (self.found - self.matches) + self.switches
        return 1.0 - errors / self.truths if self.truths else 1.0 - float(errors > 0)

    @property
    def idf1(self) -> float:
        """2 IDTP / (truths + found); 1 where there are none."""
        both = self.truths + self.found
        return 2 * self.id_matches / both if both else 1.0


def add_up(counts: Iterable[TrackingCounts]) -> TrackingCounts:
    """The counts of several clips together, whose people are different ones."""
    return TrackingCounts(*(sum(column) for column in zip(TrackingCounts(), *counts, strict=True)))


class TrackingScore:
    """Follows one clip frame by frame and counts."""

    def __init__(self) -> None:
        self._truths = self._found = self._matches = self._switches = 0
        self._last: dict[int, int] = {}
        """True person → the id of its last match."""
        self._ids: dict[int, set[int]] = {}
        """True person that had to be found → every id it was matched with."""
        self._together: Counter[tuple[int, int]] = Counter()
        """(true person, id) → frames in which their boxes overlap."""

    def add(
        self,
        boxes: npt.NDArray[np.floating],
        wanted: npt.NDArray[np.bool_],
        found: npt.NDArray[np.floating],
        ids: Sequence[int],
    ) -> dict[int, int]:
        """Count one frame; returns its matches, {true person: index into the found}.

        boxes: (P, 4) px, left, top, right, bottom, NaN where nobody is in the image, of all true people in the same
        order in every frame; wanted: (P,), who has to be found. Others may be: a found box that matches nobody wanted,
        but one of them, doesn't count. found, ids: (N, 4) and N, of the found people.

        Raises SourceError when two found people share an id.
        """
        if len(set(ids)) < len(ids):
            raise SourceError("ids of the people in one image", expected="one each", got=sorted(ids))
        overlap = box_iou(boxes, found)
        overlap[overlap < MATCH_IOU] = 0
        for each in np.flatnonzero(wanted).tolist():
            self._ids.setdefault(each, set())
        pairs = self._match(overlap * wanted[:, None], ids)
        free = np.ones(len(ids), bool)
        free[list(pairs.values())] = False
        ignored = {column for _, column in assign(-overlap * ~wanted[:, None] * free, 0.0)}
        for person, index in pairs.items():
            self._switches += self._last.get(person, ids[index]) != ids[index]
            self._last[person] = ids[index]
            self._ids[person].add(ids[index])
        self._truths += int(wanted.sum())
        self._found += len(ids) - len(ignored)
        self._matches += len(pairs)
        for person, index in np.argwhere(overlap * wanted[:, None] > 0).tolist():
            self._together[person, ids[index]] += index not in ignored
        return pairs

    def _match(self, overlap: npt.NDArray[np.float64], ids: Sequence[int]) -> dict[int, int]:
        """Who was matched stays matched while the boxes allow it; the rest: most pairs, then most overlap."""
        pairs: dict[int, int] = {}
        left = overlap.copy()
        for index, found_id in enumerate(ids):
            for person, last in self._last.items():
                if last == found_id and left[person, index] > 0:
                    pairs[person] = index
                    left[person], left[:, index] = 0, 0
        pairs.update(assign(-(left + len(left) * (left > 0)), 0.0))
        return pairs

    def counts(self) -> TrackingCounts:
        """Of all frames so far, as one clip."""
        everyone = list(self._ids.values())
        kept = all(len(ids) == 1 for ids in everyone) and len(set().union(*everyone)) == len(everyone)
        return TrackingCounts(
            truths=self._truths,
            found=self._found,
            matches=self._matches,
            switches=self._switches,
            id_matches=self._id_matches(),
            clips=1,
            clips_kept=int(kept),
        )

    def _id_matches(self) -> int:
        people, ids = ({key[side]: None for key in self._together} for side in (0, 1))
        table = np.array([[self._together[person, each] for each in ids] for person in people]).reshape(
            len(people), len(ids)
        )
        return int(sum(table[pair] for pair in assign(-table, 0.0)))


def box_iou(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (N, 4) and (M, 4), left, top, right, bottom → (N, M); 0 for a NaN."""
    a, b = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.maximum(shared, 0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - intersection
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(intersection / union, nan=0.0, posinf=0.0)
