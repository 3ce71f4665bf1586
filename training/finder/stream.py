"""Frames drawn while the finder trains, by processes of their own: no image on disk, and none seen twice."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.anny_spec import load_anny_spec
from training.body import TRAINING_BANK, load_body_bank
from training.finder.augment import letterbox, warp
from training.motion import load_motions, mirror
from training.synth.frames import Frame, FrameConfig, FrameMaker
from training.synth.recordings import choose
from training.synth.render import choose_renderer

PEOPLE = 8
"""Places for people in a row: two more than `FrameConfig.people` ever needs."""
_PREFETCH = 4
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Arrays = dict[str, NDArray]


@dataclass(frozen=True, slots=True)
class FrameRows:
    """What each process draws.

    Attributes:
        motions: .npz of joint positions (see training.motion).
        exclude: comma-separated recordings to leave out.
        cache: where bodies and mesh spec are kept; None: the user's cache folder.
        width, height: of the finder's input, px, into which frames are letterboxed.
        seed: row r of process w is drawn from (seed, 9, w, r) alone, but its rooms are those of seed + w.
        first: the row each process begins with, so that a run that goes on sees others than before.
        chunk: rows that are handed over together.
        rooms: backdrops that each process keeps: a megabyte each.
    """

    motions: Path
    exclude: str = ""
    cache: Path | None = None
    width: int = 416
    height: int = 416
    seed: int = 0
    first: int = 0
    chunk: int = 16
    rooms: int = FrameConfig().rooms

    def maker(self, process: int = 0, rooms: int | None = None) -> FrameMaker:
        """What process `process` draws with. Raises a MetroError when motions or bodies cannot be read or chosen."""
        bank = load_body_bank(*TRAINING_BANK, self.cache)
        every = load_motions(self.motions, bank)
        mesh = load_anny_spec(bank, every, self.cache)
        motions = choose(every, "", self.exclude)
        both = [*motions, *(mirror(motion, bank) for motion in motions)]
        config = FrameConfig(rooms=self.rooms if rooms is None else rooms)
        return FrameMaker(bank, mesh, both, self.seed + process, config)

    def chunks(self, process: int) -> Iterator[Arrays]:
        """Chunks without end, see `lay_out`."""
        choose_renderer("opencv")
        maker = self.maker(process)
        for start in itertools.count(self.first, self.chunk):
            rows = range(start, start + self.chunk)
            frames = [maker.frame(np.random.default_rng([self.seed, 9, process, row])) for row in rows]
            yield lay_out(frames, self.width, self.height)


def lay_out(frames: list[Frame], width: int, height: int) -> Arrays:
    """Frames, letterboxed into width x height px, as arrays of one size.

    image: uint8 (n, H, W, 3) RGB; content: float32 (n, 4), left, top, right, bottom, px, of the frame within the bars;
    boxes: float32 (n, PEOPLE, 4), left, top, right, bottom, px, and visible: float32 (n, PEOPLE), zeros where present,
    bool (n, PEOPLE), is not; of more people, the nearest.
    """
    count = len(frames)
    rows: Arrays = {
        "image": np.zeros((count, height, width, 3), np.uint8),
        "content": np.zeros((count, 4), np.float32),
        "boxes": np.zeros((count, PEOPLE, 4), np.float32),
        "visible": np.zeros((count, PEOPLE), np.float32),
        "present": np.zeros((count, PEOPLE), np.bool_),
    }
    for row, frame in enumerate(frames):
        scale, x, y = letterbox(frame.image.shape[1], frame.image.shape[0], width, height)
        image, boxes, visible = warp(frame, scale, x, y, width, height)
        people = min(len(boxes), PEOPLE)
        rows["image"][row] = image
        rows["content"][row] = x, y, width - x, height - y
        rows["boxes"][row, :people] = boxes[len(boxes) - people :]
        rows["visible"][row, :people] = visible[len(boxes) - people :]
        rows["present"][row, :people] = True
    return rows


class RowStream:
    """An endless iterable of chunks as tensors, drawn by `workers` processes; a source for `training.pool.Pool`.

    Everything is read once here, so that what is wrong is said before processes start, and they find their caches.
    """

    def __init__(self, rows: FrameRows, workers: int) -> None:
        rows.maker(rooms=0)
        self.rows, self.workers = rows, workers

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # Processes take over the environment they are started in: one core each, not all of them for each.
        for name in _THREADS:
            os.environ.setdefault(name, "1")
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])  # read once, not by each
        loader: DataLoader[Arrays] = DataLoader(
            _Chunks(self.rows),
            batch_size=None,
            num_workers=self.workers,
            # Arrays come through a pipe: tensors would need shared memory, which containers have little of.
            collate_fn=_as_they_are,  # type: ignore[arg-type]
            multiprocessing_context="forkserver",
            worker_init_fn=_one_thread,
            prefetch_factor=_PREFETCH,
        )
        for chunk in loader:
            yield {name: torch.from_numpy(array) for name, array in chunk.items()}


class _Chunks(IterableDataset[Arrays]):
    def __init__(self, rows: FrameRows) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Arrays]:
        info = get_worker_info()
        return self.rows.chunks(0 if info is None else info.id)


def _as_they_are(chunk: Arrays) -> Arrays:
    return chunk


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    os.nice(5)  # to draw ahead is worth less than to train
