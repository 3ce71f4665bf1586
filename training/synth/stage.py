"""A body on a lit stage: posed before a camera, its joints, its picture and its shadow. Shared by crops and clips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from training.body import BodyBank, bone_transforms
from training.mesh_spec import MeshSpec
from training.synth.appearance import Appearance, Regions, find_regions
from training.synth.light import Light, self_shadow, shade
from training.synth.props import hang, place
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
        columns = bank.skin_indices.shape[1]
        rows = np.arange(0, bank.skin_indices.size + 1, columns)
        # Linear blend skinning as one sparse product: a third of the time of training.body.skin.
        self._weights = csr_array(
            (bank.skin_weights.ravel(), bank.skin_indices.ravel().astype(np.int32), rows),
            shape=(len(bank.template), len(bank.bone_parents)),
        )
        self._strongest = bank.skin_indices[np.arange(len(bank.template)), bank.skin_weights.argmax(axis=1)]

    @cached_property
    def regions(self) -> Regions:
        """Where garments may reach, on a body; hands have none."""
        return find_regions(self.bank)

    @cached_property
    def _nearest_middle(self) -> NDArray[np.int64]:
        """(V,) the row of the middle level that is nearest to each vertex."""
        return _nearest(self.bank.template, self.bank.template[self.mesh.rows[1]])

    def pose(self, identity: int, rotations: NDArray[np.float32], root: NDArray[np.float64]) -> Posed:
        """Pose an identity by (B, 3, 3) rotations in the camera frame, its mid-hip at `root` (3,) metres."""
        bank = self.bank
        transforms = bone_transforms(rotations, bank.rest_heads[identity], bank.bone_parents)
        blended = (self._weights @ transforms.reshape(len(transforms), 12)).reshape(-1, 3, 4)
        vertices = np.einsum("vij,vj->vi", blended[:, :, :3], bank.rest_vertices[identity]) + blended[:, :, 3]
        joints = self._regressor @ vertices[self._columns]
        shift = (root - joints[list(self.mesh.root_joints)].mean(axis=0)).astype(np.float32)
        transforms[:, :, 3] += shift
        normals = np.einsum("vij,vj->vi", rotations[self._strongest], self._rest_normals)
        return Posed(vertices + shift, normals, joints + shift, transforms)

    def paint(
        self,
        scene: NDArray[np.float32],
        posed: Posed,
        appearance: Appearance,
        matrix: NDArray[np.float64],
        down: NDArray[np.float64],
        light: Light,
        inside: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """Paint the body, all that it wears and carries, and its shadow into a scene, in place.

        Args:
            scene: (H, W, 3) float32 in [0, 1].
            posed, appearance: who, and dressed how.
            matrix: (3, 3) intrinsics of the scene.
            down: (3,) unit, gravity in the camera frame.
            light: of the scene.
            inside: (H, W), where the image has pixels at all, or None for everywhere.

        Returns:
            (H, W) bool, where the body is, with its clothes.
        """
        height, width = scene.shape[:2]
        vertices, faces, colours = self._dressed(posed, appearance, light)
        body, covered = rasterise(vertices, faces, colours, matrix, width, height)
        self._cast_shadow(scene, posed.vertices[self.mesh.rows[1]], down, light, matrix)
        if inside is not None:
            covered &= inside
        scene[covered] = body[covered]
        return covered

    def _dressed(
        self, posed: Posed, appearance: Appearance, light: Light
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        """Vertices, faces and lit colours of a body with its skirt and props."""
        lit = None
        if light.hard:
            rows = self.mesh.rows[1]
            lit = self_shadow(light, posed.vertices[rows], self.mesh.faces[1])[self._nearest_middle]
        vertices = [posed.vertices + posed.normals * appearance.thickness[:, None]]
        faces, colours = [self.bank.faces], [shade(light, appearance.colours, posed.normals, lit)]
        solids = [place(prop, posed.transforms) for prop in appearance.props]
        if appearance.skirt is not None:
            axes = posed.transforms[0, :, :3].astype(np.float64)
            solids.append(hang(appearance.skirt, vertices[0], self.regions.leg, axes))
        count = len(vertices[0])
        for solid in solids:
            if solid.vertices[:, 2].min() < 2 * NEAR_M:
                continue
            vertices.append(solid.vertices)
            faces.append(solid.faces + count)
            colours.append(shade(light, solid.colours, vertex_normals(solid.vertices, solid.faces)))
            count += len(solid.vertices)
        return (
            np.concatenate(vertices).astype(np.float32),
            np.concatenate(faces).astype(np.int32),
            np.concatenate(colours).astype(np.float32),
        )

    def _cast_shadow(
        self,
        scene: NDArray[np.float32],
        middle: NDArray[np.float32],
        down: NDArray[np.float64],
        light: Light,
        matrix: NDArray[np.float64],
    ) -> None:
        """Darken the floor where the body stands between it and the lamp."""
        strength = 0.1 + 0.5 * light.hard
        heights = middle @ down
        away = -light.lamp + 1.5 * down  # a lamp near the horizon would throw a shadow without end
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
        soft = cv2.GaussianBlur(dark.astype(np.float32), (0, 0), light.softness_px)
        scene *= 1.0 - strength * cv2.resize(soft, (width, height))[..., None]


def vertex_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Area-weighted unit normals (V, 3), outward for counter-clockwise faces."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _nearest(points: NDArray[np.float32], of: NDArray[np.float32]) -> NDArray[np.int64]:
    """(V,) for each of points (V, 3) the nearest row of `of` (M, 3)."""
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    return np.array([match.trainIdx for match in matcher.match(points, np.ascontiguousarray(of))])
