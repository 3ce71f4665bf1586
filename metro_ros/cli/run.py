"""`metro-ros run`: people in an image, a folder, a video or a webcam, as pictures and JSON, without ROS."""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from metro_ros.cli.finding import followed, unrelated, with_cameras
from metro_ros.cli.sources import Frame, Source, open_source
from metro_ros.cli.statement import model_statement
from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.camera import NOMINAL_FOV_DEG, Camera
from metro_ros.core.detectors import open_detector
from metro_ros.core.draw import draw_people
from metro_ros.core.engines import EngineName, PrecisionWish, open_engine
from metro_ros.core.engines.measure import best_batch
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.estimator import Person
from metro_ros.core.mirror import mirror_bundle

RESULT_FILE, VIDEO_FILE = "people.json", "overlay.mp4"
SCHEMA = 1
DECIMALS = 5
"""Of metres and pixels in the JSON: a hundredth of a millimetre."""
MANY_IMAGES = 64
"""Fewer are done before it is measured how many at once are fastest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `metro-ros run`."""
    parser.add_argument("source", help="image, folder of images, video file, /dev/videoN, or labelled clip")
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="folder or built-in name (default)")
    parser.add_argument("--mirror", action="store_true", help="find left hands with a right-hand model")
    parser.add_argument("--output", type=Path, default=Path("metro_output"), help="folder to write to (%(default)s)")
    parser.add_argument("--engine", choices=get_args(EngineName), default="auto", help="(%(default)s: the fastest)")
    parser.add_argument("--precision", choices=get_args(PrecisionWish), default="fp32", help="(%(default)s)")
    parser.add_argument(
        "--detector", default="auto", help="who finds people: auto (the bundle's own finder), none, or an ONNX file"
    )
    parser.add_argument("--sequence", action="store_true", help="the images of a folder follow each other in time")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--calibration", type=Path, metavar="YAML", help="by ROS's camera_calibration")
    camera.add_argument("--fov", type=float, metavar="DEG", help=f"field of view (default: {NOMINAL_FOV_DEG:.0f})")


def run(arguments: argparse.Namespace) -> int:
    """Find people, write overlay and JSON, and say what was found and how far to trust it."""
    if arguments.fov is not None and not 1 <= arguments.fov <= 170:
        raise ConfigError("--fov", expected="1 to 170 degrees", got=arguments.fov)
    calibration = Camera.from_calibration(arguments.calibration) if arguments.calibration else None
    source = open_source(arguments.source)
    bundle = load_bundle(arguments.bundle)
    if arguments.mirror:
        bundle = mirror_bundle(bundle)
    interrupted = False
    alone = source.kind == "image" or (source.kind == "folder" and not arguments.sequence)
    with ExitStack() as stack:
        detector = open_detector(arguments.detector, bundle, hurried=not alone)
        if detector is not None:
            stack.callback(detector.close)
        engine = open_engine(bundle, arguments.engine, arguments.precision)
        stack.callback(engine.close)
        writer = stack.enter_context(Results(arguments.output, source, bundle))
        progress = stack.enter_context(tqdm(total=source.count, unit=" frames", disable=source.kind == "image"))
        try:
            views = with_cameras(source, calibration, arguments.fov)
            if alone:
                many = source.count is not None and source.count >= MANY_IMAGES
                found = unrelated(views, bundle, engine, best_batch(engine, bundle) if many else 1, detector)
            else:
                found = followed(views, bundle, engine, detector)
            for (frame, camera), people in found:
                writer.add(frame, people, camera)
                if writer.pictures:
                    tqdm.write(found_text(frame.name, people))
                progress.update()
        except KeyboardInterrupt:
            interrupted = True
    _report(writer, source, bundle, interrupted)
    return 0 if not interrupted or source.kind == "device" else 130


