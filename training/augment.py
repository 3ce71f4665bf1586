"""Stored crops seen anew: turned and scaled about their centre, and recoloured, a batch at a time.

Turning the crop about its centre is turning the camera about the ray through it, so the truth turns with it exactly
(METRO's own augmentation, section 7 of its code: rotation, scale and a gain per channel).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Spread of each change: standard deviations of the turn (degrees) and of log scale, and the gains' range."""

    rotation_deg: float = 10.0
    rotation_limit_deg: float = 30.0
    upright: float = 0.4
    log_scale: float = 0.07
    gain: tuple[float, float] = (0.7, 1.35)
    swap_channels: float = 0.15


class Batch(NamedTuple):
    """A batch as `training.synth.shards` stores it, on one device; see `synth.samples.Sample` for the fields."""

    image: Tensor
    joints: Tensor
    coarse: Tensor
    middle: Tensor
    keypoints: Tensor
    visible: Tensor
    mask: Tensor
    surface: Tensor
    person: Tensor


def augment(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Batch:
    """Turn, scale and recolour; image becomes float32 (N, S, S, 3) in [0, 255], everything else keeps its shape.

    generator: of the CPU, whatever device the batch is on, so that the same seed turns alike everywhere.
    """
    count, device = len(batch.image), batch.image.device

    def normal() -> Tensor:
        return torch.randn(count, generator=generator).to(device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    limit = math.radians(config.rotation_limit_deg)
    angle = (normal() * math.radians(config.rotation_deg)).clamp(-limit, limit) * (uniform(count) > config.upright)
    scale = torch.exp(normal() * config.log_scale)
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)

    # affine_grid asks where each new pixel comes from: turned back and scaled down.
    back = torch.cat([turn.transpose(1, 2) / scale[:, None, None], torch.zeros(count, 2, 1, device=device)], dim=2)
    low, high = config.gain
    gain = low + (high - low) * uniform(count, 1) * (0.9 + 0.2 * uniform(count, 3))
    image = _warp(batch.image.permute(0, 3, 1, 2).float(), back).permute(0, 2, 3, 1)
    image = (image * gain[:, None, None]).clamp(0, 255)
    if torch.rand(1, generator=generator) < config.swap_channels:
        image = image[..., torch.randperm(3, generator=generator)]
    keypoints = torch.einsum("nij,npj->npi", turn, batch.keypoints) * scale[:, None, None]
    return batch._replace(
        image=image,
        joints=_turn(batch.joints, turn),
        coarse=_turn(batch.coarse, turn),
        middle=_turn(batch.middle, turn),
        keypoints=keypoints,
        visible=batch.visible * (keypoints.abs() < 1).all(dim=2),
        mask=_warp(batch.mask[:, None], back)[:, 0],
        surface=_warp(batch.surface, back),
    )


def _turn(points: Tensor, turn: Tensor) -> Tensor:
    """(N, P, 3) points turned about the viewing axis by (N, 2, 2)."""
    return torch.cat([torch.einsum("nij,npj->npi", turn, points[..., :2]), points[..., 2:]], dim=2)


def _warp(maps: Tensor, back: Tensor) -> Tensor:
    """(N, C, H, W) maps sampled at (N, 2, 3) affine positions, zero outside."""
    grid = F.affine_grid(back, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
