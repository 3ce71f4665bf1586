"""The losses of METRO, by mesh spec: one small function a term (paper, section 3.4).

Metres and crop coordinates in, one number out. A `has_*` mask (N,), 1 where a sample carries that kind of truth, picks
samples; a term that no sample qualifies for is 0 and still differentiable. What is unknown may have any finite value.

As in the original code: L1 on vertices, squared errors on joints and keypoints; means over all coordinates of the
samples that qualify, where a joint without confidence counts as 0 and the others for no more; 3D joints from the mean
of their root joints; the 2D term for every sample, since its confidences alone say what is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metro_ros.core.errors import ConfigError
from training.heads import project
from training.mesh_spec import MeshSpec
from training.network import MetroOutput
from training.surface_losses import edge_errors, normal_errors, surfaces


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each term counts; `levels` has one weight per mesh level, coarsest first, also within edges and normals.

    Edges and normals, see surface_losses, are not of METRO, and are not computed while their weight is 0.

    Raises:
        ConfigError: a weight is negative or not finite.
    """

    joints: float
    vertices: float
    keypoints: float
    levels: tuple[float, ...]
    edges: float = 0.0
    normals: float = 0.0

    def __post_init__(self) -> None:
        for weight in (self.joints, self.vertices, self.keypoints, *self.levels, self.edges, self.normals):
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError("loss weights", expected="finite and at least 0", got=weight)


BODY_WEIGHTS = LossWeights(joints=1000.0, vertices=100.0, keypoints=100.0, levels=(0.33, 0.33, 0.33))
"""The paper's body; its code weighs the 2D term like the vertices."""
HAND_WEIGHTS = LossWeights(joints=1.0, vertices=1.0, keypoints=1.0, levels=(0.5, 0.5))


class Truth(NamedTuple):
    """What is known of a batch.

    Attributes:
        joints: (N, J, 3) metres.
        vertices: per level (N, V_level, 3) metres, root-relative, coarsest first; None where a level is unknown.
        keypoints: (N, J, 2) crop coordinates in [-1, 1].
        joint_confidence, keypoint_confidence: (N, J), 0 or 1.
        has_joints, has_vertices: (N,) 0 or 1, or None where all samples have them.
    """

    joints: Tensor
    vertices: tuple[Tensor | None, ...]
    keypoints: Tensor
    joint_confidence: Tensor
    keypoint_confidence: Tensor
    has_joints: Tensor | None = None
    has_vertices: Tensor | None = None


class MetroLosses(NamedTuple):
    """Unweighted terms, scalars; regressed ones are 0 without a regressor, edges and normals None without a weight."""

    joints: Tensor
    regressed_joints: Tensor
    vertices: Tensor
    keypoints: Tensor
    regressed_keypoints: Tensor
    edges: Tensor | None = None
    normals: Tensor | None = None

    def total(self, weights: LossWeights) -> Tensor:
        """The weighted sum to minimise."""
        total = (
            weights.joints * (self.joints + self.regressed_joints)
            + weights.vertices * self.vertices
            + weights.keypoints * (self.keypoints + self.regressed_keypoints)
        )
        if self.edges is not None:
            total = total + weights.edges * self.edges
        if self.normals is not None:
            total = total + weights.normals * self.normals
        return total


