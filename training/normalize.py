"""From crops as cameras give them to what a network takes: cast, scale, channels first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """uint8 (N, S, S, 3) RGB -> float32 (N, 3, S, S), (x / 255 - mean) / std, in channels-last memory."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        # NHWC arithmetic then a permute: the result is channels-last without a copy.
        return ((crops.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
