"""Image backbones, and SmallNet: the default one, small enough to train and to run on two CPU cores.

SmallNet's stages are made of one of three blocks, so that the choice between them can be measured: see
`training.ablate --what backbones`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Features(NamedTuple):
    """What a backbone sees in a crop.

    Attributes:
        image: (N, C, h, w) feature map, or (N, C) when pooled.
        heatmaps: (N, J, H, W) logits, one map per joint, or None.
        mask: (N, 1, H, W) logits of the person's silhouette, or None.
        surface: (N, 3, H, W) template coordinates of the visible surface, metres, or None.
        fine: (N, P, H, W) what those three were read from, or None.
    """

    image: Tensor
    heatmaps: Tensor | None = None
    mask: Tensor | None = None
    surface: Tensor | None = None
    fine: Tensor | None = None


class Backbone(nn.Module):
    """(N, 3, S, S) normalised images -> Features.

    Attributes:
        out_channels: C of Features.image.
        stride: S / h of the map.
        rounds_on_cpu: whether bfloat16 makes it faster there, too: not where most convolutions are channel by channel.
    """

    out_channels: int
    stride: int
    rounds_on_cpu = True

    def __call__(self, images: Tensor) -> Features:
        return super().__call__(images)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet's basic block; HRNet's branches use the same names)."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + skip, inplace=True)

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        """The norm whose weight makes the block its own shortcut when it is 0; None where there is no shortcut."""
        return self.bn2


class InvertedBlock(nn.Module):
    """Widen four times, look around channel by channel, narrow (MobileNetV2, Sandler et al., 2018, with plain ReLU)."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3 = nn.Conv2d(wide, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)), inplace=True)))
        return x + y if self.is_residual else y

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        return self.bn3 if self.is_residual else None


class WideKernelBlock(nn.Module):
    """7x7 channel by channel, then two layers per pixel (ConvNeXt, Liu et al., 2022), with batch norms, which fold."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, stride, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.conv1 = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 4 * channels, 1)
        self.conv3 = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.downsample is None else self.downsample(x)
        return x + self.bn3(self.conv3(F.gelu(self.conv2(self.bn1(self.conv1(x))))))

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        return self.bn3


BLOCKS: dict[str, type[BasicBlock] | type[InvertedBlock] | type[WideKernelBlock]] = {
    "basic": BasicBlock, "inverted": InvertedBlock, "wide_kernel": WideKernelBlock
}  # fmt: skip


class SmallNet(Backbone):
    """A residual CNN that keeps resolution: an 8x8 map for the tokens, dense 32x32 heads for what is visible (S = 128).

    The stem halves the image twice; stage i works at stride 4, 8, 16. A light feature pyramid brings the coarse stages
    back to stride 4, where `refine` basic blocks compare what is near with what is meant, and one 1x1 convolution
    predicts joint heatmaps, the mask and surface coordinates. Strided convolutions and nearest upsampling only: no
    pooling that drops position, no transposed convolution.
    """

    def __init__(
        self,
        *,
        joints: int,
        stem_channels: int,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        pyramid: int,
        refine: int = 0,
        block: str = "basic",
    ) -> None:
        super().__init__()
        self.joints = joints
        self.out_channels = channels[-1]
        self.stride = 4 * 2 ** (len(channels) - 1)
        self.stem = nn.Sequential(*conv_bn_relu(3, stem_channels), *conv_bn_relu(stem_channels, channels[0]))
        make, before = BLOCKS[block], (channels[0], *channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                make(before[i], width, stride=1 if i == 0 else 2),
                *(make(width, width) for _ in range(count - 1)),
            )
            for i, (width, count) in enumerate(zip(channels, blocks, strict=True))
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, pyramid, 1) for width in channels)
        self.smooth = nn.Sequential(nn.Conv2d(pyramid, pyramid, 3, 1, 1, bias=False), nn.BatchNorm2d(pyramid))
        self.refine = nn.Sequential(*(BasicBlock(pyramid, pyramid) for _ in range(refine)))
        self.dense_head = nn.Conv2d(pyramid, joints + 4, 1)
        self._initialise()

    def forward(self, images: Tensor) -> Features:
        """images (N, 3, S, S) normalised -> Features with all its parts; maps are S/16 (image) and S/4 (dense)."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        fine = self._pyramid(maps)
        dense = self.dense_head(fine)
        return Features(x, dense[:, : self.joints], dense[:, self.joints : self.joints + 1], dense[:, -3:], fine)

    def _pyramid(self, maps: list[Tensor]) -> Tensor:
        top = self.laterals[-1](maps[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(maps[:-1]), strict=True):
            top = lateral(finer) + F.interpolate(top, scale_factor=2.0, mode="nearest")
        return self.refine(F.relu(self.smooth(top), inplace=True))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, BasicBlock | InvertedBlock | WideKernelBlock) and module.last_norm is not None:
                nn.init.zeros_(module.last_norm.weight)  # every block starts as its shortcut
        nn.init.normal_(self.dense_head.weight, std=0.01)
        if self.dense_head.bias is not None:
            nn.init.zeros_(self.dense_head.bias)


def conv_bn_relu(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False)
    return conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
