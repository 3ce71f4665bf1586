"""A labelled clip: frames, and the exact bodies behind them, to measure a model against.

    clip.mp4    or frames/ with *.png or *.jpg in order of name
    truth.npz   rest_vertices (P, V, 3) float32, metres, of P people
                skin_indices (V, K) uint8 or int16; skin_weights (V, K) float16 or float32, rows sum to 1
                bone_transforms (T, P, B, 3, 4) float32, camera_from_rest, metres
                visible (T, P) float16, the share of a person's silhouette that shows: neither outside of the image
                nor behind nearer people or things
                matrix (3, 3), pixels; size (2,), width and height; fps ()

The bodies are a bone's worth of numbers per frame, not a mesh's: 10 s of a 12,272-vertex body take a few hundred
kilobytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.arrays import read_arrays, take_array
from metro_ros.core.camera import Camera
from metro_ros.core.errors import SourceError

VIDEO_FILE, FRAMES_DIRECTORY, TRUTH_FILE = "clip.mp4", "frames", "truth.npz"
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("uint8", "uint16", "uint32", "int16", "int32", "int64")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One clip: T frames, P people. camera: of all frames, no distortion; fps: frames a second; the rest: truth.npz."""

    path: Path
    camera: Camera
    fps: float
    rest_vertices: npt.NDArray[np.float32]
    skin_indices: npt.NDArray[np.integer]
    skin_weights: npt.NDArray[np.float32]
    bone_transforms: npt.NDArray[np.float32]
    visible: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.bone_transforms)

    @property
    def people(self) -> int:
        """P, in all frames the same ones."""
        return len(self.rest_vertices)

    def vertices(self, frame: int, person: int) -> npt.NDArray[np.float32]:
        """(V, 3), metres, camera frame, absolute: linear blend skinning of the rest vertices. Raises IndexError."""
        rest, bones = self.rest_vertices[person], self.bone_transforms[frame, person].reshape(-1, 12)
        blended = np.zeros((len(rest), 12), np.float32)
        for k in range(self.skin_indices.shape[1]):
            blended += self.skin_weights[:, k, None] * bones[self.skin_indices[:, k]]
        transforms = blended.reshape(-1, 3, 4)
        return np.einsum("vij,vj->vi", transforms[:, :, :3], rest) + transforms[:, :, 3]

    def frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        """The images, uint8 (H, W, 3) BGR, in order. Raises SourceError unless they are T, of the camera's size."""
        count = 0
        for image in self._images():
            if image.shape != (self.camera.height, self.camera.width, 3):
                raise SourceError(
                    f"frame {count} of {self.path}",
                    expected=f"{self.camera.width}x{self.camera.height}",
                    got=f"{image.shape[1]}x{image.shape[0]}",
                )
            count += 1
            if count <= len(self):
                yield image
        if count != len(self):
            raise SourceError(f"frames of {self.path}", expected=f"{len(self)}, as {TRUTH_FILE} says", got=count)

    def _images(self) -> Iterator[npt.NDArray[np.uint8]]:
        video = self.path / VIDEO_FILE
        if not video.is_file():
            for file in sorted((self.path / FRAMES_DIRECTORY).iterdir()):
                if file.suffix.lower() in FRAME_SUFFIXES:
                    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
                    if image is None:
                        raise SourceError(f"cannot read the image {file}")
                    yield np.asarray(image, np.uint8)
            return
        capture = cv2.VideoCapture(str(video))
        try:
            if not capture.isOpened():
                raise SourceError(f"cannot open {video}", expected="a video that OpenCV can decode")
            while True:
                more, image = capture.read()
                if not more:
                    return
                yield np.asarray(image, np.uint8)
        finally:
            capture.release()


def load_clip(path: str | Path) -> Clip:
    """Read and check the truth of a clip; its frames are read when asked for.

    Raises SourceError when a file is missing, or when an array has another type, shape or range than it should.
    """
    path = Path(path)
    if not (path / VIDEO_FILE).is_file() and not (path / FRAMES_DIRECTORY).is_dir():
        raise SourceError(f"no clip in {path}", expected=f"{VIDEO_FILE} or {FRAMES_DIRECTORY}/", got="neither")
    if not (path / TRUTH_FILE).is_file():
        raise SourceError(f"the clip {path} has no truth", expected=TRUTH_FILE, got="no such file")
    arrays = read_arrays(path / TRUTH_FILE, SourceError)

    def fail(name: str, expected: object, got: object) -> SourceError:
        return SourceError(f"{path / TRUTH_FILE}, {name}", expected=expected, got=got, remedy="make the clip again")

    def take(name: str, dtypes: tuple[str, ...], *shape: int | None) -> npt.NDArray:
        return take_array(arrays, name, dtypes, shape, fail)

    rest_vertices = take("rest_vertices", FLOATS, None, None, 3)
    people, vertices, _ = rest_vertices.shape
    if not people:
        raise fail("rest_vertices", "one person or more", "none")
    skin_indices = take("skin_indices", INTEGERS, vertices, None)
    skin_weights = take("skin_weights", FLOATS, *skin_indices.shape).astype(np.float32)
    bone_transforms = take("bone_transforms", FLOATS, None, people, None, 3, 4)
    visible = take("visible", FLOATS, len(bone_transforms), people).astype(np.float32)
    matrix = take("matrix", FLOATS, 3, 3)
    width, height = take("size", INTEGERS, 2).tolist()
    fps = float(take("fps", FLOATS + INTEGERS))
    bones = bone_transforms.shape[2]
    if skin_indices.size and not (skin_indices.min() >= 0 and skin_indices.max() < bones):
        raise fail("skin_indices", f"0..{bones - 1}", f"{skin_indices.min()}..{skin_indices.max()}")
    sums = skin_weights.sum(axis=1)
    if np.abs(sums - 1).max(initial=0) > 1e-2:
        raise fail("skin_weights", "rows that sum to 1", f"{sums.min():.3f}..{sums.max():.3f}")
    if visible.size and not (visible.min() >= 0 and visible.max() <= 1):
        raise fail("visible", "shares, 0..1", f"{visible.min():g}..{visible.max():g}")
    if fps <= 0:
        raise fail("fps", "above 0", fps)
    return Clip(
        path=path,
        camera=Camera(width, height, matrix),
        fps=fps,
        rest_vertices=rest_vertices.astype(np.float32),
        skin_indices=skin_indices,
        # Half precision leaves rows a thousandth off 1, a millimetre at a metre: make them exact.
        skin_weights=skin_weights / sums[:, None],
        bone_transforms=bone_transforms.astype(np.float32),
        visible=visible,
    )
