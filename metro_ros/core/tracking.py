"""The tracker: which look is whom, who is new, who is hidden, and who is gone."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from metro_ros.core.assignment import assign
from metro_ros.core.crop import Box
from metro_ros.core.detect import Detections
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.look import LIKELY, Look
from metro_ros.core.mingling import Mingling
from metro_ros.core.track import RESTLESS, Track

SAME_IOU, SAME_JOINTS = 0.5, 0.2
"""Two looks are of one person when their bounds overlap more and their joints differ less, in larger sides of them."""
DOUBTED_S = 0.4
"""So long someone new is followed whom the detector does not see again: it may look at parts of the image in turn."""
SAME_HEAD = 0.1
"""No one new has the head so near to that of whom the image shows already, in the smaller of their larger sides."""
COVERED = 0.3
"""Part of someone's bounds behind a nearer one's from which the network may mix the two."""
EXPLAINED_IOU = 0.3
"""A detection that overlaps someone's bounds so much can be of that person. What is detected is the visible part."""
DEPTH_WEIGHT = 0.5
"""Of a factor of e in depth, where no overlap costs 1 and so does a body's height sideways: depth is a guess."""
HIDDEN_COST = 0.2
"""More, for whom the image before did not show: whoever it showed comes first."""
MAX_COST, MAX_COST_PER_S, MAX_COST_HIDDEN_S = 1.3, 1.0, 1.0
"""What a look may cost whom the image before showed, and how and how long that grows while someone is hidden."""


