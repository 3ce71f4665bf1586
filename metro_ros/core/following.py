"""Everyone in a stream of images: detections and tracks, one batch of looks, tracks."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from metro_ros.core.batching import Steps
from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box, box_around
from metro_ros.core.detect import Detections, Detector
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.look import LIKELY, Look, Sight, is_visible, possible_box
from metro_ros.core.track import Track
from metro_ros.core.tracking import Tracker

UNSTAMPED_PERIOD_S = 1 / 30
"""Time between images that do not say when they were taken."""
SCALES = (1.0, 0.75, 1.33)
"""Sides of the crops around a new detection, in its own: detectors know roughly how large someone is. All of them where
no other image follows; in a stream, one each time the detector is asked, in turn."""
SURE = 1.75
"""Confidence that leaves no doubt that somebody is there, in the model's least."""
STICK, LEAST_COVERED = 0.3, 0.5
"""On a thing an unsure mesh is a stick: narrower than this, in its length, and within its bounds is less than this part
of a box that one network alone detected."""
CUT = 0.03
"""Of a box's longer side: who ends so near to the image's edge is taken to go on beyond it."""
HEAD = "Head"
"""The joint that no two people share."""


class Everyone:
    """Whom a stream of images shows.

    Whoever is followed takes one look, at the crop where it must be now; so does whoever is hidden, while that crop is
    in the image and no one else in it. The detector is asked only now and then, and when no one is followed, when
    someone has just been lost, or when someone new is not yet sure; only a detection that no one explains is looked at,
    in several crops where the model knows which of them shows most, and once more if need be.
    """

    def __init__(self, sight: Sight, detector: Detector | None = None) -> None:
        self.detector = detector
        self._sight = sight
        names = sight.bundle.skeleton.names
        self._tracker = Tracker(sight.bundle.extent_m, names.index(HEAD) if HEAD in names else None)
        self.reset()

    def reset(self) -> None:
        """Forget everyone."""
        self._tracker.tracks.clear()
        self._scales = itertools.cycle(SCALES)
        self._now_s = -math.inf
        self._detected_s = -math.inf

    def steps(
        self,
        image: npt.NDArray[np.uint8],
        camera: Camera,
        stamp: float | None,
        given: Detections | None,
        config: EstimatorConfig,
    ) -> Steps[list[tuple[Track, Look]]]:
        """Whom the image shows, the longest known first; it pauses wherever the network is asked.

        given: detections in this image, in the place of the detector's. Raises EngineError when the detector fails.
        """
        self._begin(stamp)
        tracker, padding = self._tracker, self._sight.padding(config)
        tracker.sure = SURE * self._sight.least_confidence(config) or math.inf
        followed = [
            (track, row)
            for track, row in tracker.crops(padding)
            if is_visible(possible_box(row[0], image, config), image, config)
        ]
        rows = yield from self._rows(image, camera, [row for _, row in followed], config)
        looks = []
        for (track, _), row in zip(followed, rows, strict=True):
            look = self._sight.surest(row, image, config, track.proof)
            if not self._sight.is_nobody(look, image, config, followed=True, proof=track.proof):
                looks.append(look)
        tracker.match(looks, config)
        detections = self._detections(image, stamp, given, config)
        if detections is not None:
            yield from self._look_at_who_is_new(image, camera, detections, config, alone=stamp is None)
        return [(track, track.look) for track in tracker.end(config, detections is not None) if track.look is not None]

    def _begin(self, stamp: float | None) -> None:
        now_s = stamp if stamp is not None else max(self._now_s, 0.0) + UNSTAMPED_PERIOD_S
        if now_s < self._now_s:  # stamps came back, and are of another clock than the images before had
            self.reset()
        self._now_s = now_s
        self._tracker.begin(now_s)

    def _detections(
        self, image: npt.NDArray[np.uint8], stamp: float | None, given: Detections | None, config: EstimatorConfig
    ) -> Detections | None:
        """Those given, those of the detector if it is time to ask it, or none at all."""
        if given is not None or self.detector is None:
            return given
        tracker = self._tracker
        due = stamp is None or self._now_s - self._detected_s >= config.detect_period_s
        if not (due or not tracker.seen() or tracker.someone_just_vanished() or tracker.someone_is_unsure()):
            return None
        self._detected_s = self._now_s
        return self.detector.detect(image)

    def _look_at_who_is_new(
        self,
        image: npt.NDArray[np.uint8],
        camera: Camera,
        detections: Detections,
        config: EstimatorConfig,
        alone: bool,
    ) -> Steps[None]:
        """The surest look at each detection that no one explains, and one more where the mesh is not where that was.

        alone: no other image follows, which could show more. Then meshes are to fit the boxes, and rather than nobody,
        it looks on from every crop.
        """
        sight, padding = self._sight, self._sight.padding(config)
        evidence = detections.scores  # see Sight.is_nobody, proof
        if not alone:  # who is seen whole can be seen better by and by
            evidence = np.where(_cut(detections.boxes, image), evidence, evidence.clip(max=LIKELY))
        unexplained = self._tracker.explain(detections, evidence, image.shape[1], image.shape[0])
        likely = sorted(unexplained, key=lambda index: -detections.scores[index])[: config.max_people]
        several = sight.knows and config.max_passes > 1
        scales = SCALES if alone else (next(self._scales),)
        guesses = [_crops(detections, index, padding, scales if several else ()) for index in likely]
        rows = yield from self._rows(image, camera, guesses, config)
        proofs = [float(evidence[index]) for index in likely]
        boxes = [detections.boxes[index] if alone else None for index in likely]

        def surest(rows: Iterable[Sequence[Look]]) -> list[Look]:
            each = zip(rows, proofs, boxes, strict=True)
            return [sight.surest(row, image, config, proof, box) for row, proof, box in each]

        looks = surest(rows)
        again = [index for index, look in enumerate(looks) if look.change >= config.settled and config.max_passes > 1]
        more = yield from self._rows(image, camera, [[looks[index].box] for index in again], config)
        twice = dict(zip(again, more, strict=True))
        looks = surest([[look, *twice.get(index, ())] for index, look in enumerate(looks)])
        people = self._people(looks, proofs, detections, likely, image, config)
        if alone and several and not any(people):
            more = yield from self._rows(image, camera, [[look.box for look in row] for row in rows], config)
            looks = surest([*row, *after] for row, after in zip(rows, more, strict=True))
            people = self._people(looks, proofs, detections, likely, image, config)
        somebody = [number for number, is_somebody in enumerate(people) if is_somebody]
        new = self._tracker.match([looks[number] for number in somebody], config, detected=True)
        for number in sorted((somebody[index] for index in new), key=lambda number: -looks[number].body.sure):
            score = float(detections.scores[likely[number]])
            self._tracker.add(looks[number], score, config, proofs[number])

    def _people(
        self,
        looks: Sequence[Look],
        proofs: Sequence[float],
        detections: Detections,
        rows: Sequence[int],
        image: npt.NDArray[np.uint8],
        config: EstimatorConfig,
    ) -> list[bool]:
        """Which looks show somebody. proofs: see Sight.is_nobody; rows: of the detections that led to them."""
        sure = SURE * self._sight.least_confidence(config)
        sticks = _narrow(looks) & (_within(detections.boxes[rows], looks, image) < LEAST_COVERED)
        if detections.wholes is not None:  # another network saw whom it tells the whole of
            sticks &= ~np.isfinite(detections.wholes[rows]).all(axis=1)
        return [
            not self._sight.is_nobody(look, image, config, proof=proof) and (look.body.sure >= sure or not stick)
            for look, proof, stick in zip(looks, proofs, sticks, strict=True)
        ]

    def _rows(
        self,
        image: npt.NDArray[np.uint8],
        camera: Camera,
        crops: Sequence[Sequence[Box]],
        config: EstimatorConfig,
    ) -> Steps[list[list[Look]]]:
        """Looks at rows of crops, each brought to a possible size; one pause for all of them."""
        boxes = [possible_box(crop, image, config) for row in crops for crop in row]
        looks = iter((yield from self._sight.look(image, camera, boxes, config)))
        return [list(itertools.islice(looks, len(row))) for row in crops]


