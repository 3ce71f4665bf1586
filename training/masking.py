"""Masked vertex modelling: hide random tokens so that the others must explain them (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

MASKED_VALUE = 0.01
"""What a hidden token's every feature becomes (the original's constant, not zero)."""


def sample_token_mask(
    batch: int,
    joints: int,
    vertices: int,
    ratio: float,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """(batch, joints + vertices, 1) float32: 0 hides a token, 1 keeps it.

    Per sample and independently for joints and vertices: p ~ U[0, 1), then int(p * ratio * count) distinct tokens are
    hidden. `ratio` is therefore the most, and half of it the mean.
    """
    parts = [_sample_group(batch, count, ratio, device, generator) for count in (joints, vertices)]
    return torch.cat(parts, dim=1).unsqueeze(2)


def mask_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """tokens (N, T, C), mask (N, T, 1): template and image features of a hidden token all become MASKED_VALUE."""
    return tokens * mask + MASKED_VALUE * (1 - mask)


def _sample_group(
    batch: int, count: int, ratio: float, device: torch.device | str, generator: torch.Generator | None
) -> Tensor:
    hidden = (torch.rand(batch, 1, device=device, generator=generator) * ratio * count).floor()
    rank = torch.rand(batch, count, device=device, generator=generator).argsort(dim=1)
    return (rank >= hidden).float()
