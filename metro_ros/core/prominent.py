"""Whoever is most prominent in an image and in parts of it, by the network that comes along as pose_detector.onnx.

It was made for one person (see training.pose_detector), and sees no one beside whom it sees best: in parts of the image
others are the most prominent.
"""

import itertools
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

Region = tuple[float, float, float, float]
PART = "pose_detector"
OUTPUT_NAMES = ("boxes", "scores", "heads")
REMEDY = "write it again with python -m training.pose_detector"
COARSE = tuple((left, 0.0, right, 1.0) for left, right in ((0.0, 1.0), (0.0, 0.6), (0.2, 0.8), (0.4, 1.0)))
FINE = (
    *((left, top, left + 0.5, top + 0.7) for top in (0.0, 0.3) for left in (0.0, 0.25, 0.5)),
    *((left, top, left + 0.375, top + 0.5) for top in (0.0, 0.25, 0.5) for left in (0.0, 0.2, 0.4, 0.625)),
)
"""Parts of the image that are looked at: left, top, right and bottom, of its width and height."""
IN_ORDER = (*COARSE[:1], *FINE[:4], *COARSE[1:2], *FINE[4:9], *COARSE[2:3], *FINE[9:13], *COARSE[3:], *FINE[13:])
"""All of them, the coarse ones spread among the fine."""
IN_TURN = 2
"""So many of them in a call: all in about as long as who is not detected is followed."""
CUT = 0.15
"""A head is nobody's that is nearer to where its part is cut out of the image, in longer sides of the box."""
SAME_HEAD = 0.15
"""Heads nearer to each other than this part of the longer side of a box are one person's."""


class Prominent(NamedTuple):
    """People found, the likeliest first, and where the head of each is: (N, 2) px."""

    detections: Detections
    heads: npt.NDArray[np.float32]


class ProminentPeople:
    """Prominent people; not for several threads at once."""

    def __init__(self, bundle: Bundle, threads: int | None = None, hurried: bool = False) -> None:
        """threads: None for the library's own choice; hurried: look at a few regions a call, each in its turn.

        Raises BundleError when the bundle has no pose detector, or one that is not what its manifest says; EngineError
        when it cannot be loaded.
        """
        path = bundle.part_file(PART)
        if path is None:
            raise BundleError(f"the bundle {bundle.path}", expected=f"a part named {PART}", got="none", remedy=REMEDY)
        self._path, self._hurried, self._in_turn = path, hurried, itertools.cycle(IN_ORDER)
        self.size, self.min_score = _read_details(bundle)
        self.engine, self._session = open_session(path, threads, (self.size, self.size), OUTPUT_NAMES, REMEDY)
        self._check()

    def find(self, image: npt.NDArray[np.uint8]) -> Prominent:
        """Who is prominent in an image, uint8 (H, W, 3) BGR; boxes reach beyond it where bodies do.

        Raises ImageError for an image of another type, EngineError when the network fails or returns what is not
        finite; the next call works again.
        """
        check_image(image)
        answers = [self._look(image, region) for region in self._regions()]
        boxes, scores, heads = (np.concatenate(values) for values in zip(*answers, strict=True))
        with_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores, heads = boxes[with_area], scores[with_area], heads[with_area]
        kept = _one_each(boxes, scores, heads)
        half = np.float32(0.5)  # a pixel's centre is at its integer, so that the image begins at -0.5
        return Prominent(Detections(boxes[kept] - half, scores[kept].clip(0, 1)), heads[kept] - half)

    def close(self) -> None:
        """Give the network's memory back; nobody is found after that."""
        del self._session

    def _regions(self) -> list[Region]:
        """Those to look at now."""
        return list(itertools.islice(self._in_turn, IN_TURN)) if self._hurried else list(IN_ORDER)

    def _look(self, image: npt.NDArray[np.uint8], region: Region) -> list[npt.NDArray[np.float32]]:
        """Boxes (K, 4), scores (K,) and heads (K, 2) of those anchors in one region that count, px of the image."""
        sides = image.shape[1], image.shape[0]
        first_x, first_y = first = [round(edge * side) for edge, side in zip(region[:2], sides, strict=True)]
        end_x, end_y = (
            max(round(edge * side), start + 1) for edge, side, start in zip(region[2:], sides, first, strict=True)
        )
        part = image[first_y:end_y, first_x:end_x]
        box = letterbox(part.shape[1], part.shape[0], self.size, self.size)
        boxes, scores, heads = self._run(canvas(part, box, self.size, self.size))
        found = scores >= self.min_score
        corners, heads = (box.to_image(points[found].reshape(-1, 2)) for points in (boxes, heads))
        boxes, scores = corners.reshape(-1, 4), scores[found]
        # Where the part was cut out of the image, what looks like a head may be half of one.
        room = CUT * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)[:, None]
        left_top, right_bottom = heads < room, heads > np.array((end_x - first_x, end_y - first_y)) - room
        cut = (left_top & (np.array(first) > 0)) | (right_bottom & (np.array((end_x, end_y)) < sides))
        whole = ~cut.any(axis=1)
        boxes, heads = (boxes + np.array(first * 2)).astype(np.float32), (heads + np.array(first)).astype(np.float32)
        return [boxes[whole], scores[whole], heads[whole]]

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
