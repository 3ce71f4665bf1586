"""A whole image in a network's input of another shape: as large as fits, black around it."""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt


class Letterbox(NamedTuple):
    """Where an image lies in the network's input: input = scale * image + offset, of pixel edges, x and y."""

    scale: tuple[float, float]
    offset: tuple[int, int]
    size: tuple[int, int]
    """(width, height) in the input"""

    def to_image(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Points (..., 2) of the input in the image, px, both counted from their edges."""
        return (points - np.array(self.offset)) / self.scale


def letterbox(image_width: int, image_height: int, width: int, height: int) -> Letterbox:
    """As large as fits into width x height, in the middle; scales are those of whole pixels, at least one a side."""
    ratio = min(width / image_width, height / image_height)
    size = max(1, round(image_width * ratio)), max(1, round(image_height * ratio))
    offset = (width - size[0]) // 2, (height - size[1]) // 2
    return Letterbox((size[0] / image_width, size[1] / image_height), offset, size)


def canvas(image: npt.NDArray[np.uint8], box: Letterbox, width: int, height: int) -> npt.NDArray[np.uint8]:
    """The input (1, height, width, 3) uint8 RGB that an image, uint8 (H, W, 3) BGR, has a place in."""
    whole = np.zeros((1, height, width, 3), np.uint8)
    shrinks = box.scale[0] < 1
    small = cv2.resize(image, box.size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    x, y = box.offset
    whole[0, y : y + box.size[1], x : x + box.size[0]] = small[:, :, ::-1]
    return whole
