"""What a real camera adds to a clean picture: exposure, colour cast, blur, noise and JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Look:
    """One camera's look, constant over a clip. gain per channel, gamma, blur and noise sigmas, JPEG quality or 0."""

    gain: tuple[float, float, float]
    gamma: float
    blur_px: float
    noise: float
    jpeg_quality: int


def sample_look(rng: np.random.Generator) -> Look:
    """Half of all cameras are sharp and clean."""
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.9, 1.1, 3)
    return Look(
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        gamma=float(rng.uniform(0.75, 1.35)),
        blur_px=float(rng.uniform(0.3, 1.1)) if rng.random() < 0.35 else 0.0,
        noise=float(rng.uniform(0.005, 0.03)) if rng.random() < 0.4 else 0.0,
        jpeg_quality=int(rng.integers(35, 95)) if rng.random() < 0.3 else 0,
    )


def take(rng: np.random.Generator, scene: NDArray[np.floating], look: Look) -> NDArray[np.uint8]:
    """A scene (H, W, 3) float32 in [0, 1] as the camera delivers it, uint8 (H, W, 3)."""
    exposed = np.clip(scene * np.asarray(look.gain, np.float32), 0.0, 1.0) ** np.float32(look.gamma)
    if look.blur_px:
        exposed = np.asarray(cv2.GaussianBlur(exposed, (0, 0), look.blur_px), np.float32)
    if look.noise:
        exposed = exposed + rng.normal(0.0, look.noise, exposed.shape).astype(np.float32)
    picture = np.clip(exposed * 255.0, 0, 255).astype(np.uint8)
    if look.jpeg_quality:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality])
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return picture
