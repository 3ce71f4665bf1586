"""Batches for training and validation: the next ones, wherever a run was interrupted."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import cv2
import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from training.datasets.augment import AugmentConfig
from training.datasets.mixture import Batch, Item, Mixture
from training.datasets.order import PositionSampler
from training.device_augment import CameraChanges, augment, pack
from training.module import MetroModule
from training.pool import Pool

CHUNK = 64
"""Samples that a loading process hands over to a pool at once."""
LIBRARIES = ["training.module", "training.synth.stream"]
"""What loading processes share from the start."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """Training from a pool on the device, see training.pool.

    Attributes:
        rows: most samples kept. wait: at hand before the first step.
        augment: how they change each time they are drawn; the mixture itself then changes nothing.
    """

    rows: int
    wait: int
    augment: AugmentConfig


class MetroData(pl.LightningDataModule):
    """Loaders over a mixture to train on and one to validate on.

    Args:
        training, validation: mixtures; validation takes every row once, in a fixed order.
        batch: samples a process and micro-batch.
        workers: loading processes a training process; 0 loads between two steps.
        pooling: or None, to train on each sample once, as it comes.
    """

    def __init__(
        self, training: Mixture, validation: Mixture | None, batch: int, workers: int, pooling: Pooling | None = None
    ) -> None:
        super().__init__()
        self.training, self.validation, self.batch, self.workers = training, validation, batch, workers
        self.pooling = pooling
        self._pool: Pool | None = None

    def train_dataloader(self) -> DataLoader[Item] | Iterable[Batch]:
        """Without end, from the first micro-batch that no step of the optimiser has seen."""
        assert self.trainer is not None
        assert isinstance(self.trainer.lightning_module, MetroModule)
        seen = self.trainer.lightning_module.batches
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if self.pooling is not None:
            return self._pooled(self.pooling, seen, rank, world)
        return self._loader(self.training, PositionSampler(self.batch, rank, world, seen))

    def teardown(self, stage: str) -> None:
        """End the pool's thread and its loading processes."""
        if self._pool is not None:
            self._pool.__exit__()
            self._pool = None

    def _pooled(self, pooling: Pooling, seen: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches without end. A run that goes on draws other samples than it would have: a pool fills by the clock."""
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        self._pool = self.make_pool(pooling, device, seen, rank, world)
        self._pool.__enter__()
        self._pool.wait_for(pooling.wait)
        return self._draw(self._pool, pooling, device, seen, rank, world)

    def make_pool(self, pooling: Pooling, device: torch.device, seen: int = 0, rank: int = 0, world: int = 1) -> Pool:
        """A pool that the loading processes fill once it is entered, with what follows the first `seen` batches."""
        sampler = PositionSampler(CHUNK, rank, world, seen * self.batch // CHUNK)
        return Pool(self._loader(self.training, sampler, _Packing(self.training)), pooling.rows, device)

    def _draw(
        self, pool: Pool, pooling: Pooling, device: torch.device, seen: int, rank: int, world: int
    ) -> Iterator[Batch]:
        mixture = self.training
        for number in count(seen):
            position = (number * world + rank) * self.batch
            generator = torch.Generator(device).manual_seed(1_000_003 * mixture.seed + position)
            rows = pool.draw(self.batch, generator)
            yield augment(rows, mixture.mesh, pooling.augment, CameraChanges(), mixture.mask_ratio, generator, position)

    def val_dataloader(self) -> DataLoader[Item] | list[DataLoader[Item]]:
        if self.validation is None:
            return []
        assert self.trainer is not None
        sampler = EveryRow(len(self.validation), self.batch, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.validation, sampler)

    def _loader(
        self, mixture: Mixture, sampler: Sampler[list[int]], collate: Callable[..., Any] | None = None
    ) -> DataLoader[Any]:
        if self.workers:  # the libraries are read once, not in each process in turn
            multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
        return DataLoader(
            mixture,
            batch_sampler=sampler,
            collate_fn=collate or mixture.collate,
            num_workers=self.workers,
            # A plain fork copies locks that threads of torch or OpenCV hold, and may wait for them for ever.
            multiprocessing_context="forkserver" if self.workers else None,
            worker_init_fn=_one_thread if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
        )


class EveryRow(Sampler[list[int]]):
    """Each of `rows` positions once, in batches dealt out to the processes; everyone gets at least one batch."""

    def __init__(self, rows: int, batch: int, rank: int, world: int) -> None:
        starts = list(range(rank * batch, rows, world * batch)) or [0]
        self.batches = [list(range(start, min(start + batch, rows))) for start in starts]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class _Packing:
    """Collates items of a mixture to rows of a pool, in the process that loads them."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        batch = self.mixture.collate(items)
        for row in batch.skipped:
            print(f"skipped: {row}", file=sys.stderr)
        return pack(batch)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    os.nice(5)  # to load ahead is worth less than to train
