"""Batches of augmented frames and their targets; the same seed, step and frames at hand give the same batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from training.datasets.frames import FrameSet
from training.finder.augment import AugmentConfig, augment
from training.finder.device_augment import augment_batch
from training.finder.device_targets import make_batch_targets
from training.finder.loss import TargetBatch
from training.finder.network import FinderConfig
from training.finder.targets import make_targets
from training.finder.train import FinderTraining
from training.pool import Pool


class StoredFrames:
    """Batches of a folder's frames, shards that come later included, for a network; satisfies `train.Feed`."""

    def __init__(
        self,
        frames: FrameSet,
        network: FinderConfig,
        training: FinderTraining,
        augment: AugmentConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.frames, self.training, self.augment, self.device = frames, training, augment, torch.device(device)
        self.whole = network.width, network.height

    def __len__(self) -> int:
        return len(self.frames)

    def images(self, count: int) -> Tensor:
        """(count, H, W, 3) uint8 RGB, as the network takes them."""
        return make_batch(self.frames, count, self.training.seed, 0, self.whole, self.augment)[0].to(self.device)

    def batch(self, step: int, share: float) -> tuple[Tensor, TargetBatch]:
        """Images (N, H, W, 3) uint8 RGB, small ones early on, and the maps wanted."""
        training = self.training
        if step % training.refresh_steps == 0:
            self.frames.refresh()
        shape = training.early_size if share < training.early_share else self.whole
        images, targets = make_batch(self.frames, training.batch, training.seed, step, shape, self.augment)
        return images.to(self.device), TargetBatch(*(maps.to(self.device) for maps in targets))


class PooledFrames:
    """Batches of rows by `stream` that a pool has at hand, on its device; satisfies `train.Feed`."""

    def __init__(self, pool: Pool, network: FinderConfig, training: FinderTraining, augment: AugmentConfig) -> None:
        self.pool, self.network, self.training, self.augment = pool, network, training, augment
        self.generator = torch.Generator(pool.device)

    def __len__(self) -> int:
        return len(self.pool)

    def images(self, count: int) -> Tensor:
        """(count, H, W, 3) uint8 RGB, as the network takes them."""
        self._seed(0)
        return augment_batch(self.pool.draw(count, self.generator), self.generator, self.augment).images

    def batch(self, step: int, share: float) -> tuple[Tensor, TargetBatch]:
        """Images (N, H, W, 3) uint8 RGB and the maps wanted; see `device_augment` and `device_targets`."""
        self._seed(step)
        rows = self.pool.draw(self.training.batch, self.generator)
        images, boxes, _, present, ignored = augment_batch(rows, self.generator, self.augment)
        targets = make_batch_targets(boxes, present, ignored, self.network.width, self.network.height)
        return images, targets

    def _seed(self, step: int) -> None:
        self.generator.manual_seed((self.training.seed << 32) + step)  # the host's alone: no wait for the GPU


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
