"""Random batches of stored crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.augment import Batch
from training.synth.shards import FIELDS, open_shards


class CropSource:
    """Random batches over every shard of a folder; shards that appear later join in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = open_shards(folder)

    def __len__(self) -> int:
        return sum(len(shard["image"]) for shard in self.shards)

    def refresh(self) -> None:
        """Take in shards that were finished since."""
        self.shards = open_shards(self.folder)

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """`count` crops from a few random shards."""
        chosen = rng.integers(len(self.shards), size=4)
        parts = np.array_split(np.arange(count), len(chosen))
        columns: dict[str, list[NDArray]] = {name: [] for name in FIELDS}
        for shard_index, part in zip(chosen, parts, strict=True):
            shard = self.shards[shard_index]
            rows = np.sort(rng.integers(len(shard["image"]), size=len(part)))
            for name in FIELDS:
                columns[name].append(shard[name][rows])
        return Batch(*(_tensor(np.concatenate(columns[name])) for name in FIELDS))


def _tensor(array: NDArray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.float() if tensor.dtype == torch.float16 else tensor
