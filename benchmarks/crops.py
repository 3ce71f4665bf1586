"""What is measured with: images of the demo clip, and crops of the person in it, no two alike."""

import functools

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import default_bundle_path
from metro_ros.core.clip import Clip, load_clip
from training.person_crops import person_crops


@functools.cache
def demo_clip() -> Clip:
    """The labelled clip that comes with the package."""
    return load_clip(default_bundle_path().parent / "demo_clip")


@functools.cache
def demo_frames(count: int = 60) -> tuple[npt.NDArray[np.uint8], ...]:
    """Its first `count` images, uint8 (480, 640, 3) BGR."""
    return tuple(image for image, _ in zip(demo_clip().frames(), range(count), strict=False))


def variant_crops(size: int, count: int) -> npt.NDArray[np.uint8]:
    """(count, size, size, 3) uint8 RGB from all over the clip, to make variants with: those they calibrate are even."""
    crops = _crops(size)
    return crops[:: len(crops) // count][:count]


def measured_crops(size: int, count: int) -> npt.NDArray[np.uint8]:
    """(count, size, size, 3) uint8 RGB from all over the clip, none of which a variant was calibrated with."""
    crops = _crops(size)[1::2]
    return crops[np.linspace(0, len(crops) - 1, count).round().astype(int)]


_crops = functools.cache(person_crops)
