"""BlazePose: MediaPipe's pose network (Bazarevsky et al., 2020; Apache-2.0) as a backbone that has seen photographs.

Its inverted residual blocks, its feature pyramid, which a heatmap is read from, and its regression of 3D landmarks are
those of `pose_landmark_full.tflite`, weight for weight: see training.mediapipe_weights. What is METRO's own is the head
that reads all this mesh's joints, its mask and its surface from the pyramid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbone import Backbone, Features
from training.normalize import IMAGENET_MEAN, IMAGENET_STD

LANDMARKS = 39
"""Of BlazePose: 33, and six to draw the next crop by."""
LANDMARK_NUMBERS = 4 * LANDMARKS
"""x, y, z of all of them, then their visibilities."""
_STEM = (24, 16)
"""Channels after the first convolution, and after the stem."""
Stages = tuple[tuple[tuple[int, int, int, int], ...], ...]
"""Of each block of each stage: channels, channels between, side of the kernel, stride."""
_STAGES: Stages = (
    ((24, 64, 3, 2), (24, 144, 3, 1)),
    ((32, 144, 5, 2), (32, 192, 5, 1)),
    (
        (64, 192, 3, 2), (64, 384, 3, 1), (64, 384, 3, 1), (88, 384, 5, 1), (88, 528, 5, 1), (88, 528, 5, 1)
    ),
    ((144, 528, 5, 2), (144, 864, 5, 1), (144, 864, 5, 1), (144, 864, 5, 1)),
)  # fmt: skip
"""They end at strides 4, 8, 16 and 32."""
_TOP = 864
PYRAMID = 48
REGRESSED = 288
NO_REFINEMENT = (0, 0, 0)
_REGRESSION = (5, 6)
"""Blocks at half and at a quarter of the last map's side; the first of either halves it."""


def scaled(channels: int, width: float) -> int:
    """So many channels of a network that is `width` times as wide."""
    return max(4, round(channels * width / 4) * 4)


def convolution(in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """With a bias in place of the batch norm that has been folded into it."""
    return nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups)


def relu6(x: Tensor) -> Tensor:
    """In place: what a convolution gave is of no use to its gradient.

    The exporter takes a quarter of its time to find out that this is a clamp; so it is told.
    """
    return x.clamp(0, 6) if torch.compiler.is_exporting() else F.relu6(x, inplace=True)


class Separable(nn.Module):
    """Look around channel by channel, then mix channels; ReLU6 after either."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.depthwise = convolution(in_channels, in_channels, 3, groups=in_channels)
        self.pointwise = convolution(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return relu6(self.pointwise(relu6(self.depthwise(x))))


class InvertedResidual(nn.Module):
    """Widen, look around channel by channel, narrow, and add where shapes allow (MobileNetV2, Sandler et al., 2018)."""

    def __init__(self, in_channels: int, channels: int, wide: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.expand = convolution(in_channels, wide)
        self.depthwise = convolution(wide, wide, kernel, stride, groups=wide)
        self.project = convolution(wide, channels)
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(relu6(self.depthwise(relu6(self.expand(x)))))
        return x + y if self.is_residual else y


class RegressionBlock(nn.Module):
    """A depthwise and a pointwise convolution beside a shortcut, which is a maximum where the map is halved."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, groups=channels)
        self.pointwise = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x is not negative, so that zeros may stand around a maximum."""
        y = self.pointwise(relu6(self.depthwise(pad_same(x, 3, self.stride))))
        return relu6(y + (F.max_pool2d(pad_same(x, 2, 2), 2) if self.stride == 2 else x))


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros as TensorFlow's "SAME" has them: what is odd goes to the right and the bottom."""
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


