"""Training crops on disk: shards of plain .npy arrays, written once and read by memory mapping.

Rendering costs about as much as a training step, so crops are kept and seen several times, each time turned, scaled
and recoloured anew (`training.augment`). A shard is a folder with one array a field; it appears under its final name
only when it is whole, so that training may start while shards are still being made.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.errors import SourceError
from training.synth.samples import Sample, SampleMaker

FIELDS = tuple(field.name for field in fields(Sample))
# Half precision keeps half a millimetre over a body's reach, and halves what is read a step.
_STORED_AS = {"coarse": np.float16, "middle": np.float16, "mask": np.float16, "surface": np.float16}


def write_shards(maker: SampleMaker, out: Path, seed: int, count: int, size: int = 500, first: int = 0) -> None:
    """Write `count` crops to `out/SEED_NUMBER/`; shards that are there already are kept.

    Args:
        maker: draws the crops.
        out: folder of the shards.
        seed: together with a shard's number, all its randomness.
        count: crops, rounded up to whole shards.
        size: crops a shard.
        first: number of the first shard, so that several processes can share a folder.
    """
    for number in tqdm(range(first, first + -(-count // size)), desc="shards", unit="shard"):
        folder = out / f"{seed}_{number:05d}"
        if folder.exists():
            continue
        rng = np.random.default_rng([seed, number])
        samples = [maker.sample(rng) for _ in range(size)]
        partial = out / f".{folder.name}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        for name in FIELDS:
            stacked = np.stack([getattr(sample, name) for sample in samples])
            np.save(partial / f"{name}.npy", stacked.astype(_STORED_AS.get(name, stacked.dtype)))
        partial.rename(folder)


def open_shards(folder: Path) -> list[dict[str, NDArray]]:
    """Every whole shard of a folder, memory-mapped, sorted by name.

    Raises:
        SourceError: when there is none.
    """
    shards = sorted(path for path in folder.glob("[0-9]*") if path.is_dir())
    if not shards:
        raise SourceError(
            f"no training shards in {folder}",
            expected="folders written by python -m training.synth --crops",
            got="none",
        )
    return [{name: np.load(path / f"{name}.npy", mmap_mode="r") for name in FIELDS} for path in shards]
