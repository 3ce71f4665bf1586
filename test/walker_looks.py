"""Looks at a body of a simulated walker, as the tracker has them."""

import numpy as np

from metro_ros.core.crop import box_around
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.look import Body, Look

FOCAL_PX, WIDTH, HEIGHT = 500.0, 640, 480
FPS = 30.0
EXTENT_M, WIDTH_M = 1.75, 0.6
JOINTS_M = np.random.RandomState(0).uniform((-0.3, -0.9, -0.1), (0.3, 0.8, 0.1), (17, 3))
CONFIG = EstimatorConfig()


def seen_at(
    x: float,
    z: float,
    y: float = 0.1,
    score: float = 0.9,
    change: float = 0.02,
    sway: float = 0.0,
    wears: float = np.nan,
) -> Look:
    """A look at a body whose root stands there, metres.

    sway: how far its joints are from where they usually are; wears: a shade of grey, if its colours are told.
    """

    def project(points: np.ndarray) -> np.ndarray:
        points = points + np.array((x, y, z))
        return points[:, :2] / points[:, 2:] * FOCAL_PX + (WIDTH / 2, HEIGHT / 2)

    corners = project(np.array(((-WIDTH_M / 2, -0.95, 0.0), (WIDTH_M / 2, EXTENT_M - 0.95, 0.0))))
    bounds = np.concatenate(corners)
    nothing = np.zeros((0, 3), np.float32)
    body = Body(nothing, nothing, nothing, nothing[:, :2], None, score, 1.0)
    joints_px, colours = project(JOINTS_M + np.array((sway, 0, 0))), np.full((16, 3), wears, np.float32)
    box = box_around(bounds, 1.25)
    return Look(body, np.array((x, y, z)), bounds, joints_px, box, box, change, colours)