class Trunk(nn.Module):
    """(N, 3, H, W) RGB, 0 to 1 for the stages of the pose network -> a map at the end of each stage.

    Attributes:
        channels: of each map.
    """

    channels: tuple[int, ...]

    def __init__(self, width: float = 1.0, stages: Stages = _STAGES) -> None:
        """width: of all layers; published weights fit 1."""
        super().__init__()
        first, out = (scaled(channels, width) for channels in _STEM)
        self.stem = nn.ModuleList(
            [convolution(3, first, 3, 2), convolution(first, first, 3, groups=first), convolution(first, out)]
        )
        self.stages = nn.ModuleList()
        ends = []
        for stage in stages:
            blocks = []
            for channels, between, kernel, stride in stage:
                blocks.append(InvertedResidual(out, scaled(channels, width), scaled(between, width), kernel, stride))
                out = scaled(channels, width)
            self.stages.append(nn.Sequential(*blocks))
            ends.append(out)
        self.channels = tuple(ends)

    def forward(self, images: Tensor) -> list[Tensor]:
        first, around, out = self.stem
        x = out(relu6(around(relu6(first(images)))))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def merge(laterals: nn.ModuleList, maps: list[Tensor], refine: nn.ModuleList) -> Tensor:
    """One map, as fine as the first: of each its lateral, the coarser ones enlarged and added, and what `refine` makes
    of every such sum, finest first."""
    top = laterals[-1](maps[-1])
    for level in reversed(range(len(refine))):
        top = F.interpolate(top, scale_factor=2.0, mode="bilinear") + laterals[level](maps[level])
        top = refine[level](top)
    return top


def initialise(module: nn.Module) -> None:
    """Convolutions at random, for networks that know nothing."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            assert part.bias is not None
            nn.init.zeros_(part.bias)


class BlazePose(Backbone):
    """(N, 3, S, S) normalised -> Features: a map at stride 32, dense maps at stride 4. It was made for S = 256.

    Features.image holds, beside the map that BlazePose regresses from, what it regresses, the same in every cell: each
    landmark's place in metres from the hips, and how visible it is, from 0 to 1.
    """

    mean: Tensor
    deviation: Tensor
    stride = 32
    rounds_on_cpu = False

    def __init__(self, *, joints: int, width: float = 1.0, refine: tuple[int, ...] = NO_REFINEMENT) -> None:
        """refine: inverted residual blocks behind the pyramid at strides 4, 8 and 16, which begin as nothing: there
        what is near meets what is meant. The published network has none."""
        super().__init__()
        self.joints = joints
        self.trunk = Trunk(width)
        out, top = self.trunk.channels[-1], scaled(_TOP, width)
        pyramid, regressed = scaled(PYRAMID, width), scaled(REGRESSED, width)
        self.top = nn.ModuleList([convolution(out, top), convolution(top, top, 3, groups=top)])
        self.laterals = nn.ModuleList(Separable(channels, pyramid) for channels in (*self.trunk.channels[:-1], top))
        self.refine = nn.ModuleList(
            nn.Sequential(*(InvertedResidual(pyramid, pyramid, 4 * pyramid, 5, 1) for _ in range(count)))
            for count in refine
        )
        self.reduce = Separable(top, regressed)
        self.regression = nn.Sequential(
            *(RegressionBlock(regressed, 1 if index else 2) for count in _REGRESSION for index in range(count))
        )
        self.landmarks = nn.Conv2d(regressed, LANDMARK_NUMBERS, 2)
        self.dense_head = nn.Conv2d(pyramid, joints + 4, 1)
        self.out_channels = regressed + LANDMARK_NUMBERS
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        initialise(self)
        for block in self.refine.modules():
            if isinstance(block, InvertedResidual):
                nn.init.zeros_(block.project.weight)
        nn.init.normal_(self.dense_head.weight, std=0.01)
        nn.init.normal_(self.landmarks.weight, std=0.01)

    def forward(self, images: Tensor) -> Features:
        """images (N, 3, S, S) normalised, S from 160 to 256 -> Features with all its parts."""
        maps = self.trunk(images * self.deviation + self.mean)  # from 0 to 1: the zeros around it are black
        widen, look = self.top
        maps[-1] = relu6(look(relu6(widen(maps[-1]))))
        fine, coarse = merge(self.laterals, maps, self.refine), self.reduce(maps[-1])
        places, visible = self.landmarks(self.regression(coarse)).split((3 * LANDMARKS, LANDMARKS), dim=1)
        landmarks = torch.cat([places, visible.sigmoid()], dim=1)
        image = torch.cat([coarse, landmarks.expand(-1, -1, *coarse.shape[2:])], dim=1)
        dense = self.dense_head(fine)
        return Features(image, dense[:, : self.joints], dense[:, self.joints : self.joints + 1], dense[:, -3:], fine)