class Tracker:
    """Follows everyone. For each image: `begin`, `match` as often as something was looked at, `add`, and `end`.

    A look is given to the track that foresaw it best: by overlap of the bounds, by the distance sideways and, with less
    weight, by the logarithm of the depth's ratio; all looks and tracks at once, so that their order means nothing
    (Hungarian assignment, as in Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016). Looks that coincide
    are one person: whoever foresaw it better has it, the other one is hidden, and its prediction goes on. So is whose
    look wanders while someone nearer covers it. Two who end up with each other's person, see mingling, change ids.
    """

    def __init__(self, extent_m: float, head: int | None = None, sure: float = math.inf) -> None:
        """extent_m: of the template; head: which joint is in the head, where there is one; sure: confidence, 0..1, from
        which on, as the mean of all joints, somebody is seen without a doubt; infinite where none is known."""
        self.tracks: list[Track] = []
        self.sure = sure
        self._extent_m, self._head = extent_m, head
        self._now_s = 0.0
        self._mingling = Mingling()

    def begin(self, now_s: float) -> None:
        """Predict where everyone must be; time must not go back."""
        self._now_s = now_s
        for track in self.tracks:
            track.was_seen, track.look, track.detected = track.look is not None, None, False
            track.predict(now_s)

    def crops(self, padding: float) -> list[tuple[Track, list[Box]]]:
        """Where to look for whom; in two crops for whom the last look left in doubt, by its mesh and as it was.

        Not for the hidden one whose crop holds someone else, whom the network would see: only a detection brings that
        one back. padding: side of the box over the extent of the person.
        """
        crops = [track.crop(padding) for track in self.tracks]
        followed = np.array([track.bounds for track in self.tracks if track.was_seen]).reshape(-1, 4)
        shared = _shared(np.array([box.bounds() for box in crops]).reshape(-1, 4), followed)
        return [
            (track, [crop, track.same_crop()] if track.sure < self.sure < math.inf else [crop])
            for track, crop, others in zip(self.tracks, crops, shared, strict=True)
            if track.was_seen or not others.any()
        ]

    def seen(self) -> list[Track]:
        """Everyone whom this image shows, confirmed or not, the longest known first."""
        return [track for track in self.tracks if track.look is not None]

    def someone_just_vanished(self) -> bool:
        """Whether the image before showed someone whom this one does not."""
        return any(track.confirmed and track.was_seen and track.look is None for track in self.tracks)

    def someone_is_unsure(self) -> bool:
        """Whether someone was seen who is not yet confirmed."""
        return any(not track.confirmed for track in self.tracks)

    def match(self, looks: Sequence[Look], config: EstimatorConfig, detected: bool = False) -> list[int]:
        """Give looks to those whom this image did not show yet; returns the indices of those that are no one's.

        detected: a detection, not the track itself, led to these looks. Of several that coincide the one counts that
        was looked at most squarely; those that coincide with whom this image showed already are left out.
        """
        seen = self.seen()
        alike = _alike([track.look for track in seen if track.look is not None] + list(looks))[len(seen) :]
        fresh: list[int] = []
        for index in sorted(range(len(looks)), key=lambda index: looks[index].change):
            twins = [track for track, same in zip(seen, alike[index], strict=False) if same]
            for track in twins:
                track.detected |= detected
            if not twins and not alike[index, [len(seen) + other for other in fresh]].any():
                fresh.append(index)
        unseen = [track for track in self.tracks if track.look is None]
        cost = self._costs(unseen, [looks[index] for index in fresh])
        pairs = assign(cost, float(np.max(cost, where=np.isfinite(cost), initial=MAX_COST)) + 1e-9)
        matched = [looks[fresh[column]] for _, column in pairs]
        covered = _covered(matched, [track.look for track in seen if track.look is not None])
        for (row, _), look, behind in zip(pairs, matched, covered, strict=True):
            if behind and look.change >= RESTLESS and not detected:
                continue  # it lies between the two, and leads away from either
            unseen[row].see(look, self._now_s, config.box_smoothing, behind)
            unseen[row].detected |= detected
        taken = {column for _, column in pairs}
        return [index for column, index in enumerate(fresh) if column not in taken]

    def explain(self, detections: Detections, proofs: npt.NDArray[np.float32], width: int, height: int) -> list[int]:
        """The indices of the detections in an image of that size, px, that no one who was seen explains.

        proofs: (N,), how much each proves whom it explains to be there, see Sight.is_nobody.

        One person explains one detection: where two overlap the same one, the other may be a neighbour.
        """
        seen = self.seen()
        edges = np.array((width, height, width, height)) - 0.5
        bounds = np.clip(_bounds([track.look for track in seen]), -0.5, edges)
        boxes = np.clip(detections.boxes, -0.5, edges)
        pairs = assign(1 - overlap(bounds, boxes), 1 - EXPLAINED_IOU)
        for track in seen:
            track.proof = LIKELY
        for row, column in pairs:
            seen[row].detected = True
            seen[row].proof = float(proofs[column])
        return sorted(set(range(len(detections))) - {column for _, column in pairs})

    def add(self, look: Look, detection_score: float, config: EstimatorConfig, proof: float = LIKELY) -> None:
        """Follow someone new, who is confirmed at once if both scores are good and the look has settled.

        Who has the head of someone else is no one new, but that person's body seen wrongly.
        """
        if any(self._same_head(look, track.look) for track in self.seen() if track.look is not None):
            return
        track = Track(look, self._now_s)
        track.proof = proof
        calm = track.calm > 0 or config.max_passes == 1  # one look at a loose box is never calm
        track.confirmed = min(look.body.score, detection_score) >= config.birth_score and calm
        self.tracks.append(track)

    def end(self, config: EstimatorConfig, detector_asked: bool) -> list[Track]:
        """Forget who is gone, and return who is to be shown. detector_asked: whether there were detections at all."""
        self._mingling.settle(self.tracks, self._now_s)
        kept = [track for track in self.tracks if self._stays(track, config, detector_asked)]
        best_first = sorted(kept, key=lambda track: (track.look is None, not track.confirmed, -track.score))
        dropped = {id(track) for track in best_first[config.max_people :]}
        self.tracks = [track for track in kept if id(track) not in dropped]
        return [track for track in self.tracks if track.look is not None and track.confirmed]

    def _stays(self, track: Track, config: EstimatorConfig, detector_asked: bool) -> bool:
        if track.look is None:
            return track.confirmed and self._now_s - track.seen_s <= config.max_lost_s
        if not detector_asked:
            return True
        track.detections += track.detected
        sure = track.look.body.sure >= self.sure
        calm = track.calm >= config.birth_looks or config.birth_looks == 1  # a single image has no more looks
        track.confirmed |= calm and (sure or track.detections >= config.birth_looks)
        if track.detected or sure:
            track.undetected_since_s = None
            return True
        if track.undetected_since_s is None:
            track.undetected_since_s = self._now_s
        longest_s = config.max_undetected_s if track.confirmed else min(DOUBTED_S, config.max_undetected_s)
        return self._now_s - track.undetected_since_s <= longest_s

    def _same_head(self, look: Look, other: Look) -> bool:
        if self._head is None:
            return False
        side = min((one.bounds[2:] - one.bounds[:2]).max() for one in (look, other))
        return bool(np.linalg.norm(look.joints_px[self._head] - other.joints_px[self._head]) < SAME_HEAD * side)

    def _costs(self, tracks: Sequence[Track], looks: Sequence[Look]) -> npt.NDArray[np.float64]:
        """How badly each track (T) foresaw each look (L), (T, L); infinite where it cannot be."""
        if not tracks or not looks:
            return np.zeros((len(tracks), len(looks)))
        foreseen = np.array([track.position for track in tracks])[:, None]
        translations = np.array([look.translation for look in looks])
        sideways = np.linalg.norm(foreseen[..., :2] - translations[:, :2], axis=-1) / self._extent_m
        depth = np.abs(foreseen[..., 2] - np.log(np.maximum(translations[:, 2], 1e-3)))
        shared = overlap(np.array([track.bounds for track in tracks]), _bounds(looks))
        hidden = np.array([not track.was_seen for track in tracks])[:, None]
        cost = 1 - shared + sideways + DEPTH_WEIGHT * depth + HIDDEN_COST * hidden
        hidden_s = np.array([self._now_s - track.seen_s for track in tracks])[:, None]
        return np.where(cost < MAX_COST + MAX_COST_PER_S * np.minimum(hidden_s, MAX_COST_HIDDEN_S), cost, np.inf)


