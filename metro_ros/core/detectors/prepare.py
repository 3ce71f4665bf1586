"""An image into a network's input, and boxes back from there.

    yolox   BGR 0..255, scaled to fit, in the upper left corner, the rest grey 114 (YOLOX, data_augment.preproc)
    yolo    RGB 0..1, scaled to fit, in the middle, the rest grey 114 (YOLOv5 to YOLO26, letterbox)
    detr    RGB 0..1, stretched to fill (RT-DETR, D-FINE); less ImageNet's mean for RF-DETR and DETRs with 91 classes

A uint8 input takes 0..255 in any family. Boxes in an input are in pixels from its upper left edge, so a pixel's centre
is at half; boxes in an image are as in metro_ros.core.crop, a pixel's centre is at its integer.
"""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.detectors.config import Family

GREY = 114
MEAN_RGB, STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of colours in 0..1."""


class Fit(NamedTuple):
    """Where an image lies in an input: input = image · scale + offset, both from the upper left edge, x and y."""

    scale: tuple[float, float]
    offset: tuple[int, int]
    image_size: tuple[int, int]
    """(width, height), pixels"""

    def to_image(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Boxes (N, 4) left, top, right, bottom in the input → in the image, clipped to it."""
        corners = (boxes.reshape(-1, 2, 2) - self.offset) / self.scale
        return (corners.clip(0, self.image_size) - 0.5).reshape(-1, 4).astype(np.float32)


def fit(image_bgr: npt.NDArray[np.uint8], size: tuple[int, int], family: Family) -> tuple[npt.NDArray[np.uint8], Fit]:
    """The image uint8 (H, W, 3) at `size` (height, width), as `family` has it, and where it lies there. Still BGR."""
    height, width = image_bgr.shape[:2]
    if family == "detr":
        shrinks = size[0] < height or size[1] < width
        flags = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR  # they were trained on images without aliasing
        stretched = np.asarray(cv2.resize(image_bgr, size[::-1], interpolation=flags), np.uint8)
        return stretched, Fit((size[1] / width, size[0] / height), (0, 0), (width, height))
    ratio = min(size[0] / height, size[1] / width)
    inner = max(1, round(width * ratio)), max(1, round(height * ratio))
    spare = size[1] - inner[0], size[0] - inner[1]
    left, top = (0, 0) if family == "yolox" else (spare[0] // 2, spare[1] // 2)
    canvas = np.full((*size, 3), GREY, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(image_bgr, inner, interpolation=cv2.INTER_LINEAR)
    return canvas, Fit((inner[0] / width, inner[1] / height), (left, top), (width, height))


def to_tensor(
    canvas_bgr: npt.NDArray[np.uint8], dtype: np.dtype, family: Family, imagenet: bool, channels_last: bool
) -> npt.NDArray:
    """uint8 (H, W, 3) BGR → (1, 3, H, W) of `dtype`, or (1, H, W, 3): in the family's order and range of colours."""
    swapped = family != "yolox"
    if dtype == np.uint8:
        tensor = np.asarray(cv2.dnn.blobFromImage(canvas_bgr, swapRB=swapped, ddepth=cv2.CV_8U))
    else:
        largest = 255.0 if family == "yolox" else 1.0
        blob = cv2.dnn.blobFromImage(canvas_bgr, largest / 255, swapRB=swapped)
        tensor = np.asarray(blob, np.float32)
        if imagenet:
            mean, std = (largest * np.array(rgb, np.float32)[:: 1 if swapped else -1] for rgb in (MEAN_RGB, STD_RGB))
            tensor = (tensor - mean[:, None, None]) / std[:, None, None]
    tensor = tensor.transpose(0, 2, 3, 1) if channels_last else tensor
    return np.ascontiguousarray(tensor, dtype)
