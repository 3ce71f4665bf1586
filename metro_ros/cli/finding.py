"""People in the images of a source: followed from one to the next, or several unrelated images at once."""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from metro_ros.cli.sources import Frame, Source
from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.detect import Detector
from metro_ros.core.engines import Engine
from metro_ros.core.errors import CameraError, MetroError
from metro_ros.core.estimator import Estimator, Person, Request, estimate_together


class View(NamedTuple):
    """A frame and the camera that took it."""

    frame: Frame
    camera: Camera


def with_cameras(source: Source, calibration: Camera | None, fov_deg: float | None) -> Iterator[View]:
    """The frames with `calibration`, or a camera that sees `fov_deg`, or else the source's own or a nominal one.

    Raises SourceError for what cannot be read, CameraError for a calibration of another image size.
    """
    for frame in source.frames():
        height, width = frame.image.shape[:2]
        if calibration is not None:
            if (calibration.width, calibration.height) != (width, height):
                raise CameraError(
                    f"the calibration does not belong to {frame.name}",
                    expected=f"{width}x{height}",
                    got=f"{calibration.width}x{calibration.height}",
                    remedy="calibrate at this resolution, or leave --calibration out",
                )
            yield View(frame, calibration)
        elif fov_deg is not None:
            yield View(frame, Camera.nominal_for(width, height, fov_deg))
        else:
            yield View(frame, source.camera or Camera.nominal_for(width, height))


def followed(
    views: Iterable[View], bundle: Bundle, engine: Engine, detector: Detector | None = None
) -> Iterator[tuple[View, list[Person]]]:
    """People in images that follow each other in time. Raises MetroError, see `Estimator`."""
    estimator = Estimator(bundle, engine, detector=detector)
    for view in views:
        yield view, estimator(view.frame.image, view.camera, view.frame.stamp_s)


def unrelated(
    views: Iterable[View], bundle: Bundle, engine: Engine, together: int, detector: Detector | None = None
) -> Iterator[tuple[View, list[Person]]]:
    """People in images that have nothing to do with each other: as one by one, but `together` share engine calls.

    Raises MetroError where one by one would, see `Estimator`.
    """
    ids = itertools.count(1)
    for batch in _batches(views, together):
        estimators = (Estimator(bundle, engine, ids=ids, detector=detector) for _ in batch)
        requests = [
            Request(estimator, view.frame.image, view.camera) for estimator, view in zip(estimators, batch, strict=True)
        ]
        for view, people in zip(batch, estimate_together(requests, together), strict=True):
            if isinstance(people, Exception):
                raise people
            yield view, people


def _batches(views: Iterable[View], size: int) -> Iterator[list[View]]:
    """So many at a time; when one cannot be read, those before it still come."""
    batch: list[View] = []
    try:
        for view in views:
            batch.append(view)
            if len(batch) == size:
                yield batch
                batch = []
    except MetroError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
