"""The finder's network: a residual CNN with a light top-down path, a heat map of people's centres and their boxes.

Zhou et al., Objects as Points (2019), with the four distances to the box's sides of FCOS (Tian et al., 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbone import BasicBlock, conv_bn_relu

STRIDE = 4
"""Input pixels a cell of the maps, along each side."""

_MEAN, _DEVIATION = 115.0, 57.5
"""Of bytes in pictures of the world, about."""


@dataclass(frozen=True, slots=True)
class FinderConfig:
    """What the network is.

    Attributes:
        width, height: of its input, px, multiples of 32.
        stem: channels of the first convolution.
        channels, blocks: of the stages at stride 4, 8, 16 and 32, made and named as those of backbone.SmallNet.
        pyramid: channels of the top-down path.
    """

    width: int = 288
    height: int = 224
    stem: int = 32
    channels: tuple[int, ...] = (32, 96, 96, 96)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    pyramid: int = 48


class Maps(NamedTuple):
    """What the network says of N images, in cells of STRIDE pixels.

    heat: (N, h, w) logits, whether someone's box has its centre here; sides: (N, 4, h, w) pixels from the centre of the
    cell to the left, top, right and bottom of that box, positive.
    """

    heat: Tensor
    sides: Tensor


class FinderNet(nn.Module):
    """(N, H, W, 3) uint8 RGB -> Maps."""

    def __init__(self, config: FinderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FinderConfig()
        first, *later = config.channels
        self.stem = nn.Sequential(*conv_bn_relu(3, config.stem), *conv_bn_relu(config.stem, first))
        self.stages = nn.ModuleList(
            [nn.Sequential(*(BasicBlock(first, first) for _ in range(config.blocks[0])))]
            + [
                nn.Sequential(BasicBlock(narrow, width, 2), *(BasicBlock(width, width) for _ in range(count - 1)))
                for narrow, width, count in zip(config.channels, later, config.blocks[1:], strict=False)
            ]
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, config.pyramid, 1) for width in config.channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(config.pyramid, config.pyramid, 3, 1, 1, bias=False),
            nn.BatchNorm2d(config.pyramid),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv2d(config.pyramid, 5, 1)
        self._initialise()

    def forward(self, image: Tensor) -> Maps:
        # In place: the first batch norm sees to the rest, and a tenth of a training step went into exact means.
        x = self.stem(image.float().sub_(_MEAN).mul_(1 / _DEVIATION).permute(0, 3, 1, 2))
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        top = self.laterals[-1](levels[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(levels[:-1]), strict=True):
            top = lateral(finer) + F.interpolate(top, scale_factor=2.0, mode="nearest")
        found = self.head(self.smooth(top)).float()
        # Bounded: at most e^4 = 55 times the 24 px that a zero means.
        return Maps(found[:, 0], 24.0 * torch.exp(found[:, 1:].clamp(-4.0, 4.0)))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)  # every block starts as its shortcut
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[:1], -math.log(99.0))  # one cell in a hundred, so that the start is calm


def decode(maps: Maps, most: int) -> tuple[Tensor, Tensor]:
    """The `most` highest peaks: boxes (N, K, 4), left, top, right, bottom, input px, and scores (N, K), best first.

    A peak is a cell that no neighbour exceeds. Where there are fewer, the rest score 0.
    """
    height, width = maps.heat.shape[1:]
    heat = maps.heat.sigmoid()
    highest = F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]
    peaks = torch.where(heat == highest, heat, torch.zeros_like(heat))
    scores, cells = peaks.flatten(1).topk(most, dim=1)
    across = (torch.arange(width, dtype=torch.float32, device=heat.device) + 0.5) * STRIDE
    down = (torch.arange(height, dtype=torch.float32, device=heat.device) + 0.5) * STRIDE
    left, top, right, bottom = maps.sides.unbind(1)
    boxes = torch.stack([across - left, down[:, None] - top, across + right, down[:, None] + bottom], dim=3).flatten(
        1, 2
    )
    return boxes.gather(1, cells[:, :, None].expand(-1, -1, 4)), scores