def metro_losses(
    output: MetroOutput, truth: Truth, *, mesh: MeshSpec, weights: LossWeights, regressor: Tensor | None
) -> MetroLosses:
    """All terms. Levels that the network was not asked for, or that are unknown, do not count.

    Args:
        mesh: has the root joints, and the faces for edges and normals.
        regressor: (J, V) joints from the vertices of the computed level that has V of them (the paper: the finest), or
            None to leave the regressed terms out. Regressed joints are taken from their own root, not the tokens'.

    Raises:
        ConfigError: weights for another number of levels; edges or normals of a mesh without faces.
        ValueError: no computed level has as many vertices as the regressor has columns.
    """
    if len(weights.levels) != len(mesh.level_sizes):
        raise ConfigError("loss weights", expected=f"one for each level of {mesh.level_sizes}", got=weights.levels)

    def joints_from_root(joints: Tensor) -> Tensor:
        return joint_loss(joints, truth.joints, truth.joint_confidence, mesh.root_joints, truth.has_joints)

    def projected(joints: Tensor) -> Tensor:
        return keypoint_loss(project(joints, output.camera), truth.keypoints, truth.keypoint_confidence)

    def over_levels(error: LevelError) -> Tensor:
        return mean_over_levels(error, output.vertices, truth.vertices, weights.levels, truth.has_vertices)

    regressed_joints = regressed_keypoints = output.joints.new_zeros(())
    if regressor is not None:
        regressed = regressor @ _level_of(output.vertices, regressor.shape[1])
        regressed_joints, regressed_keypoints = joints_from_root(regressed), projected(regressed)
    edges = normals = None
    if weights.edges or weights.normals:
        surface = surfaces(mesh, output.joints.device)
        if weights.edges:
            edges = over_levels(lambda level, ours, theirs: edge_errors(ours, theirs, surface[level].edges))
        if weights.normals:
            normals = over_levels(lambda level, ours, theirs: normal_errors(ours, theirs, surface[level].faces))
    return MetroLosses(
        joints=joints_from_root(output.joints),
        regressed_joints=regressed_joints,
        vertices=over_levels(vertex_errors),
        keypoints=projected(output.joints),
        regressed_keypoints=regressed_keypoints,
        edges=edges,
        normals=normals,
    )


LevelError = Callable[[int, Tensor, Tensor], Tensor]
"""(level, predicted (N, V, 3), truth (N, V, 3)) -> (N, ...) errors."""


def mean_over_levels(
    error: LevelError,
    predicted: tuple[Tensor | None, ...],
    truth: tuple[Tensor | None, ...],
    level_weights: tuple[float, ...],
    has_vertices: Tensor | None = None,
) -> Tensor:
    """Weighted sum over levels of the mean error of the samples that have vertices.

    A level counts where it is predicted, known and weighted; where it is only predicted it adds 0 times its vertices,
    so that processes that share a step all reach the same parameters.
    """
    terms = []
    for level, (ours, theirs, weight) in enumerate(zip(predicted, truth, level_weights, strict=True)):
        if ours is not None and theirs is not None and weight:
            terms.append(weight * _mean_over_samples(error(level, ours, theirs), has_vertices))
        elif ours is not None:
            terms.append(0.0 * ours.sum())
    return torch.stack(terms).sum()


def vertex_errors(level: int, predicted: Tensor, truth: Tensor) -> Tensor:
    """(N, V, 3) metres, absolute, along each axis."""
    return (predicted - truth).abs()


def joint_loss(
    predicted: Tensor,
    truth: Tensor,
    confidence: Tensor,
    root_joints: tuple[int, ...],
    has_joints: Tensor | None = None,
) -> Tensor:
    """Squared error of joints (N, J, 3), both relative to the mean of their root joints, times confidence (N, J).

    The mean is over all elements: a joint without confidence lowers the loss, it does not raise the others.
    """
    error = relative_to_root(predicted, root_joints) - relative_to_root(truth, root_joints)
    return _mean_over_samples(error.square() * confidence.unsqueeze(2), has_joints)


def keypoint_loss(predicted: Tensor, truth: Tensor, confidence: Tensor) -> Tensor:
    """Squared error of keypoints (N, J, 2), crop coordinates, times confidence (N, J); mean over all elements."""
    return ((predicted - truth).square() * confidence.unsqueeze(2)).mean()


def relative_to_root(joints: Tensor, root_joints: tuple[int, ...]) -> Tensor:
    """joints (N, J, 3) minus the mean of the root joints."""
    # Not by a list of indices: those travel to a GPU anew each time, which waits for it.
    roots = torch.stack([joints[:, root] for root in root_joints], dim=1)
    return joints - roots.mean(dim=1, keepdim=True)


def _mean_over_samples(values: Tensor, has: Tensor | None) -> Tensor:
    """Mean of values (N, ...) over the samples where `has` is 1, or 0 when there are none."""
    if has is None:
        return values.mean()
    return (values.flatten(1).mean(dim=1) * has).sum() / has.sum().clamp(min=1)


def _level_of(vertices: tuple[Tensor | None, ...], count: int) -> Tensor:
    for level in vertices:
        if level is not None and level.shape[1] == count:
            return level
    sizes = [None if level is None else level.shape[1] for level in vertices]
    raise ValueError(f"the regressor takes {count} vertices, the computed levels have {sizes}")
