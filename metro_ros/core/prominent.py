"""Whoever is most prominent in an image and in parts of it, by the network that comes along as pose_detector.onnx.

It was made for one person (see training.pose_detector), and sees no one beside whom it sees best: in parts of the image
others are the most prominent.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.crop import check_image
from metro_ros.core.detect import Detections
from metro_ros.core.errors import BundleError, EngineError
from metro_ros.core.finder_session import open_session
from metro_ros.core.letterbox import canvas, letterbox

PART = "pose_detector"
OUTPUT_NAMES = ("boxes", "scores", "heads")
REMEDY = "write it again with python -m training.pose_detector"
REGIONS = ((0.0, 1.0), (0.0, 0.6), (0.2, 0.8), (0.4, 1.0))
"""Left and right edges of the parts of the image that are looked at, of its width."""
SAME_HEAD = 0.15
"""Heads nearer to each other than this part of the longer side of a box are one person's."""


class Prominent(NamedTuple):
    """People found, the likeliest first, and where the head of each is: (N, 2) px."""

    detections: Detections
    heads: npt.NDArray[np.float32]


class ProminentPeople:
    """Prominent people; not for several threads at once."""

    def __init__(self, bundle: Bundle, threads: int | None = None, hurried: bool = False) -> None:
        """threads: None for the library's own choice; hurried: look at one region a call, each in its turn.

        Raises BundleError when the bundle has no pose detector, or one that is not what its manifest says; EngineError
        when it cannot be loaded.
        """
        path = bundle.part_file(PART)
        if path is None:
            raise BundleError(f"the bundle {bundle.path}", expected=f"a part named {PART}", got="none", remedy=REMEDY)
        self._path, self._hurried, self._turn = path, hurried, 0
        self.size, self.min_score = _read_details(bundle)
        self.engine, self._session = open_session(path, threads, (self.size, self.size), OUTPUT_NAMES, REMEDY)
        self._check()

    def find(self, image: npt.NDArray[np.uint8]) -> Prominent:
        """Who is prominent in an image, uint8 (H, W, 3) BGR; boxes reach beyond it where bodies do.

        Raises ImageError for an image of another type, EngineError when the network fails or returns what is not
        finite; the next call works again.
        """
        check_image(image)
        regions: tuple[tuple[float, float], ...] = REGIONS
        if self._hurried:
            regions, self._turn = (REGIONS[self._turn],), (self._turn + 1) % len(REGIONS)
        answers = [self._look(image, *region) for region in regions]
        boxes, scores, heads = (np.concatenate(values) for values in zip(*answers, strict=True))
        with_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores, heads = boxes[with_area], scores[with_area], heads[with_area]
        kept = _one_each(boxes, scores, heads)
        half = np.float32(0.5)  # a pixel's centre is at its integer, so that the image begins at -0.5
        return Prominent(Detections(boxes[kept] - half, scores[kept].clip(0, 1)), heads[kept] - half)

    def close(self) -> None:
        """Give the network's memory back; nobody is found after that."""
        del self._session

    def _look(self, image: npt.NDArray[np.uint8], left: float, right: float) -> list[npt.NDArray[np.float32]]:
        """Boxes (K, 4), scores (K,) and heads (K, 2) of those anchors in one region that count, px of the image."""
        width = image.shape[1]
        first = round(left * width)
        part = image[:, first : max(round(right * width), first + 1)]
        box = letterbox(part.shape[1], part.shape[0], self.size, self.size)
        boxes, scores, heads = self._run(canvas(part, box, self.size, self.size))
        found = scores >= self.min_score
        corners, middles = (box.to_image(points[found].reshape(-1, 2)) for points in (boxes, heads))
        for points in (corners, middles):
            points[:, 0] += first
        return [corners.reshape(-1, 4).astype(np.float32), scores[found], middles.astype(np.float32)]

    def _run(self, image: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """What the network says of one canvas, checked to be finite."""
        try:
            answers = self._session(image)
        except Exception as error:  # the libraries' own exception types share no public base
            raise EngineError(f"the pose detector {self._path} failed in {self.engine}", got=error) from error
        if not all(np.isfinite(values).all() for values in answers):
            raise EngineError(
                f"the pose detector {self._path} returned numbers that are not finite",
                expected="finite boxes, scores and heads",
                got="NaN or infinity",
            )
        return [values[0] for values in answers]

    def _check(self) -> None:
        """Run a grey image once. Raises BundleError unless the outputs are what a pose detector's are."""
        answers = self._session(np.full((1, self.size, self.size, 3), 127, np.uint8))
        shapes, count = [values.shape for values in answers], answers[0].shape[1:2]
        if shapes != [(1, *count, 4), (1, *count), (1, *count, 2)] or any(v.dtype != np.float32 for v in answers):
            raise BundleError(
                f"outputs of {self._path}",
                expected="float32 boxes (1, K, 4), scores (1, K) and heads (1, K, 2)",
                got=", ".join(f"{values.dtype} {values.shape}" for values in answers),
                remedy=REMEDY,
            )


def _one_each(
    boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], heads: npt.NDArray[np.float32]
) -> list[int]:
    """Indices of the likeliest answer for each head, the likeliest first."""
    kept: list[int] = []
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    for index in np.argsort(-scores, kind="stable").tolist():
        near = SAME_HEAD * np.minimum(sides[kept], sides[index])
        if (np.linalg.norm(heads[kept] - heads[index], axis=1) > near).all():
            kept.append(index)
    return kept


def _read_details(bundle: Bundle) -> tuple[int, float]:
    """Side of the input and the score that counts. Raises BundleError when one is no such number."""
    details = bundle.manifest.parts[PART].details
    size, score = details.get("size"), details.get("score")
    sized = isinstance(size, int) and not isinstance(size, bool) and 32 <= size <= 4096
    scored = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score) and 0 < score <= 1
    if not sized or not scored:
        raise BundleError(
            f"the pose detector's details in the manifest of {bundle.path}",
            expected="size, 32 to 4096, and score, above 0 and up to 1",
            got=f"size {size!r}, score {score!r}",
            remedy=REMEDY,
        )
    return size, float(score)  # type: ignore[return-value, arg-type]