def overlap(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Intersection over union, (A, B), of boxes (A, 4) and (B, 4): left, top, right, bottom, px."""
    shared, area_a, area_b = _shared(a, b), _areas(a), _areas(b)
    return shared / np.maximum(area_a[:, None] + area_b - shared, 1e-9)


def _shared(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    return np.asarray(sides, np.float64).clip(min=0).prod(axis=-1)


def _areas(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(boxes[:, 2:] - boxes[:, :2], np.float64).clip(min=0).prod(axis=-1)


def _bounds(looks: Sequence[Look | None]) -> npt.NDArray[np.float64]:
    return np.array([look.bounds for look in looks if look is not None]).reshape(-1, 4)


def _alike(looks: Sequence[Look]) -> npt.NDArray[np.bool_]:
    """Which looks (L, L) show one person."""
    bounds = _bounds(looks)
    alike = np.eye(len(looks), dtype=np.bool_)
    for one, other in np.argwhere(np.triu(overlap(bounds, bounds) > SAME_IOU, 1)).tolist():
        apart = np.linalg.norm(looks[one].joints_px - looks[other].joints_px, axis=1)
        side = (bounds[one, 2:] - bounds[one, :2]).max()
        alike[one, other] = alike[other, one] = float(np.nanmean(apart)) < SAME_JOINTS * side
    return alike


def _covered(looks: Sequence[Look], others: Sequence[Look]) -> list[bool]:
    """Of each of the looks, whether someone nearer, of them or of the others, stands before much of it."""
    everyone = [*looks, *others]
    depth, bounds = np.array([look.translation[2] for look in everyone]), _bounds(looks)
    part = _shared(bounds, _bounds(everyone)) / np.maximum(_areas(bounds), 1e-9)[:, None]
    nearer = depth < depth[: len(looks), None]
    return [bool(row.any()) for row in (part > COVERED) & nearer]
