"""Where the camera stands: lens, height, distance, tilt, and the person's place in its image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.camera import Camera


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """Ranges that cameras are drawn from.

    Attributes:
        width, height: of the image, px.
        fov_deg: field of view over the width, degrees.
        camera_height_m: above the floor.
        person_share: a standing person's height over the image's, drawn log-uniformly.
        column_share, row_share: where the hips are, as shares of the width and the height.
        portraits: share of views that only the upper body is in.
        portrait_share, portrait_row: person_share and row_share of these.
        roll_deg: standard deviation of the camera's roll.
    """

    width: int = 640
    height: int = 480
    fov_deg: tuple[float, float] = (30.0, 80.0)
    camera_height_m: tuple[float, float] = (0.3, 3.2)
    person_share: tuple[float, float] = (0.25, 1.5)
    column_share: tuple[float, float] = (0.1, 0.9)
    row_share: tuple[float, float] = (0.35, 0.8)
    portraits: float = 0.0
    portrait_share: tuple[float, float] = (1.0, 2.5)
    portrait_row: tuple[float, float] = (0.85, 1.5)
    roll_deg: float = 4.0


@dataclass(frozen=True, slots=True)
class View:
    """A camera and a person's hips before it.

    Attributes:
        camera: pinhole, without distortion.
        camera_from_world: (3, 3) float64; the world's y points down along gravity.
        root: (3,) float64 metres, the mid-hip in the camera frame.
    """

    camera: Camera
    camera_from_world: NDArray[np.float64]
    root: NDArray[np.float64]


def sample_view(rng: np.random.Generator, config: ViewConfig, stature: float, hip_height: float) -> View:
    """Draw a camera for a person.

    Args:
        rng: source of randomness.
        config: ranges.
        stature: metres from sole to crown when standing.
        hip_height: metres of the hips above the floor in this pose.
    """
    fov = math.radians(rng.uniform(*config.fov_deg))
    focal = config.width / 2.0 / math.tan(fov / 2.0)
    near = config.portraits > 0 and rng.random() < config.portraits
    share = math.exp(rng.uniform(*np.log(config.portrait_share if near else config.person_share)))
    depth = focal * stature / (share * config.height)
    cx, cy = (config.width - 1) / 2.0, (config.height - 1) / 2.0
    ray_x = (rng.uniform(*config.column_share) * config.width - cx) / focal
    ray_y = (rng.uniform(*(config.portrait_row if near else config.row_share)) * config.height - cy) / focal
    # depth * (ray_y cos(tilt) + sin(tilt)) = camera height - hip height, solved for the tilt.
    drop = rng.uniform(*config.camera_height_m) - hip_height
    tilt = math.asin(np.clip(drop / (depth * math.hypot(1.0, ray_y)), -0.7, 0.7)) - math.atan(ray_y)
    roll = math.radians(rng.normal(0.0, config.roll_deg))
    pitch = np.array([[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]])
    rolled = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    matrix = np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
    # Rolling about the optical axis moves the hips in the image too, by a little: place them after it.
    return View(
        camera=Camera(config.width, config.height, matrix),
        camera_from_world=rolled @ pitch,
        root=np.array([ray_x, ray_y, 1.0]) * depth,
    )


def yaw_rotation(angle: float) -> NDArray[np.float64]:
    """(3, 3) turn about gravity by `angle` radians."""
    return np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
