"""The estimator: an image and its camera in, people in metres out, one image after the other or several together."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.batching import Steps, View, run_together
from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera, solve_translation, weak_perspective_px
from metro_ros.core.config import check_settings, setting
from metro_ros.core.crop import Box, box_from_points, check_image, whole_image_box
from metro_ros.core.engines import Engine, Output, open_engine
from metro_ros.core.errors import CameraError, ConfigError, ImageError
from metro_ros.core.mirror import mirror_output

TranslationSource = Literal["camera", "depth", "nominal"]

MIN_IMAGE_PX = 16
"""No person can be told in an image with a shorter side."""
MIN_EXTENT = 0.02
"""Smallest part of the crop's side that the template fills under a weak-perspective scale that is believed."""
PLACEMENT_POINTS = 64
"""Placement takes the coarsest level with at least as many vertices: 0.3 ms, and no better with more."""
OUTLINE_POINTS = 1000
"""The outline, which gives the next box, takes the coarsest level with at least as many vertices."""


@dataclass(frozen=True, slots=True)
class EstimatorConfig:
    """How a person is found, followed and lost."""

    max_passes: int = setting(3, "most looks at a new person, from the whole image inwards", 1, 10)
    settled: float = setting(
        0.05, "a box that moved and grew by less than this fraction of its side is settled", 0.0, 1.0
    )
    min_score: float = setting(0.3, "mean joint visibility under which a person is lost", 0.0, 1.0)
    min_visible: float = setting(0.2, "part of the box, or of the image if smaller, that both must share", 0.0, 1.0)
    min_box_px: float = setting(16.0, "smallest side of a person's box, pixels", 2.0)
    max_box_ratio: float = setting(4.0, "largest side of a person's box, in larger sides of the image", 1.0)
    box_smoothing: float = setting(0.0, "part of the previous box in the next one; poses are never smoothed", 0.0, 0.95)
    padding: float | None = setting(
        None, "side of the box over the extent of the person; the model's own if unset", 1.0, 4.0
    )

    def __post_init__(self) -> None:
        check_settings(self)


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


class Body(NamedTuple):
    """A decoded answer of the network: root-relative, metres, float32, axes of the camera."""

    joints: npt.NDArray[np.float32]
    """(J, 3)"""
    vertices: npt.NDArray[np.float32]
    """(V, 3)"""
    anchors: npt.NDArray[np.float32]
    """(M, 3), the vertices that placement takes"""
    anchors_px: npt.NDArray[np.floating]
    """(M, 2), where the network sees them in the image"""
    confidence: npt.NDArray[np.float32] | None
    """(J,)"""
    score: float
    """Mean joint visibility, else mean confidence, 1 without; 0 when the weak-perspective scale is impossible"""


class _Look(NamedTuple):
    """What one look at one crop gave: the person without an id, and the box around it."""

    body: Body
    translation: npt.NDArray[np.float64]
    box: Box


class _Found(NamedTuple):
    """Who is in an image, not yet numbered."""

    looks: Sequence[_Look]
    followed: bool
    """Whether it is whom the image before showed"""
    camera: Camera


