"""Train the person finder; killed, the same command goes on with --resume.

On frames by training.finder.frames:
    python -m training.finder --frames DIR --start-from yolox_nano.onnx [--photographs DIR] --out RUN --minutes M
On frames that other processes draw meanwhile, which suits a GPU:
    python -m training.finder --motions FILE.npz --workers N --pool ROWS --batch 96 --start-from ... --out RUN
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

from metro_ros.core.errors import ConfigError, MetroError
from training.datasets.frames import FrameSet
from training.finder.augment import AugmentConfig
from training.finder.data import PooledFrames, StoredFrames
from training.finder.network import FinderConfig
from training.finder.photographs import Photographs
from training.finder.start import read_start
from training.finder.stream import FrameRows, RowStream
from training.finder.train import LAST, FinderTraining, Trainer, run
from training.pool import Pool
from training.schedule import Length
from training.synth.frames import FrameConfig

POOL_ROWS, WAIT_ROWS = 10_000, 2000
_OF_MOTIONS = ("exclude", "cache", "workers", "pool", "wait", "rooms")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    cv2.setNumThreads(1)
    try:
        _check(options)
        length = Length(options.steps, options.minutes)
        config = FinderTraining(batch=options.batch, seed=options.seed)
        trainer = Trainer(FinderConfig(), config, device=_device(options.device))
        if (options.out / LAST).exists():
            if not options.resume:
                raise ConfigError(
                    f"{options.out} holds a run", expected="a new folder", got=LAST, remedy="go on with --resume"
                )
            trainer.restore(options.out / LAST)
        if options.start_from is not None:
            before = read_start(options.start_from, trainer.net.config)
            if not trainer.step:
                trainer.begin_with(before)
            if options.photographs is not None:
                trainer.remember(before, _photographs(options, trainer))
        with _feed(options, trainer) as feed:
            options.out.mkdir(parents=True, exist_ok=True)
            try:
                run(trainer, feed, options.out, length)
            except KeyboardInterrupt:
                trainer.save(options.out / LAST)
                print("finder: interrupted and saved; --resume goes on", file=sys.stderr)
                return 130
    except (MetroError, OSError) as error:
        print(f"finder: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("finder: interrupted before the first step", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.finder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=Path, help="folder of shards; shards that come later count too")
    parser.add_argument("--out", type=Path, required=True, help=f"folder of the run; {LAST} is what exports")
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--minutes", type=float, help="of training, in all, from the first step on")
    end.add_argument("--steps", type=int, help="of training, in all")
    parser.add_argument("--start-from", type=Path, help="yolox_nano.onnx of YOLOX, or a bundle with a finder")
    parser.add_argument(
        "--photographs", type=Path, help="folder of images on which it is to answer as at the beginning"
    )
    parser.add_argument("--batch", type=int, default=FinderTraining().batch, help="frames a step (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    drawn = parser.add_argument_group("frames drawn meanwhile")
    drawn.add_argument("--motions", type=Path, help=".npz of joint positions (see training.motion)")
    drawn.add_argument("--exclude", help="comma-separated recordings to leave out")
    drawn.add_argument("--cache", type=Path, help="where bodies and mesh spec are kept (default ~/.cache/metro_ros)")
    drawn.add_argument("--workers", type=int, help="processes that draw (default: one a core, but for one core)")
    drawn.add_argument("--pool", type=int, help=f"latest frames kept on the device, 0.5 MB each (default {POOL_ROWS})")
    drawn.add_argument("--wait", type=int, help=f"frames at hand before the first step (default {WAIT_ROWS})")
    drawn.add_argument("--rooms", type=int, help=f"backdrops, 1 MB each, a process (default {FrameConfig().rooms})")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raises ConfigError when options are out of range, or do not go together."""
    if (options.frames is None) == (options.motions is None):
        got = "neither" if options.frames is None else "both"
        raise ConfigError("frames to train on", expected="either --frames DIR or --motions FILE.npz", got=got)
    if options.batch < 2:
        raise ConfigError("batch", expected="2 or more", got=options.batch)
    if options.photographs is not None and options.start_from is None:
        raise ConfigError("--photographs", expected="--start-from too: what it is to answer", got="none")
    if options.seed < 0:
        raise ConfigError("seed", expected="0 or more", got=options.seed)
    given = [name for name in _OF_MOTIONS if getattr(options, name) is not None]
    if options.frames is not None and given:
        raise ConfigError(
            "frames of a folder are drawn already", expected="no " + ", ".join(f"--{n}" for n in given), got="--frames"
        )
    for name in ("workers", "wait", "rooms", "pool"):
        least = options.batch if name == "pool" else 1
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(name, expected=f"{least} or more", got=value)


def _device(name: str) -> torch.device:
    """Where to train. Raises ConfigError when there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda", expected="a GPU that torch can use", got="none", remedy="--device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _photographs(options: argparse.Namespace, trainer: Trainer) -> Photographs:
    """Batches of those of --photographs, a quarter of what each step sees. Raises SourceError."""
    config = trainer.config
    unhidden = AugmentConfig(hidden=0.0)  # whoever is hidden by a piece of another photograph is lost in either
    count = max(2, config.batch // 3)
    return Photographs(options.photographs, trainer.net.config, count, unhidden, config.seed, trainer.device)


@contextmanager
def _feed(options: argparse.Namespace, trainer: Trainer) -> Iterator[StoredFrames | PooledFrames]:
    """What gives batches, ready to give the first. Raises a MetroError when there is nothing to make them of."""
    network, config = trainer.net.config, trainer.config
    if options.frames is not None:
        yield StoredFrames(FrameSet(options.frames), network, config, AugmentConfig(), trainer.device)
        return
    rows = FrameRows(
        options.motions,
        options.exclude or "",
        options.cache,
        network.width,
        network.height,
        config.seed,
        first=trainer.step * config.batch,  # no process has come so far
        **({} if options.rooms is None else {"rooms": options.rooms}),
    )
    source = RowStream(rows, options.workers or max(1, (os.cpu_count() or 2) - 1))
    with Pool(source, options.pool or POOL_ROWS, trainer.device) as pool:
        pool.wait_for(options.wait or WAIT_ROWS)
        yield PooledFrames(pool, config, AugmentConfig())


if __name__ == "__main__":
    sys.exit(main())
