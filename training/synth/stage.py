"""A body on a lit stage: posed before a camera, its joints, its picture and its shadow. Shared by crops and clips."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.body import BodyBank, bone_transforms, skin
from training.mesh_spec import MeshSpec
from training.synth.appearance import Appearance, shade
from training.synth.render import NEAR_M, rasterise

_SHADOW_REDUCTION = 4


@dataclass(frozen=True, slots=True)
class Posed:
    """One body in the camera frame. vertices (V, 3), normals (V, 3), joints (J, 3), transforms (B, 3, 4), metres."""

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    joints: NDArray[np.float32]
    transforms: NDArray[np.float32]


class Stage:
    """Poses the bodies of a bank and paints them."""

    def __init__(self, bank: BodyBank, mesh: MeshSpec) -> None:
        assert mesh.joint_regressor is not None
        self.bank, self.mesh = bank, mesh
        self._columns = np.flatnonzero(mesh.joint_regressor.any(axis=0))
        self._regressor = mesh.joint_regressor[:, self._columns]
        self._rest_normals = vertex_normals(bank.template, bank.faces)
        self._strongest = bank.skin_indices[np.arange(len(bank.template)), bank.skin_weights.argmax(axis=1)]

    def pose(self, identity: int, rotations: NDArray[np.float32], root: NDArray[np.float64]) -> Posed:
        """Pose an identity by (B, 3, 3) rotations in the camera frame, its mid-hip at `root` (3,) metres."""
        bank = self.bank
        transforms = bone_transforms(rotations, bank.rest_heads[identity], bank.bone_parents)
        vertices = skin(bank.rest_vertices[identity], transforms, bank.skin_indices, bank.skin_weights)
        joints = self._regressor @ vertices[self._columns]
        shift = (root - joints[list(self.mesh.root_joints)].mean(axis=0)).astype(np.float32)
        transforms[:, :, 3] += shift
        normals = (rotations[self._strongest] @ self._rest_normals[:, :, None])[:, :, 0]
        return Posed(vertices + shift, normals, joints + shift, transforms)

    def paint(
        self,
        scene: NDArray[np.float32],
        posed: Posed,
        appearance: Appearance,
        matrix: NDArray[np.float64],
        down: NDArray[np.float64],
        light: np.random.Generator,
        inside: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """Paint the body and its shadow into a scene, in place.

        Args:
            scene: (H, W, 3) float32 in [0, 1].
            posed, appearance: who, and dressed how.
            matrix: (3, 3) intrinsics of the scene.
            down: (3,) unit, gravity in the camera frame.
            light: chooses the lamp and the shadow; the same state gives the same light.
            inside: (H, W), where the image has pixels at all, or None for everywhere.

        Returns:
            (H, W) bool, where the body is.
        """
        colours, lamp = shade(light, appearance.colours, posed.normals)
        height, width = scene.shape[:2]
        shape = posed.vertices + posed.normals * appearance.thickness[:, None]
        body, covered = rasterise(shape, self.bank.faces, colours, matrix, width, height)
        self._cast_shadow(scene, posed.vertices[self.mesh.rows[1]], down, lamp, matrix, light)
        if inside is not None:
            covered &= inside
        scene[covered] = body[covered]
        return covered

    def _cast_shadow(
        self,
        scene: NDArray[np.float32],
        middle: NDArray[np.float32],
        down: NDArray[np.float64],
        lamp: NDArray[np.float64],
        matrix: NDArray[np.float64],
        light: np.random.Generator,
    ) -> None:
        """Darken the floor where the body stands between it and the lamp."""
        softness, strength = light.uniform(0.6, 2.5), light.uniform(0.1, 0.6)
        heights = middle @ down
        away = -lamp + 1.5 * down  # a lamp near the horizon would throw a shadow without end
        fallen = middle + ((heights.max() - heights) / (away @ down))[:, None] * away
        if fallen[:, 2].min() < 2 * NEAR_M:
            return
        height, width = scene.shape[:2]
        reduced = matrix.copy()
        reduced[:2] /= _SHADOW_REDUCTION
        reduced[:2, 2] += 0.5 / _SHADOW_REDUCTION - 0.5
        _, dark = rasterise(
            fallen.astype(np.float32),
            self.mesh.faces[1],
            np.zeros_like(middle),
            reduced,
            width // _SHADOW_REDUCTION,
            height // _SHADOW_REDUCTION,
        )
        soft = cv2.GaussianBlur(dark.astype(np.float32), (0, 0), softness)
        scene *= 1.0 - strength * cv2.resize(soft, (width, height))[..., None]


def vertex_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Area-weighted unit normals (V, 3), outward for counter-clockwise faces."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)
