"""The estimator: an image and its camera in, people in metres out, one image after the other or several together."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.batching import Steps, run_together
from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box, check_image
from metro_ros.core.detect import Detections, Detector
from metro_ros.core.engines import Engine, open_engine
from metro_ros.core.errors import CameraError, ConfigError, ImageError
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.following import Everyone
from metro_ros.core.look import Look, Sight
from metro_ros.core.only_one import OnlyOne
from metro_ros.core.track import Track

TranslationSource = Literal["camera", "depth", "nominal"]

MIN_IMAGE_PX = 16
"""No person can be told in an image with a shorter side."""


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One person in one image.

    id: of the track, never given twice; score: 0..1; box: the padded square around the projected mesh, px; joints (J,
    3) and vertices (V, 3), the finest level: float32, metres, camera optical frame (x right, y down, z forward),
    absolute; translation (3,): float32, metres, where the root (a body's mid-hip, a hand's wrist) stands in the same
    frame; translation_source: `camera` by the calibration, `nominal` by an assumed one; joint_confidence: (J,) float32
    in 0..1 where the model has it, by the manifest's `confidence_mm` the probability that the joint is within so many
    millimetres of where it is said to be, both root-relative.
    """

    id: int
    score: float
    box: Box
    joints: npt.NDArray[np.float32]
    vertices: npt.NDArray[np.float32]
    translation: npt.NDArray[np.float32]
    translation_source: TranslationSource
    joint_confidence: npt.NDArray[np.float32] | None


class _Found(NamedTuple):
    """Who is in an image, not yet numbered."""

    people: Sequence[tuple[Track, Look]]
    camera: Camera


