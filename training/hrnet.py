"""HRNet of any width, as METRO uses it: the classification net up to its 2,048 channels, at stride 32.

Source: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition". Attribute names are those of
the original state dict; its classifier, which METRO never calls, is left out.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from training.backbone import Backbone, BasicBlock, Features

HEAD_PLANES = (32, 64, 128, 256)
"""Planes of the four head bottlenecks; they do not grow with the width."""
OUT_CHANNELS = 2048
MODULES = (1, 4, 3)
"""Multi-resolution modules in stages 2, 3 and 4."""
BLOCKS = 4
"""Basic blocks of each branch of a module."""


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the planes, and a shortcut."""

    def __init__(self, in_channels: int, planes: int) -> None:
        super().__init__()
        channels = 4 * planes
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = _conv_bn(in_channels, channels, kernel=1) if in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + skip)


class ExchangeModule(nn.Module):
    """Four basic blocks on every branch, then every branch receives the sum of all, brought to its resolution."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(BLOCKS))) for width in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_layer(channels, to, source) for source in range(len(channels)))
            for to in range(len(channels))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for layers in self.fuse_layers:
            total = layers[0](maps[0])  # type: ignore[index]
            for layer, x in zip(layers[1:], maps[1:], strict=True):  # type: ignore[index]
                total = total + layer(x)
            fused.append(F.relu(total))
        return fused


class HRNet(Backbone):
    """(N, 3, S, S) -> Features with image (N, 2048, S/32, S/32), or its mean (N, 2048) when pooled.

    Args:
        width: channels of the finest branch: 64 in the paper; 18, 32, 40, 48 also exist with ImageNet weights.
        pooled: average over the map (the paper's hand network).
    """

    stride = 32
    out_channels = OUT_CHANNELS

    def __init__(self, *, width: int, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        channels = tuple(width * 2**branch for branch in range(4))
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(BLOCKS - 1)))
        self.transition1 = nn.ModuleList(
            [_conv_bn_relu(256, channels[0], stride=1), nn.Sequential(_conv_bn_relu(256, channels[1], stride=2))]
        )
        self.stage2 = _stage(channels[:2], MODULES[0])
        self.transition2 = _transition(channels[:3])
        self.stage3 = _stage(channels[:3], MODULES[1])
        self.transition3 = _transition(channels)
        self.stage4 = _stage(channels, MODULES[2])
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(width, planes)) for width, planes in zip(channels, HEAD_PLANES, strict=True)
        )
        self.downsamp_modules = nn.ModuleList(
            _conv_bn_relu(4 * finer, 4 * coarser, stride=2, bias=True) for finer, coarser in pairwise(HEAD_PLANES)
        )
        self.final_layer = nn.Sequential(
            nn.Conv2d(4 * HEAD_PLANES[-1], OUT_CHANNELS, 1), nn.BatchNorm2d(OUT_CHANNELS), nn.ReLU()
        )
        self._initialise()

    def forward(self, images: Tensor) -> Features:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer1(F.relu(self.bn2(self.conv2(x))))
        maps = self.stage2([transition(x) for transition in self.transition1])
        maps = self.stage3(_branch_out(self.transition2, maps))
        maps = self.stage4(_branch_out(self.transition3, maps))

        y = self.incre_modules[0](maps[0])
        for increase, downsample, x in zip(self.incre_modules[1:], self.downsamp_modules, maps[1:], strict=True):
            y = increase(x) + downsample(y)
        y = self.final_layer(y)
        return Features(y.mean(dim=(2, 3)) if self.pooled else y)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(channels: tuple[int, ...], modules: int) -> nn.Sequential:
    return nn.Sequential(*(ExchangeModule(channels) for _ in range(modules)))


def _transition(channels: tuple[int, ...]) -> nn.ModuleList:
    """Existing branches pass; a new one, the last, starts from the coarsest before it."""
    new = nn.Sequential(_conv_bn_relu(channels[-2], channels[-1], stride=2))
    return nn.ModuleList([*(nn.Identity() for _ in channels[:-1]), new])


def _branch_out(transition: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    return [layer(x) for layer, x in zip(transition, [*maps, maps[-1]], strict=True)]


def _fuse_layer(channels: tuple[int, ...], to: int, source: int) -> nn.Module:
    """Bring branch `source` to the channels and resolution of branch `to`."""
    if source == to:
        return nn.Identity()
    if source > to:
        project = _conv_bn(channels[source], channels[to], kernel=1)
        return nn.Sequential(*project, nn.Upsample(scale_factor=2.0 ** (source - to), mode="nearest"))
    steps = [_conv_bn_relu(channels[source], channels[source], stride=2) for _ in range(to - source - 1)]
    return nn.Sequential(*steps, _conv_bn(channels[source], channels[to], stride=2))


def _conv_bn(in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _conv_bn_relu(in_channels: int, channels: int, *, stride: int, bias: bool = False) -> nn.Sequential:
    return _conv_bn(in_channels, channels, stride=stride, bias=bias).append(nn.ReLU())
