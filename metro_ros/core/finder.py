"""The bundle's own person finder: everyone in an image, by the network that comes along as finder.onnx."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.config import check_settings, setting
from metro_ros.core.crop import check_image
from metro_ros.core.detect import Detections, suppress
from metro_ros.core.errors import BundleError, EngineError
from metro_ros.core.finder_session import REMEDY, open_session
from metro_ros.core.letterbox import canvas, letterbox

PART = "finder"
_NOBODY = 1e-9
"""A score of nothing at all: where there are fewer people than rows, the rest score 0."""


@dataclass(frozen=True, slots=True)
class FinderConfig:
    """Who counts as found."""

    min_score: float | None = setting(
        None, "score under which a box is nobody; the one that the finder was validated with if unset", 0.0, 1.0
    )
    nms_iou: float = setting(0.6, "of two boxes that overlap by more than this IoU the likelier one stays", 0.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self)


class Finder:
    """People by the bundle's finder; satisfies `metro_ros.core.detect.Detector`. Not for several threads at once."""

    def __init__(self, bundle: Bundle, config: FinderConfig | None = None, threads: int | None = None) -> None:
        """threads: None for the library's own choice.

        Raises BundleError when the bundle has no finder, or one that is not what its manifest says; EngineError when it
        cannot be loaded.
        """
        path = bundle.part_file(PART)
        if path is None:
            raise BundleError(f"the bundle {bundle.path}", expected="a part named finder", got="none", remedy=REMEDY)
        self.config = config if config is not None else FinderConfig()
        self._path = path
        self.width, self.height, validated_score = _read_details(bundle)
        self.min_score = validated_score if self.config.min_score is None else self.config.min_score
        self.engine, self._session = open_session(path, threads, (self.height, self.width))
        self._check()

    def detect(self, image: npt.NDArray[np.uint8]) -> Detections:
        """Everyone in an image, uint8 (H, W, 3) BGR, the likeliest first; boxes are clipped to the image.

        Raises ImageError for an image of another type, EngineError when the network fails or returns what is not
        finite; the next call works again.
        """
        check_image(image)
        height, width = image.shape[:2]
        box = letterbox(width, height, self.width, self.height)
        boxes, scores = self._run(canvas(image, box, self.width, self.height))
        found = scores >= max(self.min_score, _NOBODY)
        corners = box.to_image(boxes[found].reshape(-1, 2, 2))
        # A pixel's centre is at its integer, so that the image begins at -0.5.
        boxes = (corners.clip(0, (width, height)) - 0.5).reshape(-1, 4).astype(np.float32)
        scores = scores[found].clip(0, 1)
        with_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        kept = suppress(boxes[with_area], scores[with_area], self.config.nms_iou)
        return Detections(boxes[with_area][kept], scores[with_area][kept])

    def close(self) -> None:
        """Give the network's memory back; the finder cannot be used after that."""
        del self._session

    def _run(self, canvas: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Boxes (K, 4) and scores (K,) of one canvas, checked to be finite."""
        try:
            boxes, scores = self._session(canvas)
        except Exception as error:  # the libraries' own exception types share no public base
            raise EngineError(f"the finder {self._path} failed in {self.engine}", got=error) from error
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise EngineError(
                f"the finder {self._path} returned numbers that are not finite",
                expected="finite boxes and scores",
                got="NaN or infinity",
            )
        return boxes[0], scores[0]

    def _check(self) -> None:
        """Run a grey image once. Raises BundleError unless the outputs are what a finder's are."""
        boxes, scores = self._session(np.full((1, self.height, self.width, 3), 127, np.uint8))
        shapes = boxes.shape, scores.shape
        fits = boxes.ndim == 3 and shapes == ((1, boxes.shape[1], 4), (1, boxes.shape[1]))
        if not fits or boxes.dtype != np.float32 or scores.dtype != np.float32:
            raise BundleError(
                f"outputs of {self._path}",
                expected="float32 boxes (1, K, 4) and scores (1, K)",
                got=f"{boxes.dtype} {shapes[0]} and {scores.dtype} {shapes[1]}",
                remedy=REMEDY,
            )


def open_finder(bundle: Bundle, threads: int | None = None, config: FinderConfig | None = None) -> Finder | None:
    """The bundle's finder, or None when it has none. threads: None for the library's own choice; raises as `Finder`."""
    if PART not in bundle.manifest.parts:
        return None
    return Finder(bundle, config, threads)


def _read_details(bundle: Bundle) -> tuple[int, int, float]:
    """Width and height of the input and the score that was validated. Raises BundleError when one is no such number."""
    details = bundle.manifest.parts[PART].details
    width, height, score = (details.get(name) for name in ("width", "height", "score"))
    sides = all(isinstance(side, int) and not isinstance(side, bool) and 32 <= side <= 4096 for side in (width, height))
    scored = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score) and 0 <= score <= 1
    if not sides or not scored:
        raise BundleError(
            f"the finder's details in the manifest of {bundle.path}",
            expected="width and height, 32 to 4096, and score, 0 to 1",
            got=f"width {width!r}, height {height!r}, score {score!r}",
            remedy=REMEDY,
        )
    return width, height, float(score)  # type: ignore[return-value, arg-type]
