"""Crops of people to calibrate and measure variants with: of the package's demo clip, or of a folder of images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import default_bundle_path
from metro_ros.core.clip import load_clip
from metro_ros.core.crop import Box, box_from_points, crop_image, whole_image_box
from metro_ros.core.errors import ConfigError

CROPS = 60
MOST = 500
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def person_crops(size: int, folder: Path | None = None, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Crops (N, size, size, 3) uint8 RGB.

    Args:
        folder: images with one person in each, which is taken whole; None for CROPS frames of the demo clip, cropped
            around who is seen best with the loose and the off-centre boxes that tracking meets.

    Raises:
        ConfigError: there are fewer than two readable images in the folder.
    """
    if folder is None:
        return _clip_crops(size, seed)
    images = (cv2.imread(str(path)) for path in sorted(folder.glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES)
    crops = [
        crop_image(np.asarray(image, np.uint8), whole_image_box(image.shape[1], image.shape[0]), size)
        for image, _ in zip((image for image in images if image is not None), range(MOST), strict=False)
    ]
    if len(crops) < 2:
        raise ConfigError(f"images in {folder}", expected="two or more", got=len(crops))
    return np.stack(crops)


def _clip_crops(size: int, seed: int) -> npt.NDArray[np.uint8]:
    clip = load_clip(default_bundle_path().parent / "demo_clip")
    random = np.random.default_rng(seed)
    step = max(1, len(clip) // CROPS)
    crops = []
    for index, image in enumerate(clip.frames()):
        if index % step:
            continue
        person = int(clip.visible[index].argmax())
        box = box_from_points(clip.camera.project(clip.vertices(index, person)), 1.2)
        shift = random.normal(0, 0.05, 2) * box.size
        loose = Box(box.cx + shift[0], box.cy + shift[1], box.size * random.uniform(0.9, 1.2))
        crops.append(crop_image(image, loose, size))
    return np.stack(crops[:CROPS])
