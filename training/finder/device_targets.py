"""`targets.make_targets` for a whole batch, where it lies: no map is made on the CPU, and nothing waits for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from training.finder.loss import TargetBatch
from training.finder.network import STRIDE
from training.finder.targets import CENTRE, TAUGHT, WIDTH


@torch.no_grad()
def make_batch_targets(boxes: Tensor, present: Tensor, ignored: Tensor, width: int, height: int) -> TargetBatch:
    """Maps (N, h, w) and (N, 4, h, w) for boxes (N, P, 4), left, top, right, bottom, px, inside of images.

    present: (N, P) bool, which boxes there are; ignored: (N, P) bool, who shall be neither found nor missed. All
    float32, on the device of the boxes, and what `make_targets` says of every image on its own.
    """
    count, people, device = len(boxes), boxes.shape[1], boxes.device
    columns, rows = width // STRIDE, height // STRIDE
    x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) * STRIDE
    y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * STRIDE
    column_numbers = torch.arange(columns, device=device)
    row_numbers = torch.arange(rows, device=device)
    heat = torch.zeros((count, rows, columns), device=device)
    counts = torch.ones((count, rows, columns), device=device)
    sides = torch.ones((count, 4, rows, columns), device=device)
    taught = torch.zeros((count, rows, columns), device=device)
    order = _order(boxes, present, ignored)
    boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
    unknown = (present & ignored).gather(1, order)
    wanted = (present & ~ignored).gather(1, order)
    for place in range(people):
        left, top, right, bottom = (edge[:, None] for edge in boxes[:, place].unbind(1))  # (N, 1) each
        # The ignored come first in every image, so that within one place the two kinds cannot meet.
        within = ((y >= top) & (y <= bottom))[:, :, None] & ((x >= left) & (x <= right))[:, None, :]
        counts = counts.masked_fill(within & unknown[:, place, None, None], 0.0)
        column = ((left + right) / 2 / STRIDE).long().clamp(0, columns - 1)
        row = ((top + bottom) / 2 / STRIDE).long().clamp(0, rows - 1)
        across = torch.exp(-0.5 * ((x - x[column]) / ((right - left) * WIDTH).clamp(min=1e-3)) ** 2)
        down = torch.exp(-0.5 * ((y - y[row]) / ((bottom - top) * WIDTH).clamp(min=1e-3)) ** 2)
        bump = down[:, :, None] * across[:, None, :]
        cell = (row_numbers == row)[:, :, None] & (column_numbers == column)[:, None, :]
        counted = wanted[:, place, None, None]
        centre = ((bump > CENTRE) | cell) & counted
        heat = torch.where(counted, torch.maximum(heat, bump.masked_fill(centre, 1.0)), heat)
        counts = torch.where(centre, 1 / centre.sum((1, 2), keepdim=True).clamp(min=1), counts)
        inside = ((y > top) & (y < bottom))[:, :, None] & ((x > left) & (x < right))[:, None, :]
        mine = (bump > TAUGHT) & (inside | cell) & counted
        share = bump.masked_fill(~mine, 0.0)
        taught = torch.where(mine, share / share.sum((1, 2), keepdim=True).clamp(min=1e-6), taught)
        distances = torch.stack(
            [
                (x - left)[:, None, :].expand(-1, rows, -1),
                (y - top)[:, :, None].expand(-1, -1, columns),
                (right - x)[:, None, :].expand(-1, rows, -1),
                (bottom - y)[:, :, None].expand(-1, -1, columns),
            ],
            dim=1,
        )
        sides = torch.where(mine[:, None], distances, sides)
    return TargetBatch(heat, counts, sides.clamp(min=0.25), taught)


def _order(boxes: Tensor, present: Tensor, ignored: Tensor) -> Tensor:
    """(N, P): the ignored, then who is to be found, each from the largest to the smallest; last who is not there."""
    areas = (boxes[:, :, 2] - boxes[:, :, 0]) * (boxes[:, :, 3] - boxes[:, :, 1])
    by_area = torch.argsort(-areas, dim=1, stable=True)
    kinds = (2 * ~present + (present & ~ignored)).gather(1, by_area)
    return by_area.gather(1, torch.argsort(kinds, dim=1, stable=True))
