"""Rasterising meshes through a pinhole camera, by OpenCV's software rasteriser: no display and no GPU needed.

Frame: camera optical (x right, y down, z forward), metres; integer pixel coordinates are pixel centres.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

NEAR_M = 0.05
FAR_M = 200.0
_IDENTITY = np.eye(4, dtype=np.float32)[:3]


def _to_rasteriser(vertices: NDArray[np.float32], matrix: NDArray, width: int, height: int) -> NDArray[np.float32]:
    """Shear points so that a centred 90° OpenGL camera sees them where the pinhole `matrix` would."""
    focal = height / 2.0  # of a 90° field of view, about the centre of the pixel grid
    x, y, z = vertices[:, 0], vertices[:, 1], vertices[:, 2]
    sheared = np.stack(
        [
            (matrix[0, 0] * x + (matrix[0, 2] - (width - 1) / 2.0) * z) / focal,
            -(matrix[1, 1] * y + (matrix[1, 2] - (height - 1) / 2.0) * z) / focal,
            -z,
        ],
        axis=1,
    )
    return np.ascontiguousarray(sheared, np.float32).reshape(-1, 1, 3)


def rasterise(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    colours: NDArray[np.float32],
    matrix: NDArray,
    width: int,
    height: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Paint a mesh with interpolated vertex colours.

    Args:
        vertices: (V, 3) float32 metres, camera frame; all must be in front of the camera.
        faces: (F, 3) int32.
        colours: (V, 3) float32 in [0, 1].
        matrix: (3, 3) pinhole intrinsics in pixels.
        width, height: of the image.

    Returns:
        (height, width, 3) float32 image, black where nothing is, and the (height, width) bool mask of the mesh.
    """
    image = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), FAR_M, np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    cv2.triangleRasterize(
        _to_rasteriser(vertices, matrix, width, height),
        np.ascontiguousarray(faces, np.int32).reshape(-1, 1, 3),
        np.ascontiguousarray(colours, np.float32).reshape(-1, 1, 3),
        image,
        depth,
        _IDENTITY,
        math.pi / 2,
        NEAR_M,
        FAR_M,
        settings,
    )
    return image, depth < FAR_M
