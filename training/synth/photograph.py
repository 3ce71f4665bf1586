"""What a real camera adds to a clean picture: exposure, colour cast, blur, motion, noise, sharpening and JPEG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Look:
    """One camera's look, constant over a clip.

    Attributes:
        gain: per channel. gamma: of the whole. contrast: about the middle grey. saturation: 0 is grey.
        vignette: how much darker the corners are. banding: depth of the flicker that a rolling shutter draws.
        blur_px, noise: sigmas; noise_grain_px: size of its grain. motion_px, motion_deg: length and way of motion blur.
        sharpen: strength of unsharp masking. jpeg_quality: or 0.
    """

    gain: tuple[float, float, float]
    gamma: float
    contrast: float = 1.0
    saturation: float = 1.0
    vignette: float = 0.0
    banding: float = 0.0
    blur_px: float = 0.0
    motion_px: float = 0.0
    motion_deg: float = 0.0
    noise: float = 0.0
    noise_grain_px: float = 0.0
    sharpen: float = 0.0
    jpeg_quality: int = 0


def sample_look(rng: np.random.Generator) -> Look:
    """Half of all cameras are sharp and clean."""
    gain = rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3)

    def sometimes(share: float, low: float, high: float) -> float:
        value = float(rng.uniform(low, high))
        return value if rng.random() < share else 0.0

    grey = rng.random() < 0.06
    return Look(
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        gamma=float(rng.uniform(0.65, 1.3)),
        contrast=float(rng.uniform(0.75, 1.15)),
        saturation=0.0 if grey else float(rng.uniform(0.5, 1.25)),
        vignette=sometimes(0.25, 0.0, 0.5),
        banding=sometimes(0.05, 0.02, 0.12),
        blur_px=sometimes(0.35, 0.3, 1.3),
        motion_px=sometimes(0.12, 1.5, 6.0),
        motion_deg=float(rng.uniform(0, 180)),
        noise=sometimes(0.4, 0.005, 0.04),
        noise_grain_px=sometimes(0.4, 0.4, 1.0),
        sharpen=sometimes(0.2, 0.3, 1.2),
        jpeg_quality=int(rng.integers(25, 95)) if rng.random() < 0.4 else 0,
    )


def take(rng: np.random.Generator, scene: NDArray[np.floating], look: Look) -> NDArray[np.uint8]:
    """A scene (H, W, 3) float32 in [0, 1] as the camera delivers it, uint8 (H, W, 3)."""
    height, width = scene.shape[:2]
    picture = np.asarray(scene, np.float32)
    if look.motion_px:
        picture = np.asarray(cv2.filter2D(picture, -1, _streak(look.motion_px, look.motion_deg)), np.float32)
    if look.vignette:
        across, down = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
        picture = picture * (1 - look.vignette * 0.5 * (across[None] ** 2 + down[:, None] ** 2))[..., None]
    if look.banding:
        wave = np.sin(np.arange(height, dtype=np.float32) * np.float32(rng.uniform(2, 10) * math.pi / height))
        picture = picture * (1 + look.banding * wave)[:, None, None]
    picture = np.clip(picture * np.asarray(look.gain, np.float32), 0.0, 1.0) ** np.float32(look.gamma)
    picture = 0.5 + look.contrast * (picture - 0.5)
    if look.saturation != 1.0:
        grey = picture.mean(axis=2, keepdims=True)
        picture = grey + look.saturation * (picture - grey)
    picture = np.asarray(np.clip(picture, 0.0, 1.0), np.float32)
    if look.blur_px:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), look.blur_px), np.float32)
    if look.noise:
        picture = picture + _grain(rng, height, width, look)
    if look.sharpen:
        picture = picture + look.sharpen * (picture - np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.0), np.float32))
    delivered = np.clip(picture * 255.0, 0, 255).astype(np.uint8)
    if look.jpeg_quality:
        _, data = cv2.imencode(".jpg", delivered, [cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality])
        delivered = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return delivered


def _streak(length: float, degrees: float) -> NDArray[np.float32]:
    """The kernel of a motion across the picture: a line of weight 1."""
    size = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((size, size), np.float32)
    middle, half = size // 2, length / 2
    dx, dy = half * math.cos(math.radians(degrees)), half * math.sin(math.radians(degrees))
    start, end = (round(middle - dx), round(middle - dy)), (round(middle + dx), round(middle + dy))
    cv2.line(kernel, start, end, 1.0)
    return kernel / kernel.sum()


def _grain(rng: np.random.Generator, height: int, width: int, look: Look) -> NDArray[np.float32]:
    """Noise, coarser than a pixel where the camera smooths it."""
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    if look.noise_grain_px:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), look.noise_grain_px), np.float32)
        grain /= max(float(grain.std()), 1e-6)
    return grain * np.float32(look.noise)
