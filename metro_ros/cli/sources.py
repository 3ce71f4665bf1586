"""Where images come from: a file, a folder, a video, a webcam, or a labelled clip."""

import math
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.camera import Camera
from metro_ros.core.clip import TRUTH_FILE, load_clip
from metro_ros.core.errors import SourceError

Image = npt.NDArray[np.uint8]
Kind = Literal["image", "folder", "video", "device", "clip"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
DEFAULT_FPS = 30.0
"""Of a folder, and of a video that does not say."""


class Frame(NamedTuple):
    """One image, uint8 (H, W, 3) BGR; stamp_s: seconds since the first one; name: its file, or the source's."""

    number: int
    stamp_s: float
    name: str
    image: Image


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source. fps: frames a second; count: of frames, None when unknown; camera: where it is known exactly.

    frames() starts over each time and raises SourceError for what cannot be read.
    """

    path: Path
    kind: Kind
    fps: float
    count: int | None
    camera: Camera | None
    frames: Callable[[], Iterator[Frame]]


def open_source(text: str) -> Source:
    """Open an image, a folder of images, a video file, a V4L2 device such as /dev/video0, or a labelled clip.

    Raises SourceError when there is nothing there, or nothing that can be read.
    """
    path = Path(text)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceError(
            f"no source {text}",
            expected="an image, a folder of images, a video, /dev/videoN, or a labelled clip",
            got=error.strerror or error,
        ) from error
    if stat.S_ISCHR(mode):
        return Source(path, "device", DEFAULT_FPS, None, None, lambda: _video_frames(path, None))
    if stat.S_ISDIR(mode):
        return _open_clip(path) if (path / TRUTH_FILE).is_file() else _open_folder(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Source(path, "image", DEFAULT_FPS, 1, None, lambda: _image_frames([path]))
    return _open_video(path)


def read_image(path: Path) -> Image:
    """An image file as uint8 (H, W, 3) BGR. Raises SourceError when OpenCV cannot read it."""
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # for example more pixels than it takes
        image = None
    if image is None:
        raise SourceError(f"cannot read the image {path}", expected="an image that OpenCV can decode")
    return np.asarray(image, np.uint8)


def _open_clip(path: Path) -> Source:
    clip = load_clip(path)

    def frames() -> Iterator[Frame]:
        for index, image in enumerate(clip.frames()):
            yield Frame(index, index / clip.fps, path.name, image)

    return Source(path, "clip", clip.fps, len(clip), clip.camera, frames)


def _open_folder(path: Path) -> Source:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise SourceError(f"no images in {path}", expected=", ".join(IMAGE_SUFFIXES), got="none")
    return Source(path, "folder", DEFAULT_FPS, len(files), None, lambda: _image_frames(files))


def _open_video(path: Path) -> Source:
    capture = _capture(path)
    try:
        fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if not capture.grab():
            raise SourceError(f"the video {path} has no frame", expected="one or more that OpenCV can decode")
    finally:
        capture.release()
    fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
    return Source(path, "video", fps, count if count > 0 else None, None, lambda: _video_frames(path, fps))


def _image_frames(files: list[Path]) -> Iterator[Frame]:
    for index, file in enumerate(files):
        yield Frame(index, index / DEFAULT_FPS, file.name, read_image(file))


def _video_frames(path: Path, fps: float | None) -> Iterator[Frame]:
    """fps: None for a device, whose frames are stamped as they come."""
    capture = _capture(path)
    started_s = time.monotonic()
    try:
        index = 0
        while True:
            more, image = capture.read()
            if not more:
                if fps is None:
                    raise SourceError(f"the camera {path} stopped after {index} frames", remedy="is it unplugged?")
                return
            stamp_s = time.monotonic() - started_s if fps is None else index / fps
            yield Frame(index, stamp_s, path.name, np.asarray(image, np.uint8))
            index += 1
    finally:
        capture.release()


def _capture(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(
            f"cannot open {path}",
            expected="an image, a video that OpenCV can decode, or a webcam that no one else uses",
        )
    return capture