class Estimator:
    """People in a stream of images.

    With a detector, or once it was given detections, everyone is followed, see `Everyone`: the mesh of one image gives
    the crop of the next one, and detections are needed only to find who is new. Who is hidden is remembered for
    `max_lost_s`, and has its id back when it appears near where it must be.

    Without, one person is, see `OnlyOne`, who gets a new id whenever lost and found again.

    Everything starts over when the image size changes or the time stamp jumps back.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine | None = None,
        config: EstimatorConfig | None = None,
        ids: Iterator[int] | None = None,
        detector: Detector | None = None,
    ) -> None:
        """engine: None opens the fastest one (see `open_engine`, whose errors it raises).

        ids: of new people; estimators that share one never give the same id. detector: stays the caller's to close.
        """
        self.bundle = bundle
        self.engine = engine if engine is not None else open_engine(bundle)
        self.config = config if config is not None else EstimatorConfig()
        sight = Sight(bundle)
        self._everyone, self._one = Everyone(sight, detector), OnlyOne(sight)
        self._is_detected = detector is not None
        self._ids = ids if ids is not None else itertools.count(1)
        self.reset()

    def reset(self) -> None:
        """Forget whom it follows. Ids go on counting."""
        self._everyone.reset()
        self._one.reset()
        self._image_size: tuple[int, int] | None = None
        self._stamp: float | None = None

    def __call__(
        self,
        image: npt.NDArray[np.uint8],
        camera: Camera | None = None,
        stamp: float | None = None,
        detections: Detections | None = None,
    ) -> list[Person]:
        """People in `image`, uint8 (H, W, 3) BGR; none found is an empty list.

        camera: of this image size; None assumes `Camera.nominal_for` it. stamp: seconds, to know how long someone was
        hidden, and to notice a clock that jumps back. detections: in this image, in the place of the detector's; None:
        there are none of this image, which is not the same as nobody in it. Raises ImageError for an image of another
        type or too small, CameraError for a camera of another image size, EngineError when the network or the detector
        fails; it can be called with the next image after any of them.
        """
        (people,) = estimate_together([Request(self, image, camera, stamp, detections)])
        if isinstance(people, Exception):
            raise people
        return people

    def _steps(
        self,
        image: npt.NDArray[np.uint8],
        camera: Camera | None,
        stamp: float | None,
        detections: Detections | None,
    ) -> Steps[_Found]:
        """Find who is in the image; it pauses wherever the network is asked."""
        camera = self._admit(image, camera, stamp)
        self._is_detected |= detections is not None  # from now on: between two of them no one else is searched
        try:
            if self._is_detected:
                people = yield from self._everyone.steps(image, camera, stamp, detections, self.config)
            else:
                people = yield from self._one.steps(image, camera, stamp, self.config)
        except Exception:
            self._one.reset()
            self._everyone.reset()
            raise
        return _Found(people, camera)

    def _admit(self, image: npt.NDArray[np.uint8], camera: Camera | None, stamp: float | None) -> Camera:
        """Check what comes in, start over where the stream did, and fill in the nominal camera."""
        check_image(image)
        height, width = image.shape[:2]
        if min(width, height) < MIN_IMAGE_PX:
            raise ImageError("the image is too small", expected=f"{MIN_IMAGE_PX} px a side", got=f"{width}x{height}")
        if camera is None:
            camera = Camera.nominal_for(width, height)
        elif (camera.width, camera.height) != (width, height):
            raise CameraError(
                "the calibration belongs to another image size",
                expected=f"{width}x{height}, as the image",
                got=f"{camera.width}x{camera.height}",
                remedy="calibrate at this resolution, or publish camera_info that is scaled with the image",
            )
        turned_back = stamp is not None and self._stamp is not None and stamp < self._stamp
        if turned_back or self._image_size not in (None, (width, height)):
            self.reset()
        self._image_size, self._stamp = (width, height), stamp
        return camera

    def _number(self, found: _Found) -> list[Person]:
        """Give everyone an id who has none."""
        people = []
        for track, look in found.people:
            if not track.id:
                track.id = next(self._ids)
            people.append(_person(track.id, look, found.camera))
        return people


class Request(NamedTuple):
    """One image for one estimator; see `Estimator.__call__`."""

    estimator: Estimator
    image: npt.NDArray[np.uint8]
    camera: Camera | None = None
    stamp: float | None = None
    detections: Detections | None = None


def estimate_together(requests: Sequence[Request], max_batch: int = 16) -> list[list[Person] | Exception]:
    """People in several images, each by an estimator of its own, in shared calls of their one engine.

    The result is that of calling one estimator after the other, but that an exception is returned in the place of its
    answer, so that one image costs the others nothing. max_batch: crops in one call, at most. Raises ConfigError when
    an estimator comes twice, or when their engines differ.
    """
    found = dict(_run(requests, max_batch))
    return [_tracked(request, found[index]) for index, request in enumerate(requests)]


def estimate_as_completed(
    requests: Sequence[Request], max_batch: int = 16
) -> Iterator[tuple[int, list[Person] | Exception]]:
    """As `estimate_together`, but yields (index of the request, answer) as soon as each is done.

    Who is followed takes one look, who is searched takes several: the first need not wait for the second.
    """
    for index, found in _run(requests, max_batch):
        yield index, _tracked(requests[index], found)


def _run(requests: Sequence[Request], max_batch: int) -> Iterator[tuple[int, _Found | Exception]]:
    if not requests:
        return
    first = requests[0].estimator
    if any(request.estimator.engine is not first.engine for request in requests):
        raise ConfigError("images that are estimated together", expected="estimators with one engine", got="several")
    if len({id(request.estimator) for request in requests}) < len(requests):
        raise ConfigError("images that are estimated together", expected="an estimator each", got="one for several")
    if max_batch < 1:
        raise ConfigError("max_batch", expected="1 or more", got=max_batch)
    steps = [request.estimator._steps(*request[1:]) for request in requests]
    yield from run_together(steps, first.engine, first.bundle.manifest.crop.size, max_batch)


def _tracked(request: Request, found: _Found | Exception) -> list[Person] | Exception:
    return found if isinstance(found, Exception) else request.estimator._number(found)


def _person(person_id: int, look: Look, camera: Camera) -> Person:
    translation = look.translation.astype(np.float32)
    return Person(
        id=person_id,
        score=look.body.score,
        box=look.box,
        joints=look.body.joints + translation,
        vertices=look.body.vertices + translation,
        translation=translation,
        translation_source="nominal" if camera.nominal else "camera",
        joint_confidence=look.body.confidence,
    )