class Estimator:
    """People in a stream of images; one person for now.

    The first crop is the whole image. It is re-centred on the projected mesh until it settles, then follows the mesh
    from image to image with one look each. The person is lost when the score falls under `min_score`, when the box
    leaves the image, or when its size is impossible; then the search starts over in the same image, and whoever it
    finds gets a new id. It also starts over when the image size changes or the time stamp jumps back.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine | None = None,
        config: EstimatorConfig | None = None,
        ids: Iterator[int] | None = None,
    ) -> None:
        """engine: None opens the fastest one (see `open_engine`, whose errors it raises).

        ids: of new people; estimators that share one never give the same id.
        """
        self.bundle = bundle
        self.engine = engine if engine is not None else open_engine(bundle)
        self.config = config if config is not None else EstimatorConfig()
        self._anchor_rows = _level_rows(bundle, PLACEMENT_POINTS)
        self._outline_rows = _level_rows(bundle, OUTLINE_POINTS)
        self._ids = ids if ids is not None else itertools.count(1)
        self._id = 0
        self.reset()

    def reset(self) -> None:
        """Forget whom it follows. Ids go on counting."""
        self._box: Box | None = None
        self._image_size: tuple[int, int] | None = None
        self._stamp: float | None = None

    def __call__(
        self, image: npt.NDArray[np.uint8], camera: Camera | None = None, stamp: float | None = None
    ) -> list[Person]:
        """People in `image`, uint8 (H, W, 3) BGR; none found is an empty list.

        camera: of this image size; None assumes `Camera.nominal_for` it. stamp: seconds, to notice a clock that jumps
        back. Raises ImageError for an image of another type or too small, CameraError for a camera of another image
        size, EngineError when the network fails; it can be called with the next image after any of them.
        """
        (people,) = estimate_together([Request(self, image, camera, stamp)])
        if isinstance(people, Exception):
            raise people
        return people

    def _steps(self, image: npt.NDArray[np.uint8], camera: Camera | None, stamp: float | None) -> Steps[_Found]:
        """Find who is in the image; it pauses wherever the network is asked."""
        camera = self._admit(image, camera, stamp)
        try:
            if self._box is not None:
                (look,) = yield from self._look(image, camera, [self._box])
                if not self._is_lost(look, image):
                    return _Found([look], True, camera)
            look = yield from self._search(image, camera)
        except Exception:
            self._box = None
            raise
        self._box = None
        return _Found([] if self._is_lost(look, image) else [look], False, camera)

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

    def _search(self, image: npt.NDArray[np.uint8], camera: Camera) -> Steps[_Look]:
        """From the whole image inwards until the box settles on the person that the network sees."""
        height, width = image.shape[:2]
        box = whole_image_box(width, height)
        for _ in range(self.config.max_passes):
            (look,) = yield from self._look(image, camera, [box])
            if _change(box, look.box) < self.config.settled:
                break
            box = self._bounded(look.box, image)
        return look

    def _look(self, image: npt.NDArray[np.uint8], camera: Camera, boxes: Sequence[Box]) -> Steps[list[_Look]]:
        """One pass of the paper for each box: crop, infer, decode, place."""
        output = yield [View(image, box, self.bundle.mirrored) for box in boxes]
        if self.bundle.mirrored:
            output = mirror_output(output)
        bodies = [decode(output, index, box, camera, self.bundle, self._anchor_rows) for index, box in enumerate(boxes)]
        return [self._place(body, camera) for body in bodies]

    def _place(self, body: Body, camera: Camera) -> _Look:
        translation = solve_translation(body.anchors, body.anchors_px, camera)
        outline_px = camera.project(body.vertices[self._outline_rows] + translation)
        padding = self.config.padding or self.bundle.manifest.crop.padding
        return _Look(body, translation, box_from_points(outline_px, padding))

    def _is_lost(self, look: _Look, image: npt.NDArray[np.uint8]) -> bool:
        height, width = image.shape[:2]
        return (
            look.body.score < self.config.min_score
            or look.body.score <= 0
            or _visible(look.box, width, height) < self.config.min_visible
            or self._bounded(look.box, image) is not look.box
        )

    def _bounded(self, box: Box, image: npt.NDArray[np.uint8]) -> Box:
        """The box itself if its size is possible, else one with the nearest possible size."""
        largest = self.config.max_box_ratio * max(image.shape[:2])
        size = min(max(box.size, self.config.min_box_px), largest)
        return box if size == box.size else Box(box.cx, box.cy, size)

    def _track(self, found: _Found) -> list[Person]:
        """Give everyone an id, and keep the box for the next image."""
        if found.looks and not found.followed:
            self._id = next(self._ids)
        return [self._person(look, found.camera) for look in found.looks]

    def _person(self, look: _Look, camera: Camera) -> Person:
        keep = self.config.box_smoothing
        before = self._box if self._box is not None else look.box
        self._box = Box(
            cx=keep * before.cx + (1 - keep) * look.box.cx,
            cy=keep * before.cy + (1 - keep) * look.box.cy,
            size=keep * before.size + (1 - keep) * look.box.size,
        )
        translation = look.translation.astype(np.float32)
        return Person(
            id=self._id,
            score=look.body.score,
            box=look.box,
            joints=look.body.joints + translation,
            vertices=look.body.vertices + translation,
            translation=translation,
            translation_source="nominal" if camera.nominal else "camera",
            joint_confidence=look.body.confidence,
        )


class Request(NamedTuple):
    """One image for one estimator; see `Estimator.__call__`."""

    estimator: Estimator
    image: npt.NDArray[np.uint8]
    camera: Camera | None = None
    stamp: float | None = None


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
    return found if isinstance(found, Exception) else request.estimator._track(found)


def decode(
    output: Output, index: int, box: Box, camera: Camera, bundle: Bundle, anchor_rows: npt.NDArray[np.int32]
) -> Body:
    """Turn answer `index` of the network into the camera's axes, and find its anchors in the image.

    box: of the crop that was asked about; anchor_rows: (M,) rows of the vertices that placement takes.
    """
    joints, vertices, weak_camera = output.joints[index], output.vertices[index], output.camera[index]
    confidence = None if output.confidence is None else output.confidence[index].clip(0, 1)
    seen = confidence if output.visibility is None else output.visibility[index].clip(0, 1)
    score = 1.0 if seen is None else float(seen.mean())
    min_scale = 2 * MIN_EXTENT / bundle.extent_m
    if weak_camera[0] < min_scale:  # nothing in the network keeps the scale positive
        weak_camera, score = np.array((min_scale, *weak_camera[1:])), 0.0
    anchors = vertices[anchor_rows]
    anchors_px = weak_perspective_px(anchors, weak_camera, box)
    if bundle.manifest.camera_frame == "crop_ray":
        camera_from_ray = camera.ray_rotation((box.cx, box.cy)).astype(np.float32)
        joints, vertices, anchors = (points @ camera_from_ray.T for points in (joints, vertices, anchors))
    return Body(joints, vertices, anchors, anchors_px, confidence, score)


def _level_rows(bundle: Bundle, at_least: int) -> npt.NDArray[np.int32]:
    """Rows of the coarsest level with at least so many vertices, or of the finest."""
    return next((rows for rows in bundle.rows if len(rows) >= at_least), bundle.rows[-1])


def _change(before: Box, after: Box) -> float:
    """How far the box moved or grew, as a fraction of its side."""
    moved = math.hypot(after.cx - before.cx, after.cy - before.cy) / before.size
    return max(moved, abs(math.log(after.size / before.size)))


def _visible(box: Box, width: int, height: int) -> float:
    """Area that the box shares with the image, as a part of the smaller of both."""
    half = box.size / 2
    shared_x = min(box.cx + half, width - 0.5) - max(box.cx - half, -0.5)
    shared_y = min(box.cy + half, height - 0.5) - max(box.cy - half, -0.5)
    return max(shared_x, 0) * max(shared_y, 0) / min(box.size**2, width * height)
