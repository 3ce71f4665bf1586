"""MediaPipe's pose network as a teacher: 33 landmarks of a person in an image, wherever somebody roughly is.

It looks at a square that stands as the person does, and two more of its landmarks say where that square should have
been (Bazarevsky et al., "BlazePose: On-device Real-time Body Pose Tracking", 2020, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.errors import ConfigError, SourceError

FloatArray = NDArray[np.float32]
Network = Callable[[FloatArray], tuple[FloatArray, float]]
"""(1, 256, 256, 3) RGB in 0..1 -> (195,), x and y in pixels of it, z, and logits of visibility and presence of each
landmark; and how likely it is that somebody is there, 0..1."""

SIZE = 256
LANDMARKS, BODY = 39, 33
"""All of them, and those that are parts of a body; the rest belong to the square."""
_CENTRE, _AROUND = 33, 34
"""Mid-hip, and a point on the circle around the whole person, above the head."""
_MARGIN = 1.25
_LOOKS = 4
"""At one person, each at the square that the one before asks for."""
SURE = 0.8
"""Score of the last look, below which nobody is there; half of it at the others."""
MIN_SIDE_PX = 24.0


class Square(NamedTuple):
    """What the network looks at: centre and side in pixels, and how far it is turned, clockwise in radians."""

    cx: float
    cy: float
    side: float
    turn: float


class Landmarks(NamedTuple):
    """One person: points (39, 2) px; visible (39,), the probability that each is in the picture and not hidden; score.

    A landmark outside of the image is a guess.
    """

    points: FloatArray
    visible: FloatArray
    score: float


class Landmarker:
    """Asks the network about squares of images."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, image: NDArray[np.uint8], start: Square) -> Landmarks | None:
        """Whom the square, or one near to it, shows in an image (H, W, 3) BGR; None for nobody."""
        found = self._look(image, start)
        for _ in range(_LOOKS - 1):
            if found.score < SURE / 2 or not np.isfinite(found.points).all():
                return None
            square = _square_of(found.points)
            if square.side < MIN_SIDE_PX:
                return None
            found = self._look(image, square)
        return found if found.score >= SURE and np.isfinite(found.points).all() else None

    def _look(self, image: NDArray[np.uint8], square: Square) -> Landmarks:
        scale = square.side / SIZE
        if scale > 1:  # so that sampling skips nothing
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 * scale), np.uint8)
        image_from_crop = _image_from_crop(square)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = np.asarray(cv2.warpAffine(image, image_from_crop, (SIZE, SIZE), flags=how), np.float32)
        values, score = self._network(np.ascontiguousarray(crop[None, ..., ::-1]) / np.float32(255))
        rows = np.asarray(values, np.float64).reshape(LANDMARKS, 5)
        points = rows[:, :2] @ image_from_crop[:, :2].T + image_from_crop[:, 2]
        visible = 1 / (1 + np.exp(-rows[:, 3:].clip(-30, 30)))
        return Landmarks(points.astype(np.float32), visible.min(axis=1).astype(np.float32), float(score))


def _image_from_crop(square: Square) -> NDArray[np.float64]:
    """(2, 3), from a pixel of the crop to one of the image; pixel centres are whole numbers in both."""
    scale, cosine, sine = square.side / SIZE, math.cos(square.turn), math.sin(square.turn)
    turned = scale * np.array(((cosine, -sine), (sine, cosine)))
    centre = np.array((square.cx, square.cy)) - turned @ np.full(2, (SIZE - 1) / 2)
    return np.concatenate((turned, centre[:, None]), axis=1)


def _square_of(points: FloatArray) -> Square:
    right, down = (points[_AROUND] - points[_CENTRE]).tolist()
    cx, cy = points[_CENTRE].tolist()
    return Square(cx, cy, 2 * _MARGIN * math.hypot(right, down), math.atan2(right, -down))


def open_network(weights: Path) -> Network:
    """pose_landmark_full.tflite (6.4 MB, Apache-2.0; see training.mediapipe_weights for where it is).

    Raises ConfigError without ai-edge-litert, SourceError for a file that is none, or of another network.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        remedy = "pip install ai-edge-litert"
        raise ConfigError("labels by MediaPipe", expected="ai-edge-litert", got=error, remedy=remedy) from error
    if not weights.is_file():
        raise SourceError(f"{weights}", expected="pose_landmark_full.tflite", got="no such file")
    try:
        interpreter = Interpreter(str(weights), num_threads=1)
        interpreter.allocate_tensors()
        asked = interpreter.get_input_details()[0]
        answers = {tuple(one["shape"]): one["index"] for one in interpreter.get_output_details()}
        landmarks, score = answers[1, 5 * LANDMARKS], answers[1, 1]
        if tuple(asked["shape"]) != (1, SIZE, SIZE, 3):
            raise ValueError(f"an input of shape {tuple(asked['shape'])}")
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        raise SourceError(f"{weights}", expected="MediaPipe's pose_landmark_full.tflite", got=error) from error

    def network(crop: FloatArray) -> tuple[FloatArray, float]:
        interpreter.set_tensor(asked["index"], crop)
        interpreter.invoke()
        return interpreter.get_tensor(landmarks)[0].copy(), float(interpreter.get_tensor(score)[0, 0])

    return network
