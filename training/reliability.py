"""How likely each joint is to be right: a small head over what a finished network saw and answered.

It is fitted by training.calibrate when all else is trained, and changes nothing else: what it reads is either in the
network or follows from it. A joint that is hidden is given away by a heatmap that is spread out, by a silhouette that
does not cover it, and by a 3D joint that does not project onto its keypoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.heads import cell_centres, heat, project

CLUES = 5
"""Numbers of each joint, see `gather_clues`."""
SMALLEST = 0.01
"""A distance below which none matters, in metres, and in halves of the crop's side."""
TINY = 1e-6
"""Keeps divisors and logarithms off zero."""
SURE = 8.0
"""Visibility logits count up to here: what is certain cannot get more certain."""


class ReliabilityHead(nn.Module):
    """Clues -> logits (N, J) of the probability that a joint is within the network's `reliability_mm` of the truth.

    One logistic regression a joint, over the clues of all joints, since a wrong hip moves every other one. The pooled
    image features and the 3D pose add nothing to it (area under the ROC curve on unseen motions: 0.90 with and
    without), and a hidden layer overfits.
    """

    def __init__(self, *, joints: int) -> None:
        super().__init__()
        self.judge = nn.Linear(joints * CLUES + 1, joints)

    def forward(self, clues: Tensor) -> Tensor:
        """clues: (N, J * CLUES + 1), see `gather_clues`."""
        return self.judge(clues)


def sighting(visibility: Tensor, heatmaps: Tensor | None, mask: Tensor | None) -> Tensor:
    """(N, J) in [0, 1], how much of each joint there is to see: that it lies in the crop, and on somebody's silhouette.

    That a joint is in the crop is easily believed of any texture; hardly one of those also has a silhouette where the
    joints should be.

    Args:
        visibility: (N, J) logits of lying in the crop. heatmaps: (N, J, H, W) logits. mask: (N, 1, H, W) logits.
    """
    assert heatmaps is not None and mask is not None
    return visibility.sigmoid() * (heat(heatmaps) * mask.sigmoid()).sum(dim=(2, 3))


def gather_clues(
    heatmaps: Tensor | None, mask: Tensor | None, keypoints: Tensor, visibility: Tensor, joints: Tensor, camera: Tensor
) -> Tensor:
    """What can be known of an answer's quality without the truth, (N, J * CLUES + 1).

    Of each joint: the log-probability of its heatmap's peak; how far the heatmap is spread; the visibility; how far
    the 3D joint projects from the keypoint, in metres at the person; how much of the heatmap lies within the
    silhouette. Last, how much of the crop the silhouette fills.

    Args:
        heatmaps: (N, J, H, W) logits. mask: (N, 1, H, W) logits. keypoints: (N, J, 2) crop coordinates.
        visibility: (N, J) logits. joints: (N, J, 3) metres. camera: (N, 3).
    """
    assert heatmaps is not None and mask is not None  # as in every network with keypoints
    probability, mask = heat(heatmaps), mask.sigmoid()
    across, down = (cell_centres(size, probability).square() for size in (mask.shape[3], mask.shape[2]))
    square = probability.sum(dim=2) @ across + probability.sum(dim=3) @ down
    variance = (square - keypoints.square().sum(dim=2)).clamp(min=0)
    square_gap = (project(joints, camera) - keypoints).square().sum(dim=2) / camera[:, :1].square().clamp(min=TINY)
    own = [
        probability.flatten(2).amax(dim=2).clamp(min=TINY).log(),
        0.5 * (variance + SMALLEST**2).log(),
        visibility.clamp(-SURE, SURE),
        0.5 * (square_gap + SMALLEST**2).log(),
        (probability * mask).sum(dim=(2, 3)),
    ]
    return torch.cat([torch.stack(own, dim=2).flatten(1), mask.mean(dim=(2, 3))], dim=1)
