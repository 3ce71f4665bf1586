"""The finder's loss: CenterNet's focal loss on the heat map, generalised IoU (Rezatofighi et al. 2019) on the sides."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.finder.network import Maps

GIOU_WEIGHT = 2.0


class TargetBatch(NamedTuple):
    """N `targets.Targets`, stacked."""

    heat: Tensor
    counts: Tensor
    sides: Tensor
    taught: Tensor


def focal_loss(logits: Tensor, heat: Tensor, counts: Tensor) -> Tensor:
    """Equation 1 of Objects as Points, alpha 2 and beta 4, per person; all maps are (N, h, w).

    A person's centre is all the cells where the heat is 1, together as heavy as one.
    """
    found = logits.sigmoid()
    centre = heat == 1.0
    positive = F.softplus(-logits) * (1 - found) ** 2
    negative = F.softplus(logits) * found**2 * (1 - heat) ** 4
    people = (counts * centre).sum().clamp(min=1)
    return (torch.where(centre, positive, negative) * counts).sum() / people


def giou_loss(sides: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """1 - GIoU of boxes around the same point, the weighted mean; sides (N, 4, h, w), weights (N, h, w)."""
    smaller, larger = torch.minimum(sides, wanted), torch.maximum(sides, wanted)

    def area(four: Tensor) -> Tensor:
        return (four[:, 0] + four[:, 2]) * (four[:, 1] + four[:, 3])

    shared, hull = area(smaller), area(larger)
    union = area(sides) + area(wanted) - shared
    giou = shared / union - (hull - union) / hull
    return ((1 - giou) * weights).sum() / weights.sum().clamp(min=1e-3)


def finder_loss(maps: Maps, targets: TargetBatch) -> Tensor:
    """The sum of both."""
    return focal_loss(maps.heat, targets.heat, targets.counts) + GIOU_WEIGHT * giou_loss(
        maps.sides, targets.sides, targets.taught
    )
