"""Batches of augmented frames and their targets; the same seed and step give the same batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from training.datasets.frames import FrameSet
from training.finder.augment import AugmentConfig, augment
from training.finder.loss import TargetBatch
from training.finder.targets import make_targets


def make_batch(
    frames: FrameSet, size: int, seed: int, step: int, shape: tuple[int, int], config: AugmentConfig
) -> tuple[Tensor, TargetBatch]:
    """`size` examples drawn at random: images (N, H, W, 3) uint8 RGB of `shape` (W, H), and the maps wanted."""
    rng = np.random.default_rng([seed, step])
    images, targets = [], []
    for index in rng.integers(len(frames), size=size):
        other = int(rng.integers(len(frames)))
        frame, ignored = augment(frames[int(index)], partial(frames.__getitem__, other), *shape, rng, config)
        images.append(frame.image)
        targets.append(make_targets(frame.boxes, ignored, *shape))
    stacked = (torch.from_numpy(np.stack(maps)) for maps in zip(*targets, strict=True))
    return torch.from_numpy(np.stack(images)), TargetBatch(*stacked)
