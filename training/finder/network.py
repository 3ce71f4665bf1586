"""The finder's network: YOLOX-Nano (Ge et al., YOLOX: Exceeding YOLO Series in 2021) of one class, batch norms folded.

Modules stand in the order in which they are called, which is the order of their convolutions in YOLOX's own ONNX files:
see `training.finder.start`, which takes published weights over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
"""Input pixels a cell of each map, along each side."""
LARGEST_STRIDES = 6.0
"""Of a side, in strides: the logarithm that is still told apart, e^6 = 403."""


@dataclass(frozen=True, slots=True)
class FinderConfig:
    """What the network is.

    Attributes:
        width, height: of its input, px, multiples of 32.
        stem: channels of the first convolution; each of the four stages doubles them. 16 is YOLOX-Nano.
        blocks: in the first three stages; the last has one.
    """

    width: int = 416
    height: int = 416
    stem: int = 16
    blocks: tuple[int, ...] = (1, 3, 3)


class Answers(NamedTuple):
    """What the network says of N images, in A cells.

    logits: (N, A, 2), whether there is something to be found, and whether it is a person: both must be; boxes:
    (N, A, 4), left, top, right, bottom, input px.
    """

    logits: Tensor
    boxes: Tensor

    def likelihoods(self) -> Tensor:
        """(N, A), whether someone is there."""
        return F.logsigmoid(self.logits).sum(dim=2).exp()


class Convolution(nn.Module):
    """A convolution and SiLU; its bias stands for the batch norm that has been folded into it."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x), inplace=True)


class Separable(nn.Sequential):
    """Look around channel by channel, 3 x 3, then mix channels."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__(
            Convolution(in_channels, in_channels, 3, stride, in_channels), Convolution(in_channels, channels)
        )


class Bottleneck(nn.Module):
    """Mix channels, look around, and add where it is a residual."""

    def __init__(self, channels: int, is_residual: bool) -> None:
        super().__init__()
        self.mix, self.look = Convolution(channels, channels), Separable(channels, channels)
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.look(self.mix(x))
        return x + y if self.is_residual else y


class CrossStage(nn.Module):
    """Half of the channels through bottlenecks, half past them (CSPNet, Wang et al., 2019)."""

    def __init__(self, in_channels: int, channels: int, blocks: int = 1, is_residual: bool = False) -> None:
        super().__init__()
        half = channels // 2
        self.through, self.past = Convolution(in_channels, half), Convolution(in_channels, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, is_residual) for _ in range(blocks)))
        self.out = Convolution(2 * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        through, past = self.through(x), self.past(x)
        out: Tensor = self.out(torch.cat([self.blocks(through), past], dim=1))
        return out


class Pyramid(nn.Module):
    """The largest within 5, 9 and 13 cells around each (spatial pyramid pooling, He et al., 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.out = Convolution(channels, channels // 2), Convolution(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        out: Tensor = self.out(torch.cat([x, *(F.max_pool2d(x, side, 1, side // 2) for side in (5, 9, 13))], dim=1))
        return out


class Head(nn.Module):
    """A map -> of each cell, the two logits, and a box's centre and sides in strides: (N, 2, h, w) and (N, 4, h, w)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stem = Convolution(in_channels, channels)
        self.kind = nn.Sequential(Separable(channels, channels), Separable(channels, channels))
        self.is_person = nn.Conv2d(channels, 1, 1)
        self.place = nn.Sequential(Separable(channels, channels), Separable(channels, channels))
        self.box = nn.Conv2d(channels, 4, 1)
        self.is_there = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        person, place = self.is_person(self.kind(x)), self.place(x)
        box: Tensor = self.box(place)
        return torch.cat([self.is_there(place), person], dim=1), box


class FinderNet(nn.Module):
    """(N, H, W, 3) uint8 RGB -> Answers."""

    def __init__(self, config: FinderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FinderConfig()
        stem, one, two, three, four = (config.stem * 2**power for power in range(5))
        self.stem = Convolution(12, stem, 3)
        self.stages = nn.ModuleList(
            nn.Sequential(Separable(narrow, wide, 2), CrossStage(wide, wide, count, is_residual=True))
            for narrow, wide, count in zip((stem, one, two), (one, two, three), config.blocks, strict=True)
        )
        self.stages.append(nn.Sequential(Separable(three, four, 2), Pyramid(four), CrossStage(four, four)))
        # Down to the fine maps, and up again (PANet, Liu et al., 2018).
        self.narrow_top, self.down_middle = Convolution(four, three), CrossStage(four, three)
        self.narrow_middle, self.down_fine = Convolution(three, two), CrossStage(three, two)
        self.halve_fine, self.up_middle = Separable(two, two, 2), CrossStage(three, three)
        self.halve_middle, self.up_top = Separable(three, three, 2), CrossStage(four, four)
        self.heads = nn.ModuleList(Head(channels, 4 * stem) for channels in (two, three, four))
        self._initialise()

    def forward(self, image: Tensor) -> Answers:
        x = _unfold(image)
        levels = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        _, fine, middle, top = levels
        top = self.narrow_top(top)
        middle = self.narrow_middle(self.down_middle(torch.cat([_enlarge(top), middle], dim=1)))
        fine = self.down_fine(torch.cat([_enlarge(middle), fine], dim=1))
        middle = self.up_middle(torch.cat([self.halve_fine(fine), middle], dim=1))
        top = self.up_top(torch.cat([self.halve_middle(middle), top], dim=1))
        logits, boxes = [], []
        for head, one, stride in zip(self.heads, (fine, middle, top), STRIDES, strict=True):
            logit, box = (answer.float().flatten(2).transpose(1, 2) for answer in head(one))
            corners, _ = cells(one.shape[2], one.shape[3], stride, one.device)
            centre = (corners + box[..., :2]) * stride
            half = box[..., 2:].clamp(max=LARGEST_STRIDES).exp() * (stride / 2)
            logits.append(logit)
            boxes.append(torch.cat([centre - half, centre + half], dim=2))
        return Answers(torch.cat(logits, dim=1), torch.cat(boxes, dim=1))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for head in self.heads:
            assert isinstance(head, Head)
            for last in (head.is_person, head.box, head.is_there):
                nn.init.normal_(last.weight, std=0.01)
            for last in (head.is_person, head.is_there):
                assert last.bias is not None
                nn.init.constant_(last.bias, -math.log(9.0))  # together one cell in a hundred: the start is calm


def _unfold(image: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 12, H/2, W/2) float32 BGR, 0..255: of each four pixels the left, then the right."""
    x = image.permute(0, 3, 1, 2).flip(1).float()
    return torch.cat([x[..., down::2, across::2] for across in (0, 1) for down in (0, 1)], dim=1)


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def cells(height: int, width: int, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of a map's cells, row by row: left top corners (h * w, 2), in strides, and centres (h * w, 2), px."""
    down, across = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    corners = torch.stack([across, down], dim=2).reshape(-1, 2)
    return corners, (corners + 0.5) * stride


def decode(answers: Answers, most: int) -> tuple[Tensor, Tensor]:
    """The `most` likeliest cells: boxes (N, K, 4), left, top, right, bottom, input px, and scores (N, K), best first.

    Several of them are one person's.
    """
    scores, best = answers.likelihoods().topk(min(most, answers.boxes.shape[1]), dim=1)
    return answers.boxes.gather(1, best[:, :, None].expand(-1, -1, 4)), scores
