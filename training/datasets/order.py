"""Which sample comes when: an endless, weighted mix in which every position is known without its predecessors.

That is what lets training go on after a kill with the very samples that were next, and lets any number of processes
share a batch: they only have to agree on the position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from metro_ros.core.errors import ConfigError

BLOCK = 1024
"""Positions over which the weights hold exactly, but for rounding; within a block the order is shuffled."""


class MixOrder:
    """Position -> (dataset, index). Each dataset is walked through in shuffled epochs of its own.

    Args:
        sizes: rows of each dataset.
        weights: shares of each, any positive scale.
        seed: of all shuffling.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if not sizes or min(sizes) < 1:
            raise ConfigError("a mix of datasets", expected="rows in every dataset", got=list(sizes))
        if len(weights) != len(sizes) or not all(np.isfinite(weights)) or min(weights) <= 0:
            raise ConfigError("weights of datasets", expected=f"{len(sizes)} above 0", got=list(weights))
        self.sizes, self.seed = tuple(sizes), seed
        self._edges = np.concatenate([[0.0], np.cumsum(np.asarray(weights, np.float64) / sum(weights))])
        self._edges[-1] = 1.0
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    def __call__(self, position: int) -> tuple[int, int]:
        """Dataset and row of the sample at `position`, 0 upwards."""
        block, place = divmod(position, BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = (block, *self._shuffled(block))
        _, datasets, draws = self._block
        dataset, draw = int(datasets[place]), int(draws[place])
        return dataset, self._row(dataset, draw)

    def _drawn(self, blocks: int) -> np.ndarray:
        """How many rows of each dataset the first `blocks` blocks take."""
        return np.diff(np.floor(self._edges * (blocks * BLOCK) + 0.5).astype(np.int64))

    def _shuffled(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(BLOCK,) which dataset comes when, and how many of its rows came before."""
        before = self._drawn(block)
        counts = np.maximum(self._drawn(block + 1) - before, 0)
        counts[np.argmax(counts)] += BLOCK - counts.sum()  # what rounding took
        datasets = np.repeat(np.arange(len(counts)), counts)
        datasets = np.random.default_rng([self.seed, 1, block]).permutation(datasets)
        draws = np.empty(BLOCK, np.int64)
        for dataset, start in enumerate(before):
            places = np.flatnonzero(datasets == dataset)
            draws[places] = start + np.arange(len(places))
        return datasets, draws

    def _row(self, dataset: int, draw: int) -> int:
        epoch, place = divmod(draw, self.sizes[dataset])
        cached = self._epochs.get(dataset)
        if cached is None or cached[0] != epoch:
            rows = np.random.default_rng([self.seed, 2, dataset, epoch]).permutation(self.sizes[dataset])
            cached = self._epochs[dataset] = (epoch, rows)
        return int(cached[1][place])


class InTurn:
    """Position -> (dataset, index): every row of every dataset once, one dataset after the other."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self._ends = np.cumsum(self.sizes)

    def __call__(self, position: int) -> tuple[int, int]:
        """Dataset and row at `position`, 0 up to the sum of the sizes."""
        dataset = int(np.searchsorted(self._ends, position, side="right"))
        return dataset, position - int(self._ends[dataset]) + self.sizes[dataset]


class PositionSampler(Sampler[list[int]]):
    """Lists of positions, one a micro-batch, without end; process `rank` of `world` takes its slice of each.

    Micro-batch m of one process that accumulates and process m of several see the same samples.

    Args:
        batch: samples a micro-batch.
        first: micro-batches that every process has already seen.
    """

    def __init__(self, batch: int, rank: int = 0, world: int = 1, first: int = 0) -> None:
        self.batch, self.rank, self.world, self.first = batch, rank, world, first

    def __iter__(self) -> Iterator[list[int]]:
        number = self.first
        while True:
            start = (number * self.world + self.rank) * self.batch
            yield list(range(start, start + self.batch))
            number += 1
