"""Predictions as pictures: each mesh and skeleton over the crop it was read from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.camera import Camera
from metro_ros.core.crop import whole_image_box
from metro_ros.core.draw import contact_sheet, draw_people
from metro_ros.core.estimator import Person
from metro_ros.core.skeleton import Skeleton
from training.mesh_spec import MeshSpec

FOCAL_CROPS = 40.0
"""Focal length in crop sides: so long a lens that perspective and weak perspective agree."""
MIN_SCALE = 1e-2
"""An untrained network may answer a scale of nothing, or less."""


def prediction_sheet(
    crops: NDArray[np.uint8],
    joints: NDArray[np.float32],
    vertices: NDArray[np.float32],
    camera: NDArray[np.float32],
    mesh: MeshSpec,
) -> NDArray[np.uint8]:
    """One picture of N crops, RGB (H, W, 3) uint8.

    Args:
        crops: (N, S, S, 3) uint8 RGB. joints: (N, J, 3) metres. vertices: (N, V, 3) metres, of any level of `mesh`.
        camera: (N, 3) weak perspective.
    """
    level = mesh.level_sizes.index(vertices.shape[1])
    faces = mesh.faces[level] if mesh.faces else np.zeros((0, 3), np.int32)
    skeleton = Skeleton(mesh.joint_names, mesh.joint_parents)
    size = crops.shape[1]
    focal = FOCAL_CROPS * size
    middle = (size - 1) / 2
    lens = Camera(size, size, np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]], np.float64))
    pictures = []
    for crop, points, surface, (scale, x, y) in zip(crops, joints, vertices, camera, strict=True):
        place = np.array([x, y, 2 * FOCAL_CROPS / max(float(scale), MIN_SCALE)], np.float32)
        box = whole_image_box(size, size)
        person = Person(0, 1.0, box, points + place, surface + place, place, "nominal", None)
        bgr = np.ascontiguousarray(crop[:, :, ::-1])
        pictures.append(draw_people(bgr, [person], lens, faces, skeleton)[:, :, ::-1])
    return contact_sheet(pictures, columns=4, cell_width=size)
