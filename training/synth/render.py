"""Rasterising meshes through a pinhole camera: by OpenCV on the CPU, or by OpenGL on a GPU; no display needed.

Frame: camera optical (x right, y down, z forward), metres; integer pixel coordinates are pixel centres.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.errors import ConfigError

NEAR_M = 0.05
FAR_M = 200.0
_IDENTITY = np.eye(4, dtype=np.float32)[:3]

Renderer = Literal["auto", "opencv", "opengl"]
Painted = tuple[NDArray[np.float32], NDArray[np.bool_]]
Rasteriser = Callable[[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], NDArray, int, int], Painted]

log = logging.getLogger(__name__)


def choose_renderer(renderer: Renderer) -> str:
    """Make `rasterise` use it in this process from now on; returns what draws. auto: OpenGL where a GPU does it.

    Raises ConfigError when OpenGL is asked for by name and cannot be had.
    """
    global _rasteriser
    _rasteriser = _by_opencv
    if renderer == "opencv" or (renderer == "auto" and not has_gpu()):
        return "OpenCV"
    try:
        from training.synth.render_gl import GlRasteriser

        by_opengl = GlRasteriser()
    except Exception as error:  # moderngl and EGL raise plain exceptions
        if renderer == "opengl":
            raise ConfigError(
                "no OpenGL", expected="moderngl and an EGL driver", got=error, remedy="pip install moderngl, or opencv"
            ) from error
        log.info("no OpenGL (%s): drawing by OpenCV", error)
        return "OpenCV"
    if renderer == "auto" and by_opengl.is_software:  # twice as slow as OpenCV
        return "OpenCV"
    _rasteriser = by_opengl
    return f"OpenGL, {by_opengl.device}"


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


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether Linux shows a graphics device to draw with. To ask OpenGL would load its software driver."""
    return any(any(devices.glob(pattern)) for pattern in ("dri/renderD*", "nvidia[0-9]*"))


def rasterise(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    colours: NDArray[np.float32],
    matrix: NDArray,
    width: int,
    height: int,
) -> Painted:
    """Paint a mesh with interpolated vertex colours, by OpenCV unless `choose_renderer` said otherwise.

    Args:
        vertices: (V, 3) float32 metres, camera frame; all must be in front of the camera.
        faces: (F, 3) int32.
        colours: (V, 3) float32 in [0, 1].
        matrix: (3, 3) pinhole intrinsics in pixels.
        width, height: of the image.

    Returns:
        (height, width, 3) float32 image, black where nothing is, and the (height, width) bool mask of the mesh.
    """
    return _rasteriser(vertices, faces, colours, matrix, width, height)


def _by_opencv(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    colours: NDArray[np.float32],
    matrix: NDArray,
    width: int,
    height: int,
) -> Painted:
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


_rasteriser: Rasteriser = _by_opencv
