"""Everyone in a stream of images: detections and tracks, one batch of looks, tracks."""

import math

import numpy as np
import numpy.typing as npt

from metro_ros.core.batching import Steps
from metro_ros.core.camera import Camera
from metro_ros.core.crop import box_around
from metro_ros.core.detect import Detections, Detector
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.look import Look, Sight, is_nobody, is_visible, possible_box
from metro_ros.core.track import Track
from metro_ros.core.tracking import Tracker

UNSTAMPED_PERIOD_S = 1 / 30
"""Time between images that do not say when they were taken."""


class Everyone:
    """Whom a stream of images shows.

    Whoever is followed takes one look, at the crop where it must be now; so does whoever is hidden, while that crop is
    in the image and no one else in it. The detector is asked only now and then, and when no one is followed, when
    someone has just been lost, or when someone new is not yet sure; only a detection that no one explains is looked at,
    twice if need be.
    """

    def __init__(self, sight: Sight, detector: Detector | None = None) -> None:
        self.detector = detector
        self._sight = sight
        self._tracker = Tracker(sight.bundle.extent_m)
        self.reset()

    def reset(self) -> None:
        """Forget everyone."""
        self._tracker.tracks.clear()
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
        crops = [possible_box(crop, image, config) for crop in tracker.crops(padding)]
        crops = [crop for crop in crops if is_visible(crop, image, config)]
        looks = yield from self._sight.look(image, camera, crops, config)
        tracker.match([look for look in looks if not is_nobody(look, image, config)], config)
        detections = self._detections(image, stamp, given, config)
        if detections is not None:
            yield from self._look_at_who_is_new(image, camera, detections, config)
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
        self, image: npt.NDArray[np.uint8], camera: Camera, detections: Detections, config: EstimatorConfig
    ) -> Steps[None]:
        """One look at each detection that no one explains, and one more where the mesh is not where the box was."""
        padding = self._sight.padding(config)
        unexplained = self._tracker.explain(detections, image.shape[1], image.shape[0])
        likely = sorted(unexplained, key=lambda index: -detections.scores[index])[: config.max_people]
        boxes = [possible_box(box_around(detections.boxes[index], padding), image, config) for index in likely]
        looks = yield from self._sight.look(image, camera, boxes, config)
        again = (
            [index for index, look in enumerate(looks) if look.change >= config.settled]
            if config.max_passes > 1
            else []
        )
        boxes = [possible_box(looks[index].box, image, config) for index in again]
        for index, look in zip(again, (yield from self._sight.look(image, camera, boxes, config)), strict=True):
            looks[index] = look
        people = [
            (look, index) for look, index in zip(looks, likely, strict=True) if not is_nobody(look, image, config)
        ]
        for number in self._tracker.match([look for look, _ in people], config, detected=True):
            look, index = people[number]
            self._tracker.add(look, float(detections.scores[index]), config)
