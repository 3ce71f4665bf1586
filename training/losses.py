"""The losses of METRO, by mesh spec: one small function a term (paper, section 3.4).

Metres and crop coordinates in, one number out. A `has_*` mask (N,), 1 where a sample carries that kind of truth, picks
samples; a term that no sample qualifies for is 0 and still differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.heads import project
from training.network import MetroOutput


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each term counts; `levels` has one weight per mesh level, coarsest first."""

    joints: float
    vertices: float
    keypoints: float
    levels: tuple[float, ...]


BODY_WEIGHTS = LossWeights(joints=1000.0, vertices=100.0, keypoints=100.0, levels=(0.33, 0.33, 0.33))
"""The paper's body; its code weighs the 2D term like the vertices."""
HAND_WEIGHTS = LossWeights(joints=1.0, vertices=1.0, keypoints=1.0, levels=(0.5, 0.5))


class Truth(NamedTuple):
    """What is known of a batch.

    Attributes:
        joints: (N, J, 3) metres.
        vertices: per level (N, V_level, 3) metres, root-relative, coarsest first.
        keypoints: (N, J, 2) crop coordinates in [-1, 1].
        joint_confidence, keypoint_confidence: (N, J), 0 or 1.
        has_joints, has_vertices: (N,) 0 or 1, or None where all samples have them.
    """

    joints: Tensor
    vertices: tuple[Tensor, ...]
    keypoints: Tensor
    joint_confidence: Tensor
    keypoint_confidence: Tensor
    has_joints: Tensor | None = None
    has_vertices: Tensor | None = None


class MetroLosses(NamedTuple):
    """Unweighted terms, scalars; the regressed ones are 0 without a regressor."""

    joints: Tensor
    regressed_joints: Tensor
    vertices: Tensor
    keypoints: Tensor
    regressed_keypoints: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """The weighted sum to minimise."""
        return (
            weights.joints * (self.joints + self.regressed_joints)
            + weights.vertices * self.vertices
            + weights.keypoints * (self.keypoints + self.regressed_keypoints)
        )


def metro_losses(
    output: MetroOutput,
    truth: Truth,
    *,
    root_joints: tuple[int, ...],
    level_weights: tuple[float, ...],
    regressor: Tensor | None,
) -> MetroLosses:
    """All five terms. Levels that the network was not asked for do not count.

    Args:
        regressor: (J, V) joints from the vertices of the computed level that has V of them (the paper: the finest), or
            None to leave the regressed terms out.

    Raises:
        ValueError: no computed level has as many vertices as the regressor has columns.
    """
    zero = output.joints.sum() * 0
    regressed_joints = regressed_keypoints = zero
    if regressor is not None:
        regressed = regressor @ _level_of(output.vertices, regressor.shape[1])
        regressed_joints = joint_loss(regressed, truth.joints, truth.joint_confidence, root_joints, truth.has_joints)
        regressed_keypoints = keypoint_loss(
            project(regressed, output.camera), truth.keypoints, truth.keypoint_confidence
        )
    return MetroLosses(
        joints=joint_loss(output.joints, truth.joints, truth.joint_confidence, root_joints, truth.has_joints),
        regressed_joints=regressed_joints,
        vertices=vertices_loss(output.vertices, truth.vertices, level_weights, truth.has_vertices),
        keypoints=keypoint_loss(project(output.joints, output.camera), truth.keypoints, truth.keypoint_confidence),
        regressed_keypoints=regressed_keypoints,
    )


def vertices_loss(
    predicted: tuple[Tensor | None, ...],
    truth: tuple[Tensor, ...],
    level_weights: tuple[float, ...],
    has_vertices: Tensor | None = None,
) -> Tensor:
    """Weighted sum over levels of the mean absolute error of vertices (N, V_level, 3); None levels are left out."""
    terms = [
        weight * _mean_over_samples((ours - theirs).abs(), has_vertices)
        for ours, theirs, weight in zip(predicted, truth, level_weights, strict=True)
        if ours is not None
    ]
    return torch.stack(terms).sum()


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
    return joints - joints[:, list(root_joints)].mean(dim=1, keepdim=True)


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
