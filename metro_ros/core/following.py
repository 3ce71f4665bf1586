"""Everyone in a stream of images: detections and tracks, one batch of looks, tracks."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from metro_ros.core.batching import Steps
from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box, box_around
from metro_ros.core.detect import Detections, Detector
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.look import Look, Sight, is_visible, possible_box
from metro_ros.core.track import Track
from metro_ros.core.tracking import Tracker

UNSTAMPED_PERIOD_S = 1 / 30
"""Time between images that do not say when they were taken."""
SCALES = (1.0, 0.75, 1.33)
"""Sides of the crops around a new detection, in its own: detectors know roughly how large someone is. All of them where
no other image follows; in a stream, one each time the detector is asked, in turn."""
SURE = 1.75
"""Confidence that leaves no doubt that somebody is there, in the model's least."""
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
        crops = [
            row for row in tracker.crops(padding) if is_visible(possible_box(row[0], image, config), image, config)
        ]
        rows = yield from self._rows(image, camera, crops, config)
        looks = [self._sight.surest(row, image, config) for row in rows]
        tracker.match([look for look in looks if not self._sight.is_nobody(look, image, config, followed=True)], config)
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

        alone: no other image follows, which could show more. Then, rather than nobody, it looks on from every crop.
        """
        sight, padding = self._sight, self._sight.padding(config)
        unexplained = self._tracker.explain(detections, image.shape[1], image.shape[0])
        likely = sorted(unexplained, key=lambda index: -detections.scores[index])[: config.max_people]
        several = sight.knows and config.max_passes > 1
        scales = SCALES if alone else (next(self._scales),)
        guesses = [_crops(detections, index, padding, scales if several else ()) for index in likely]
        rows = yield from self._rows(image, camera, guesses, config)
        looks = [sight.surest(row, image, config) for row in rows]
        again = [index for index, look in enumerate(looks) if look.change >= config.settled and config.max_passes > 1]
        more = yield from self._rows(image, camera, [[looks[index].box] for index in again], config)
        for index, row in zip(again, more, strict=True):
            looks[index] = sight.surest([looks[index], *row], image, config)
        if alone and several and all(sight.is_nobody(look, image, config) for look in looks):
            more = yield from self._rows(image, camera, [[look.box for look in row] for row in rows], config)
            looks = [sight.surest([*row, *after], image, config) for row, after in zip(rows, more, strict=True)]
        people = [(look, index) for look, index in zip(looks, likely, strict=True)]
        people = [person for person in people if not sight.is_nobody(person[0], image, config)]
        new = self._tracker.match([look for look, _ in people], config, detected=True)
        for look, index in sorted((people[number] for number in new), key=lambda person: -person[0].body.sure):
            self._tracker.add(look, float(detections.scores[index]), config)

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
