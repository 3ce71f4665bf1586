"""A labelled clip of the one thing that the tiny network knows: an ellipsoid that moves to the right."""

from pathlib import Path

import cv2
import numpy as np
from tiny_bundle import RADII_M, person_image, tiny_mesh

WIDTH, HEIGHT, FOCAL_PX, FRAMES = 160, 120, 150.0, 12
BODY_PX = 70.0


def write_tiny_clip(folder: Path) -> None:
    """FRAMES lossless images, and their truth."""
    (folder / "frames").mkdir(parents=True)
    depth = 2 * RADII_M[1] * FOCAL_PX / BODY_PX
    transforms = np.zeros((FRAMES, 1, 1, 3, 4), np.float32)
    transforms[..., :3] = np.eye(3)
    for frame in range(FRAMES):
        column = 60.0 + 3.0 * frame
        cv2.imwrite(str(folder / "frames" / f"{frame:03}.png"), person_image(WIDTH, HEIGHT, (column, 60.0), BODY_PX))
        transforms[frame, 0, 0, :, 3] = ((column - 79.5) / FOCAL_PX * depth, (60.0 - 59.5) / FOCAL_PX * depth, depth)
    vertices = tiny_mesh()["template"]
    np.savez(
        folder / "truth.npz",
        rest_vertices=vertices[None],
        skin_indices=np.zeros((len(vertices), 1), np.uint8),
        skin_weights=np.ones((len(vertices), 1), np.float16),
        bone_transforms=transforms,
        visible=np.ones((FRAMES, 1), np.float16),
        matrix=np.array(((FOCAL_PX, 0, 79.5), (0, FOCAL_PX, 59.5), (0, 0, 1))),
        size=np.array((WIDTH, HEIGHT)),
        fps=np.float32(30),
    )
