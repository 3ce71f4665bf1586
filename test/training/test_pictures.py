"""Pictures of predictions show the mesh where weak perspective puts it."""

import dataclasses

import numpy as np
from tiny_network import make_mesh

from training.pictures import prediction_sheet

SIZE = 64


def square_mesh(x: float, y: float, half: float = 0.25) -> np.ndarray:
    """Four corners of a square around (x, y), then a dozen more on its middle."""
    corners = [(x - half, y - half, 0), (x + half, y - half, 0), (x + half, y + half, 0), (x - half, y + half, 0)]
    return np.array(corners + [(x, y, 0)] * 16, np.float32)


MESH = dataclasses.replace(make_mesh(), faces=(*make_mesh().faces[:2], np.array([[0, 2, 1], [0, 3, 2]], np.int32)))


def sheet(camera: tuple[float, float, float]) -> np.ndarray:
    crops = np.full((2, SIZE, SIZE, 3), 10, np.uint8)
    vertices = np.stack([square_mesh(0.5, -0.5)] * 2)
    joints = np.tile(np.array((50.0, 50.0, 0.0), np.float32), (2, 5, 1))  # out of the picture
    return prediction_sheet(crops, joints, vertices, np.array([camera] * 2, np.float32), MESH)


def test_the_mesh_lies_where_the_camera_says() -> None:
    picture = sheet((0.5, 0.5, 0.0))[:SIZE, :SIZE]
    rows, columns = np.nonzero(picture.max(axis=2) > 30)
    # s (x + tx) = 0.5, s (y + ty) = -0.25: in pixels, from the middle
    assert abs(columns.mean() - (SIZE - 1) / 2 - 0.5 * SIZE / 2) < 1
    assert abs(rows.mean() - (SIZE - 1) / 2 + 0.25 * SIZE / 2) < 1
    assert abs(np.ptp(columns) + 1 - 0.25 * SIZE / 2) < 2


def test_an_untrained_camera_does_no_harm() -> None:
    assert sheet((-3.0, 0.0, 0.0)).dtype == np.uint8
