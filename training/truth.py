"""What is true of a batch, as the losses compare it: poses become meshes, meshes are root-relative at every level."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from metro_ros.core.errors import ConfigError
from training.datasets.mixture import Batch
from training.losses import Truth
from training.mesh_spec import MeshSpec
from training.skinning import SkinnedModel


class TruthMaker(nn.Module):
    """Batch -> Truth.

    Args:
        mesh: whose levels are asked for; its rows pick the coarser levels out of the one that the truth has.
        body_model: turns pose and betas into the finest level, or None where no dataset has them.
        vertex_count: of the batches' vertices, None where no dataset has them.
        joints_from_mesh: see `training.stages.Objective`.

    Raises:
        ConfigError: no level has that many vertices, or the mesh does not tell how levels follow from each other.
    """

    root_row: Tensor | None
    joint_regressor: Tensor | None

    def __init__(
        self,
        mesh: MeshSpec,
        body_model: SkinnedModel | None,
        vertex_count: int | None,
        joints_from_mesh: bool = False,
    ) -> None:
        super().__init__()
        self.body_model = body_model
        known = mesh.level_sizes[-1] if body_model is not None else vertex_count
        if vertex_count not in (None, known) or (known is not None and known not in mesh.level_sizes):
            raise ConfigError("vertices of the truth", expected=f"one of {mesh.level_sizes}", got=vertex_count)
        self.level = None if known is None else mesh.level_sizes.index(known)
        self.is_finest = known == mesh.level_sizes[-1]
        self.root_joints = mesh.root_joints
        self.joints_from_mesh = joints_from_mesh
        row = mesh.root_row
        self.register_buffer("root_row", None if row is None else torch.tensor(row), persistent=False)
        regressor = mesh.joint_regressor
        self.register_buffer(
            "joint_regressor", None if regressor is None else torch.tensor(regressor), persistent=False
        )
        self.levels = len(mesh.level_sizes)
        for level in range(self.level or 0):
            rows = torch.tensor(_rows_within(mesh, level, self.level or 0))
            self.register_buffer(f"rows_{level}", rows, persistent=False)

    def forward(self, batch: Batch) -> Truth:
        """Levels finer than the truth's are None; so are all where nothing is known of the mesh.

        Joints count only with their root, which the loss compares them from; where a dataset does not tell where it is,
        all of them are regressed from the true mesh, if that is known and asked for.
        """
        levels: list[Tensor | None] = [None] * self.levels
        finest, has = self._vertices(batch)
        if finest is not None and self.level is not None:
            levels[self.level] = finest
            for level in range(self.level):
                levels[level] = finest[:, self.get_buffer(f"rows_{level}")]
        joints, confidence, has_joints = self._joints(batch, finest, has)
        return Truth(
            joints=joints,
            vertices=tuple(levels),
            keypoints=batch.keypoints,
            joint_confidence=confidence,
            keypoint_confidence=batch.keypoint_confidence,
            has_joints=has_joints,
            has_vertices=has,
        )

    def _joints(self, batch: Batch, finest: Tensor | None, has: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joints (N, J, 3), their confidence (N, J), and (N,) which samples have them."""
        rooted = batch.has_joints > 0
        for root in self.root_joints:
            rooted = rooted & (batch.joint_confidence[:, root] > 0)
        joints, confidence = batch.joints, batch.joint_confidence
        if not self.joints_from_mesh or finest is None or not self.is_finest or self.joint_regressor is None:
            return joints, confidence, rooted.float()
        from_mesh = ~rooted & (has > 0)
        joints = torch.where(from_mesh[:, None, None], self.joint_regressor @ finest, joints)
        confidence = torch.where(from_mesh[:, None], torch.ones_like(confidence), confidence)
        return joints, confidence, (rooted | from_mesh).float()

    def _vertices(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """(N, V, 3) root-relative vertices, and (N,) which of them are known."""
        vertices, has = batch.vertices, batch.has_vertices
        if self.body_model is not None and batch.pose is not None and batch.betas is not None:
            with torch.no_grad():
                posed = self.body_model(batch.pose, batch.betas).vertices
            chosen = batch.has_pose[:, None, None] > 0
            vertices = posed if vertices is None else torch.where(chosen, posed, vertices)
            has = torch.maximum(has, batch.has_pose)
        if vertices is not None and self.is_finest and self.root_row is not None:
            vertices = vertices - (self.root_row @ vertices)[:, None]
        return vertices, has


def _rows_within(mesh: MeshSpec, level: int, of: int) -> np.ndarray:
    """(V_level,) int64 rows of level `of` that make `level`."""
    if not mesh.rows:
        raise ConfigError(f"mesh {mesh.name}", expected="rows, to pick coarser levels out of finer ones", got="none")
    place = {int(row): index for index, row in enumerate(mesh.rows[of])}
    try:
        return np.array([place[int(row)] for row in mesh.rows[level]])
    except KeyError as error:
        raise ConfigError(f"mesh {mesh.name}", expected="levels that lie in each other", got=f"row {error}") from error
