"""A detector for the people of tiny_bundle.py, so that several can be tested end to end."""

import cv2
import numpy as np

from metro_ros.core.detect import Detections


class Blobs:
    """A detector of bright blobs that counts how often it is asked."""

    def __init__(self, score: float = 0.9) -> None:
        self.score, self.calls = score, 0

    def detect(self, image: np.ndarray) -> Detections:
        """A box around each."""
        self.calls += 1
        count, _, stats, _ = cv2.connectedComponentsWithStats((image[..., 1] > 20).astype(np.uint8))
        boxes = [(x, y, x + width, y + height) for x, y, width, height, _ in stats[1:count]]
        return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), self.score))

    def close(self) -> None:
        """Nothing to give back."""