def _crops(detections: Detections, index: int, padding: float, scales: Sequence[float]) -> list[Box]:
    """Those that may show who was detected; the likeliest alone without `scales`."""
    box = box_around(detections.boxes[index], padding)
    if not scales:
        return [box]
    boxes = [box]
    if detections.wholes is not None and np.isfinite(detections.wholes[index]).all():
        boxes.append(box_around(detections.wholes[index], padding))
    return [Box(box.cx, box.cy, scale * box.size) for box in boxes for scale in scales]


def _narrow(looks: Sequence[Look]) -> npt.NDArray[np.bool_]:
    """(N,), of which looks the mesh is as narrow as a stick in the image."""
    bounds = np.array([look.bounds for look in looks]).reshape(-1, 4)
    sides = bounds[:, 2:] - bounds[:, :2]
    return np.asarray(sides.min(axis=1) < STICK * sides.max(axis=1), np.bool_)


def _within(
    boxes: npt.NDArray[np.float32], looks: Sequence[Look], image: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """(N,), the part of what boxes (N, 4) show of the image that lies within the bounds of their meshes."""
    edges = np.array((image.shape[1], image.shape[0]) * 2) - 0.5
    boxes = boxes.clip(-0.5, edges)
    bounds = np.array([look.bounds for look in looks]).reshape(-1, 4)
    shared = np.minimum(boxes[:, 2:], bounds[:, 2:]) - np.maximum(boxes[:, :2], bounds[:, :2])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(shared.clip(min=0).prod(axis=1) / areas.clip(min=1e-9), np.float64)


def _cut(boxes: npt.NDArray[np.float32], image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of boxes (N, 4) end where the image ends: of whom less may be seen than a mesh needs."""
    margin = CUT * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    edges = np.array((image.shape[1], image.shape[0])) - 0.5
    room = np.concatenate([boxes[:, :2] + 0.5, edges - boxes[:, 2:]], axis=1)
    return np.asarray((room < margin[:, None]).any(axis=1), np.bool_)
