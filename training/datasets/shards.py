"""Sets of any size as WebDataset shards: plain .tar files of records (`training.datasets.record`), read by row.

The index is made on opening, from the headers alone: 0.03 ms a crop, 0.6 s for 20,000. One kept beside the shards would
save that and could be out of date. A sample is one stretch of its tar, read by one call, in 0.3 ms with its decoding
(two thirds of it JPEG), and no file stays open, so a data set can be handed to any number of processes.
"""

from __future__ import annotations

import mmap
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.record import decode_sample, encode_sample, joint_names_of
from training.datasets.sample import Sample, SampleError
from training.datasets.tar import BLOCK, read_members

MAX_SAMPLE_BYTES = 1 << 26
SHARD_SIZE = 500
_STEM = re.compile(r"[\w-]{1,60}", re.ASCII)


class SampleSource(Protocol):
    """Draws samples without end; the same generator state gives the same sample."""

    joint_names: tuple[str, ...]

    def sample(self, rng: np.random.Generator) -> Sample:
        """The next one."""


def write_shard(path: Path, samples: Iterable[Sample], joint_names: Sequence[str]) -> None:
    """Write samples to `path`, which appears only when it is whole.

    Args:
        path: NAME.tar; NAME of letters, digits, - and _, different for each shard of a set.
        samples: in this order; may be a generator.
        joint_names: of all of them.

    Raises:
        ConfigError: another name.
        SampleError: a sample with another number of joints.
        SourceError: the folder cannot be written.
    """
    if path.suffix != ".tar" or not _STEM.fullmatch(path.stem):
        raise ConfigError("name of a shard", expected="NAME.tar of letters, digits, - and _", got=path.name)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, sample in enumerate(samples):
                for suffix, content in encode_sample(sample, joint_names).items():
                    info = tarfile.TarInfo(f"{path.stem}_{row:06d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
        partial.replace(path)
    except OSError as cause:
        raise SourceError(f"cannot write {path}", expected="a writable folder", got=cause) from cause
    finally:
        with suppress(OSError):  # after success it is gone, and where nothing can be written nothing is
            partial.unlink()


def write_shards(
    source: SampleSource, out: Path, seed: int, count: int, size: int = SHARD_SIZE, first: int = 0
) -> None:
    """Write `count` samples to `out/SEED_NUMBER.tar`; shards that are there already are kept.

    Args:
        source: draws the samples.
        out: folder of the shards.
        seed: together with a shard's number, all its randomness.
        count: samples, rounded up to whole shards.
        size: samples a shard.
        first: number of the first shard, so that several processes can share a folder.

    Raises:
        SourceError: the folder cannot be written.
    """
    for number in tqdm(range(first, first + -(-count // size)), desc="shards", unit="shard"):
        path = out / f"{seed}_{number:05d}.tar"
        if not path.exists():
            rng = np.random.default_rng([seed, number])
            samples = (replace(source.sample(rng), key=f"{path.stem}/{row}") for row in range(size))
            write_shard(path, samples, source.joint_names)


class ShardDataset:
    """Every sample of the shards of a folder, sorted by name; satisfies `training.datasets.sample.Dataset`.

    Raises:
        SourceError: no shard in the folder, or one that is damaged or no tar.
        SampleError: the first sample does not say what its joints are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self._paths: list[Path] = []
        self._rows = np.empty((0, 3), np.int64)
        """(N, 3): number of the shard, and the bytes from the first header to the end of the last member."""
        if not self.refresh():
            made_by = ".tar files, e.g. by python -m training.synth --crops"
            raise SourceError(f"no training shards in {folder}", expected=made_by, got="none")
        self.joint_names = joint_names_of(self._members(0), self._what(0))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Row `index`. Raises SampleError when it is damaged or incomplete, IndexError when there is none."""
        return decode_sample(self._members(index), self.joint_names, self._what(index))

    def refresh(self) -> int:
        """Take in shards that were finished since, behind the rows there are; returns how many rows came.

        Raises SourceError when one of them is damaged; then nothing is taken in.
        """
        known = set(self._paths)
        new = [path for path in sorted(self.folder.glob("[!.]*.tar")) if path not in known]
        rows = [(shard, *span) for shard, path in enumerate(new, len(known)) for span in _spans(path)]
        self._paths += new
        self._rows = np.concatenate([self._rows, np.array(rows, np.int64).reshape(-1, 3)])
        return len(rows)

    def _what(self, index: int) -> str:
        return f"row {index} of {self.folder}"

    def _members(self, index: int) -> dict[str, bytes]:
        """Suffix → bytes of each member of a row."""
        shard, start, stop = (int(number) for number in self._rows[index])
        what = self._what(index)
        try:
            with open(self._paths[shard], "rb", buffering=0) as file:
                raw = os.pread(file.fileno(), stop - start, start)
        except OSError as cause:
            raise SampleError(f"{what}: cannot read {self._paths[shard].name}", got=cause) from cause
        members = read_members(raw, what, ended=False, error=SampleError)
        return {member.suffix: raw[member.start : member.stop] for member in members}


def _spans(path: Path) -> list[tuple[int, int]]:
    """First and last byte of every sample of a shard: neighbours of one key are one sample."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
            members = read_members(tar, str(path), ended=True)
    except (OSError, ValueError) as cause:  # ValueError: nothing in it to map
        raise SourceError(f"cannot read {path}", expected="an uncompressed .tar", got=cause) from cause
    spans: list[tuple[int, int]] = []
    key = None
    for member in members:
        start = spans.pop()[0] if member.key == key else member.start - BLOCK
        if member.end - start > MAX_SAMPLE_BYTES:
            raise SourceError(f"{member.key} of {path}", expected=f"up to {MAX_SAMPLE_BYTES} bytes", got="more")
        spans.append((start, member.end))
        key = member.key
    return spans