class Results:
    """Writes people.json frame by frame, and the overlays; what was added before an interruption stays readable."""

    def __init__(self, directory: Path, source: Source, bundle: Bundle) -> None:
        """Raises SourceError when nothing can be written to `directory`."""
        self.frames = 0
        self.frames_with_people = 0
        self.ids: set[int] = set()
        self.overlays: list[Path] = []
        self.pictures = source.kind in ("image", "folder")
        self.result = directory / RESULT_FILE
        self._directory = directory
        self._source = source
        self._bundle = bundle
        self._video: cv2.VideoWriter | None = None
        self._video_size = (0, 0)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = self.result.open("w", encoding="utf-8")
        except OSError as error:
            raise SourceError(f"cannot write to {directory}", got=error.strerror or error) from error
        head = {
            "schema": SCHEMA,
            "source": str(source.path),
            "model": bundle.manifest.name,
            "mirrored": bundle.mirrored,
            "units": "metres and pixels",
            "axes": "camera: x right, y down, z forward",
            "joint_names": list(bundle.skeleton.names),
            "joint_parents": list(bundle.skeleton.parents),
        }
        self._file.write(json.dumps(head, indent=1)[:-2] + ',\n "frames": [')

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.write("\n ]\n}\n")
        self._file.close()
        if self._video is not None:
            self._video.release()

    def add(self, frame: Frame, people: list[Person], camera: Camera) -> None:
        """Write one frame. Raises SourceError when the picture cannot be written."""
        level = len(self._bundle.levels) - 1 if self.pictures else len(self._bundle.levels) // 2
        overlay = draw_people(
            frame.image, people, camera, self._bundle.faces[level], self._bundle.skeleton, self._bundle.rows[level]
        )
        self._write_picture(frame, overlay)
        entry = {
            "index": frame.number,
            "stamp": round(frame.stamp_s, 6),
            "name": frame.name,
            "camera": _camera_fields(camera),
            "people": [_person_fields(person) for person in people],
        }
        self._file.write((",\n  " if self.frames else "\n  ") + json.dumps(entry))
        self.frames += 1
        self.frames_with_people += bool(people)
        self.ids |= {person.id for person in people}

    def _write_picture(self, frame: Frame, overlay: npt.NDArray[np.uint8]) -> None:
        if self.pictures:
            name = Path(frame.name)
            path = self._directory / f"{name.stem}_overlay{name.suffix}"
            try:
                written = cv2.imwrite(str(path), overlay)
            except cv2.error:
                written = False
            if not written:
                raise SourceError(f"cannot write {path}", expected="a folder with room, and an image type to write")
            self.overlays.append(path)
            return
        path = self._directory / VIDEO_FILE
        size = overlay.shape[1::-1]
        if self._video is None:
            self._video = open_video(path, self._source.fps, size)
            self._video_size = size
            self.overlays.append(path)
        if size != self._video_size:
            overlay = np.asarray(cv2.resize(overlay, self._video_size), np.uint8)
        self._video.write(overlay)


def open_video(path: Path, fps: float, size: Sequence[int]) -> cv2.VideoWriter:
    """An MP4 to write BGR images of `size` (width, height) to. Raises SourceError when that cannot be."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (int(size[0]), int(size[1])))
    if not video.isOpened():
        raise SourceError(f"cannot write {path}", expected="a folder with room, and an OpenCV that encodes MP4")
    return video


def _camera_fields(camera: Camera) -> dict[str, Any]:
    return {
        "width": camera.width,
        "height": camera.height,
        "matrix": camera.matrix.ravel().round(DECIMALS).tolist(),
        "distortion_model": camera.model,
        "distortion": camera.distortion.tolist(),
        "nominal": camera.nominal,
    }


def _person_fields(person: Person) -> dict[str, Any]:
    def rounded(values: npt.NDArray) -> list:
        return np.asarray(values, np.float64).round(DECIMALS).tolist()

    box = person.box
    corner = (round(box.cx - box.size / 2, 2), round(box.cy - box.size / 2, 2))
    return {
        "id": person.id,
        "score": round(float(person.score), 4),
        "box": {"x": corner[0], "y": corner[1], "width": round(box.size, 2), "height": round(box.size, 2)},
        "joints": rounded(person.joints),
        "joint_confidence": None if person.joint_confidence is None else rounded(person.joint_confidence),
        "translation": rounded(person.translation),
        "translation_source": person.translation_source,
    }


def found_text(name: str, people: list[Person]) -> str:
    """One line for the screen: what was found in the image called `name`, be it bodies or hands."""
    if not people:
        return f"{name}: nothing found"
    guess = " by an assumed field of view" if people[0].translation_source == "nominal" else ""
    count = f"{len(people)}: " if len(people) > 1 else ""
    nearest_first = sorted(people, key=lambda person: float(person.translation[2]))
    each = (f"{person.translation[2]:.2f} m away{guess}, score {person.score:.2f}" for person in nearest_first)
    return f"{name}: found {count}" + "; ".join(each)


def _report(writer: Results, source: Source, bundle: Bundle, interrupted: bool) -> None:
    """Say how much was found, where it lies, and what the model can and can't do."""
    if source.kind != "image":
        ending = " before the interruption" if interrupted else ""
        whom = f": {len(writer.ids)} of them" if len(writer.ids) > 1 and not writer.pictures else ""
        print(f"Found in {writer.frames_with_people} of {writer.frames} frames{whom}{ending}")
    more = f" and {len(writer.overlays) - 1} more" if len(writer.overlays) > 1 else ""
    if writer.overlays:
        print(f"Written: {writer.overlays[0]}{more}")
    print(f"Written: {writer.result}")
    for line in model_statement(bundle.manifest):
        print(line)
