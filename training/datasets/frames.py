"""Whole frames and the boxes in them on disk: .npz shards of some hundred frames each, their images as JPEG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.arrays import read_arrays, take_array
from metro_ros.core.errors import SourceError
from training.synth.frames import Frame

SHARD_SIZE = 250
MAX_BYTES = 1 << 28
_QUALITY = 92


class FrameSource(Protocol):
    """Draws frames without end; the same generator state gives the same frame."""

    def frame(self, rng: np.random.Generator) -> Frame:
        """The next one."""


def write_frame_shard(path: Path, frames: Iterable[Frame]) -> None:
    """Write frames to `path`, an .npz that appears only when it is whole.

    Raises:
        SourceError: the folder cannot be written.
    """
    kept = [(_jpeg(frame.image), frame.boxes, frame.visible) for frame in frames]
    jpegs, boxes, visible = zip(*kept, strict=True)
    arrays: dict[str, NDArray] = {
        "jpeg": np.concatenate(jpegs),
        "jpeg_ends": np.cumsum([len(jpeg) for jpeg in jpegs]).astype(np.int64),
        "boxes": np.concatenate(boxes).astype(np.float32),
        "visible": np.concatenate(visible).astype(np.float32),
        "people_ends": np.cumsum([len(box) for box in boxes]).astype(np.int64),
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    except OSError as cause:
        partial.unlink(missing_ok=True)
        raise SourceError(f"cannot write {path}", expected="a writable folder", got=cause) from cause


def write_frame_shards(
    source: FrameSource, out: Path, seed: int, count: int, size: int = SHARD_SIZE, first: int = 0
) -> None:
    """Write `count` frames, rounded up to whole shards of `size`, to `out/SEED_NUMBER.npz`, `first` being the first.

    Shards that are there already are kept. Raises SourceError when the folder cannot be written.
    """
    for number in tqdm(range(first, first + -(-count // size)), desc="frames", unit="shard"):
        path = out / f"{seed}_{number:05d}.npz"
        if not path.exists():
            rng = np.random.default_rng([seed, number])
            write_frame_shard(path, (source.frame(rng) for _ in range(size)))


class FrameSet:
    """Every frame of the shards of a folder, in memory as JPEG: 15 kB each.

    Raises:
        SourceError: no shard in the folder, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[Path] = set()
        self._frames: list[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]] = []
        if not self.refresh():
            raise SourceError(f"frames in {folder}", expected=".npz by python -m training.finder.frames", got="none")

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Frame:
        """Frame `index`. Raises SourceError when its image cannot be decoded."""
        jpeg, boxes, visible = self._frames[index]
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise SourceError(f"frame {index} of {self.folder}", expected="a JPEG", got="something else")
        return Frame(np.asarray(image, np.uint8), boxes, visible)

    def refresh(self) -> int:
        """Take in shards that were finished since, behind the frames there are; returns how many frames came."""
        before = len(self)
        for path in sorted(set(self.folder.glob("[!.]*.npz")) - self._known):
            self._frames += _read_shard(path)
            self._known.add(path)
        return len(self) - before


def _jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, jpeg = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return np.asarray(jpeg, np.uint8).reshape(-1)


def _read_shard(path: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]]:
    def error(what: str, expected: object, got: object) -> SourceError:
        return SourceError(f"{path}, {what}", expected=expected, got=got)

    arrays = read_arrays(path, SourceError, MAX_BYTES)
    jpeg = take_array(arrays, "jpeg", ("uint8",), (None,), error)
    boxes = take_array(arrays, "boxes", ("float32",), (None, 4), error)
    visible = take_array(arrays, "visible", ("float32",), (len(boxes),), error)
    ends = take_array(arrays, "jpeg_ends", ("int64",), (None,), error)
    people = take_array(arrays, "people_ends", ("int64",), (len(ends),), error)
    for name, cuts, total in (("jpeg_ends", ends, len(jpeg)), ("people_ends", people, len(boxes))):
        if not len(cuts) or (np.diff(cuts, prepend=0) < 0).any() or cuts[-1] != total:
            raise error(name, f"rising to {total}", cuts[-1] if len(cuts) else "none")
    images = np.split(jpeg, ends[:-1])
    return list(zip(images, np.split(boxes, people[:-1]), np.split(visible, people[:-1]), strict=True))
