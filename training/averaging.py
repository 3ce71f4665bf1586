"""Moving averages of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def move_averages(averages: Sequence[Tensor], values: Sequence[Tensor], decay: float) -> None:
    """In place: each average becomes `decay` of itself and the rest of its value; any shapes, pairwise the same.

    Indices and counts are taken over: torch's own averages round those down, to the index before.
    """
    pairs = list(zip(averages, values, strict=True))
    moving = [(average, value) for average, value in pairs if average.is_floating_point()]
    if moving:
        torch._foreach_lerp_([average for average, _ in moving], [value for _, value in moving], 1.0 - decay)
    for average, value in pairs:
        if not average.is_floating_point():
            average.copy_(value)
