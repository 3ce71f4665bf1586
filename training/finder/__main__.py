"""Train the person finder on frames by training.finder.frames; killed, the same command goes on with --resume.

python -m training.finder --frames DIR --out RUN --minutes M [--start-from BUNDLE] [--resume]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from metro_ros.core.bundle import load_bundle
from metro_ros.core.errors import ConfigError, MetroError
from training.datasets.frames import FrameSet
from training.finder.augment import AugmentConfig
from training.finder.network import FinderConfig
from training.finder.start import start_from
from training.finder.train import LAST, FinderTraining, Trainer, run
from training.schedule import Length


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.finder", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=Path, required=True, help="folder of shards; shards that come later count too")
    parser.add_argument("--out", type=Path, required=True, help=f"folder of the run; {LAST} is what exports")
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--minutes", type=float, help="of training, in all")
    end.add_argument("--steps", type=int, help="of training, in all")
    parser.add_argument("--start-from", type=Path, help="bundle whose finder, or else backbone, to begin with")
    parser.add_argument("--batch", type=int, default=FinderTraining().batch, help="frames a step (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    try:
        length = Length(options.steps, options.minutes)
        if options.batch < 2:
            raise ConfigError("batch", expected="2 or more", got=options.batch)
        trainer = Trainer(FinderConfig(), FinderTraining(batch=options.batch, seed=options.seed))
        if (options.out / LAST).exists():
            if not options.resume:
                raise ConfigError(
                    f"{options.out} holds a run", expected="a new folder", got=LAST, remedy="go on with --resume"
                )
            trainer.restore(options.out / LAST)
        frames = FrameSet(options.frames)
        if options.start_from is not None and not trainer.step:
            start_from(trainer, load_bundle(options.start_from), frames)
        options.out.mkdir(parents=True, exist_ok=True)
        try:
            run(trainer, frames, options.out, length, AugmentConfig())
        except KeyboardInterrupt:
            trainer.save(options.out / LAST)
            print("finder: interrupted and saved; --resume goes on", file=sys.stderr)
            return 130
    except (MetroError, OSError) as error:
        print(f"finder: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
