"""ResNet-50 and its deeper kin: the paper's other backbone, at a seventh of HRNet-W64's arithmetic.

Source: He et al., "Deep Residual Learning for Image Recognition"; the stride is in the 3x3 convolution, and names are
torchvision's, so that its ImageNet weights load.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from training.backbone import Backbone, Features
from training.hrnet import OUT_CHANNELS, Bottleneck

LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth -> bottlenecks of the four stages, with 64, 128, 256 and 512 planes."""


class ResNet(Backbone):
    """(N, 3, S, S) -> Features with image (N, 2048, S/32, S/32), or its mean (N, 2048) when pooled."""

    stride = 32
    out_channels = OUT_CHANNELS

    def __init__(self, *, depth: int, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        first, second, third, fourth = LAYERS[depth]
        self.layer1 = _stage(64, 64, first, stride=1)
        self.layer2 = _stage(256, 128, second, stride=2)
        self.layer3 = _stage(512, 256, third, stride=2)
        self.layer4 = _stage(1024, 512, fourth, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Features:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return Features(x.mean(dim=(2, 3)) if self.pooled else x)


def _stage(in_channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, planes)
    first.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
    if first.downsample is not None:
        first.downsample[0] = nn.Conv2d(in_channels, 4 * planes, 1, stride, bias=False)
    return nn.Sequential(first, *(Bottleneck(4 * planes, planes) for _ in range(blocks - 1)))
