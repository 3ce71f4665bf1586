"""Side tasks of the default network's backbone: what is visible in the image, densely supervised.

A small network that starts from nothing learns far faster when its feature map must also say where each joint is, what
belongs to the person and which part of the body each pixel shows; synthetic images know all three exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.datasets.mixture import Batch
from training.heads import cell_centres
from training.losses import Truth


@dataclass(frozen=True, slots=True)
class SideWeights:
    """What each side task counts beside `losses.LossWeights`.

    Large, so that the backbone listens to them first: while the tokens know nothing, their gradient is noise to it.
    """

    heatmaps: float = 5.0
    keypoints: float = 20.0
    confidence: float = 5.0
    mask: float = 10.0
    surface: float = 50.0
    anchored_joints: float = 50.0


class Seen(NamedTuple):
    """What the default backbone and its keypoint head say; see `network.MetroOutput` for the fields."""

    keypoints: Tensor
    confidence: Tensor
    heatmaps: Tensor
    mask: Tensor
    surface: Tensor


def heatmap_targets(keypoints: Tensor, size: int, sigma_cells: float = 1.0) -> Tensor:
    """(N, J, 2) crop coordinates to (N, J, size * size) distributions, Gaussians that sum to 1."""
    centres = cell_centres(size, keypoints)
    sigma = sigma_cells * 2.0 / size
    logits = -((keypoints[..., None] - centres) ** 2) / (2 * sigma**2)  # (N, J, 2, size)
    joint = logits[:, :, 1, :, None] + logits[:, :, 0, None, :]
    return joint.flatten(2).softmax(dim=2)


def side_loss(output: Seen, batch: Batch, weights: SideWeights) -> Tensor:
    """Weighted sum of the side tasks; scalars, averaged over the joints and pixels that each task knows of.

    Whether a joint is visible is known only of samples with dense truth: elsewhere an unknown keypoint may be in view.
    """
    seen = batch.keypoint_confidence
    seen_count = seen.sum().clamp(min=1.0)
    target = heatmap_targets(batch.keypoints, output.heatmaps.shape[-1])
    heatmaps = (-(target * output.heatmaps.flatten(2).log_softmax(dim=2)).sum(dim=2) * seen).sum() / seen_count
    keypoints = ((output.keypoints - batch.keypoints).abs().sum(dim=2) * seen).sum() / seen_count
    known = batch.has_dense / batch.has_dense.sum().clamp(min=1.0)
    believed = F.binary_cross_entropy_with_logits(output.confidence, seen, reduction="none").mean(dim=1)
    terms = [
        weights.heatmaps * heatmaps,
        weights.keypoints * keypoints,
        weights.confidence * (believed * known).sum(),
    ]
    if batch.mask is not None and batch.surface is not None:
        covered = batch.mask[:, None]
        body = (covered > 0.5).float()
        outline = F.binary_cross_entropy_with_logits(output.mask, covered, reduction="none").mean(dim=(1, 2, 3))
        surface = ((output.surface - batch.surface).abs() * body).sum() / (3.0 * body.sum().clamp(min=1.0))
        terms += [weights.mask * (outline * known).sum(), weights.surface * surface]
    return torch.stack(terms).sum()


def anchor_loss(joints: Tensor, truth: Truth) -> Tensor:
    """Mean absolute error of the joint tokens (N, J, 3), unaligned: the joint loss of the paper compares shapes only,
    and this pins the tokens to the mesh's own origin, which the camera needs."""
    known = truth.joint_confidence[:, :, None]
    if truth.has_joints is not None:
        known = known * truth.has_joints[:, None, None]
    errors = ((joints - truth.joints).abs() * known).sum()
    return errors / (3.0 * known.sum()).clamp(min=1.0)
