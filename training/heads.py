"""From maps and tokens to 2D: keypoints read from heatmaps, and the weak-perspective camera (s, tx, ty)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

CONFIDENCE_FLOOR = 1e-3
"""Keeps the weights' sum away from zero when no joint is believed."""
VARIANCE_FLOOR = 1e-6
"""Square metres added to the joints' spread, 0.2 for a body, 0.003 for a hand: only an untrained network feels it."""
MIN_SCALE = 0.05
"""Crop half-widths a metre. At 0.05 a crop is 40 m wide; the projection needs s > 0 and no more."""


class Keypoints(NamedTuple):
    """position (N, J, 2) in crop coordinates [-1, 1], x right, y down; confidence (N, J), logits."""

    position: Tensor
    confidence: Tensor


class KeypointHead(nn.Module):
    """Soft-argmax of the heatmaps, and how far to believe each joint."""

    def __init__(self, *, joints: int, image_channels: int) -> None:
        super().__init__()
        self.confidence = nn.Linear(image_channels + joints, joints)

    def forward(self, heatmaps: Tensor, image: Tensor) -> Keypoints:
        """heatmaps (N, J, H, W) logits, image (N, C, h, w) -> Keypoints.

        The confidence sees the pooled image and the log-probability of each map's peak (a map that is spread out is a
        joint that was not found); a softmax forgets the logits' offset, so the raw maximum would mean nothing.
        """
        probability = heat(heatmaps)
        across, down = probability.sum(dim=2), probability.sum(dim=3)
        position = torch.stack(
            [across @ cell_centres(across.shape[2], across), down @ cell_centres(down.shape[2], down)], dim=2
        )
        peak = probability.flatten(2).amax(dim=2).log()
        return Keypoints(position, self.confidence(torch.cat([image.mean(dim=(2, 3)), peak], dim=1)))


def features_at_joints(heatmaps: Tensor, fine: Tensor) -> Tensor:
    """Logits (N, J, H, W) and a map (N, P, H, W) -> (N, J, P), the map's mean where each joint is believed to be."""
    return heat(heatmaps).flatten(2) @ fine.flatten(2).transpose(1, 2)


def heat(heatmaps: Tensor) -> Tensor:
    """Logits (N, J, H, W) -> where each joint is, as a probability for every cell, (N, J, H, W)."""
    return heatmaps.flatten(2).softmax(dim=2).unflatten(2, heatmaps.shape[2:])


def fit_camera(joints: Tensor, keypoints: Tensor, confidence: Tensor) -> Tensor:
    """The (s, tx, ty) that lays 3D joints onto 2D keypoints: weighted least squares in closed form.

    Minimises the sum of w |s (xy + t) - uv|^2: s is a ratio of weighted (co)variances, t follows from the means.

    Args:
        joints: (N, J, 3) metres. keypoints: (N, J, 2) crop coordinates. confidence: (N, J) logits.

    Returns:
        (N, 3), s at least MIN_SCALE. Plain sums only, so that it differentiates and exports everywhere.
    """
    weights = (confidence.sigmoid() + CONFIDENCE_FLOOR).unsqueeze(2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    xy = joints[..., :2]
    mean_xy = (weights * xy).sum(dim=1, keepdim=True)
    mean_uv = (weights * keypoints).sum(dim=1, keepdim=True)
    spread = xy - mean_xy
    variance = (weights * spread * spread).sum(dim=(1, 2)) + VARIANCE_FLOOR
    covariance = (weights * spread * (keypoints - mean_uv)).sum(dim=(1, 2))
    scale = (covariance / variance).clamp(min=MIN_SCALE).unsqueeze(1)
    translation = mean_uv.squeeze(1) / scale - mean_xy.squeeze(1)
    return torch.cat([scale, translation], dim=1)


def project(points: Tensor, camera: Tensor) -> Tensor:
    """Weak perspective: points (N, P, 3) metres, camera (N, 3) -> (N, P, 2) crop coordinates."""
    return camera[:, None, :1] * (points[..., :2] + camera[:, None, 1:])


def cell_centres(count: int, like: Tensor) -> Tensor:
    """(count,) centres of the cells that divide [-1, 1]: (2 p + 1) / count - 1."""
    return (2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1
