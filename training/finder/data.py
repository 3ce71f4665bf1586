"""Batches of augmented frames and who is in them; the same seed, step and frames at hand give the same batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.datasets.frames import FrameSet
from training.finder.augment import AugmentConfig, augment
from training.finder.device_augment import augment_batch
from training.finder.loss import People
from training.finder.network import FinderConfig
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

    def batch(self, step: int) -> tuple[Tensor, People]:
        """Images (N, H, W, 3) uint8 RGB and who is in them."""
        training = self.training
        if step % training.refresh_steps == 0:
            self.frames.refresh()
        images, people = make_batch(self.frames, training.batch, training.seed, step, self.whole, self.augment)
        return images.to(self.device), People(*(values.to(self.device) for values in people))


class PooledFrames:
    """Batches of rows by `stream` that a pool has at hand, on its device; satisfies `train.Feed`."""

    def __init__(self, pool: Pool, training: FinderTraining, augment: AugmentConfig) -> None:
        self.pool, self.training, self.augment = pool, training, augment
        self.generator = torch.Generator(pool.device)

    def __len__(self) -> int:
        return len(self.pool)

    def batch(self, step: int) -> tuple[Tensor, People]:
        """Images (N, H, W, 3) uint8 RGB and who is in them; see `device_augment`."""
        self.generator.manual_seed((self.training.seed << 32) + step)  # the host's alone: no wait for the GPU
        rows = self.pool.draw(self.training.batch, self.generator)
        images, boxes, _, present, ignored = augment_batch(rows, self.generator, self.augment)
        return images, People(boxes, present & ~ignored, ignored)


def make_batch(
    frames: FrameSet, size: int, seed: int, step: int, shape: tuple[int, int], config: AugmentConfig
) -> tuple[Tensor, People]:
    """`size` examples drawn at random: images (N, H, W, 3) uint8 RGB of `shape` (W, H), and who is in them."""
    rng = np.random.default_rng([seed, step])
    images, boxes, hidden, present = [], [], [], []
    for index in rng.integers(len(frames), size=size):
        other = int(rng.integers(len(frames)))
        frame, ignored = augment(frames[int(index)], partial(frames.__getitem__, other), *shape, rng, config)
        images.append(frame.image)
        boxes.append(torch.from_numpy(frame.boxes))
        hidden.append(torch.from_numpy(ignored))
        present.append(torch.ones(len(ignored), dtype=torch.bool))
    every, out, there = (pad_sequence(values, batch_first=True) for values in (boxes, hidden, present))
    return torch.from_numpy(np.stack(images)), People(every, there & ~out, out)
