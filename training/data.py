"""Batches for training and validation: the next ones, wherever a run was interrupted."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Sampler

from training.datasets.mixture import Item, Mixture
from training.datasets.order import PositionSampler
from training.module import MetroModule


class MetroData(pl.LightningDataModule):
    """Loaders over a mixture to train on and one to validate on.

    Args:
        training, validation: mixtures; validation takes every row once, in a fixed order.
        batch: samples a process and micro-batch.
        workers: loading processes a training process; 0 loads between two steps.
    """

    def __init__(self, training: Mixture, validation: Mixture | None, batch: int, workers: int) -> None:
        super().__init__()
        self.training, self.validation, self.batch, self.workers = training, validation, batch, workers

    def train_dataloader(self) -> DataLoader[Item]:
        """Without end, from the first micro-batch that no step of the optimiser has seen."""
        assert self.trainer is not None
        assert isinstance(self.trainer.lightning_module, MetroModule)
        seen = self.trainer.lightning_module.batches
        sampler = PositionSampler(self.batch, self.trainer.global_rank, self.trainer.world_size, seen)
        return self._loader(self.training, sampler)

    def val_dataloader(self) -> DataLoader[Item] | list[DataLoader[Item]]:
        if self.validation is None:
            return []
        assert self.trainer is not None
        sampler = EveryRow(len(self.validation), self.batch, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.validation, sampler)

    def _loader(self, mixture: Mixture, sampler: Sampler[list[int]]) -> DataLoader[Item]:
        return DataLoader(
            mixture,
            batch_sampler=sampler,
            collate_fn=mixture.collate,
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


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
