"""The finder's loss: SimOTA chooses the cells that answer for each person (Ge et al., YOLOX, section 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.finder.network import STRIDES, Answers, cells

BOX_WEIGHT = 5.0
NEAR_STRIDES = 1.5
"""From the middle of a box, along each side: cells nearer than that, and inside of it, are to answer for it first."""
MOST_CELLS = 10
"""For a person at most; as many as the IoUs of so many best boxes add up to."""
OVERLAP_COST, FAR_COST = 3.0, 1e5
_SMALL = 1e-7


class People(NamedTuple):
    """Who is in N images, in P places each.

    boxes: (N, P, 4) float32, left, top, right, bottom, input px; wanted: (N, P) bool, who is to be found; ignored:
    (N, P) bool, who is to be neither found nor missed. The rest of the places are empty.
    """

    boxes: Tensor
    wanted: Tensor
    ignored: Tensor


class Assigned(NamedTuple):
    """Of A cells in each of N images: person (N, A) int64, who each is to answer for, and overlap (N, A), the IoU of
    its box with theirs; mine: (N, A) bool, whether there is anybody."""

    person: Tensor
    overlap: Tensor
    mine: Tensor


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes (..., 4), left, top, right, bottom, with as many others, or as many as broadcast to them."""
    first, last = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (last - first).clamp(min=0).prod(dim=-1)
    areas = [(one[..., 2:] - one[..., :2]).prod(dim=-1) for one in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=_SMALL)


@torch.no_grad()
def assign(answers: Answers, people: People, width: int, height: int) -> Assigned:
    """Each person to the cells near their middle whose answers cost least: by score and overlap, as many as fit well.

    width, height: of the images, px. A cell that several people want goes to the one whom it costs least.
    """
    centres, reach = _centres(width, height, answers.boxes.device)
    boxes = people.boxes[:, :, None]  # (N, P, 1, 4) against (N, 1, A, 4)
    inside = ((centres > boxes[..., :2]) & (centres < boxes[..., 2:])).all(dim=3)
    near = ((centres - (boxes[..., :2] + boxes[..., 2:]) / 2).abs() < reach[:, None]).all(dim=3)
    allowed = (inside | near) & people.wanted[:, :, None]
    overlap = box_iou(answers.boxes[:, None], boxes)
    unlikely = -answers.likelihoods().clamp(min=_SMALL).log()[:, None]
    cost = unlikely - OVERLAP_COST * (overlap + _SMALL).log() + FAR_COST * ~(inside & near)
    cost = cost.masked_fill(~allowed, torch.inf)
    count = min(MOST_CELLS, cost.shape[2])
    fitting = overlap.masked_fill(~allowed, 0.0).topk(count, dim=2).values.sum(dim=2)
    least, index = cost.topk(count, dim=2, largest=False)
    rank = torch.arange(count, device=cost.device)
    chosen = (rank < fitting.floor().clamp(min=1)[:, :, None]) & least.isfinite()
    theirs = torch.zeros_like(allowed).scatter(2, index, chosen)
    person = cost.masked_fill(~theirs, torch.inf).argmin(dim=1)
    return Assigned(person, overlap.gather(1, person[:, None])[:, 0], theirs.any(dim=1))


def finder_loss(answers: Answers, people: People, width: int, height: int) -> Tensor:
    """Of scores and boxes, per cell that answers for somebody; () float32.

    A score is to be the IoU of its box, 0 where nobody is, and nothing within who is ignored: one cross entropy of the
    product of both probabilities, where YOLOX has one for each, so that what looks like a thing may go on doing so.
    """
    person, overlap, mine = assign(answers, people, width, height)
    wanted = people.boxes.gather(1, person[:, :, None].expand(-1, -1, 4))
    boxes = torch.where(mine[:, :, None], answers.boxes, wanted.detach())
    # The gradient of IoU² is small where boxes hardly meet, so that they are not torn about.
    off = (1 - box_iou(boxes, wanted).square()) * mine
    centres, _ = _centres(width, height, boxes.device)
    edges = people.boxes[:, :, None]
    within = ((centres > edges[..., :2]) & (centres < edges[..., 2:])).all(dim=3) & people.ignored[:, :, None]
    counts = mine | ~within.any(dim=1)
    score = _cross_entropy(answers, overlap * mine)
    return (BOX_WEIGHT * off.sum() + (score * counts).sum()) / mine.sum().clamp(min=1)


def forgetting(answers: Answers, before: Answers) -> Tensor:
    """How far answers have moved from those of another network for the same images, per cell where it saw somebody; ().

    Scores by cross entropy, boxes by IoU where there were people (Learning without Forgetting, Li and Hoiem, 2016).
    """
    scores = before.likelihoods()
    off = scores * (1 - box_iou(answers.boxes, before.boxes).square())
    cross = _cross_entropy(answers, scores) - _cross_entropy(before, scores)
    return (BOX_WEIGHT * off.sum() + cross.sum()) / scores.sum().clamp(min=1)


def _cross_entropy(answers: Answers, target: Tensor) -> Tensor:
    """(N, A), of both probabilities' product."""
    logs = F.logsigmoid(answers.logits).sum(dim=2)
    return -target * logs - (1 - target) * torch.log1p(-logs.exp().clamp(max=1 - 1e-6))


def _centres(width: int, height: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of all cells, in the order of Answers: centres (A, 2), px, and what is near them (A,), px."""
    centres = [cells(height // stride, width // stride, stride, device)[1] for stride in STRIDES]
    reach = [
        torch.full((len(some),), NEAR_STRIDES * s, device=device) for s, some in zip(STRIDES, centres, strict=True)
    ]
    return torch.cat(centres), torch.cat(reach)
