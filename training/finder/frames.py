"""Make the frames that the finder is trained and evaluated on.

python -m training.finder.frames --motions FILE.npz --count N --seed S --out DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from metro_ros.core.errors import ConfigError, MetroError
from training.anny_spec import load_anny_spec
from training.body import TRAINING_BANK, load_body_bank
from training.datasets.frames import SHARD_SIZE, write_frame_shards
from training.motion import load_motions, mirror
from training.synth.__main__ import CLIP_BANK, choose
from training.synth.frames import FrameConfig, FrameMaker


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.finder.frames", description=__doc__.splitlines()[0])
    parser.add_argument("--motions", type=Path, required=True, help=".npz of joint positions (see training.motion)")
    parser.add_argument("--count", type=int, required=True, help="how many frames, in whole shards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="comma-separated recordings to use")
    parser.add_argument("--exclude", default="", help="comma-separated recordings to leave out")
    parser.add_argument("--unseen-people", action="store_true", help="people that no training frame shows")
    parser.add_argument("--shard-size", type=int, default=SHARD_SIZE, help="frames a shard (%(default)s)")
    parser.add_argument("--first-shard", type=int, default=0, help="so that several processes can share a folder")
    parser.add_argument("--cache", type=Path, help="where bodies and mesh spec are kept (default ~/.cache/metro_ros)")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    try:
        if min(options.count, options.shard_size) < 1:
            raise ConfigError("nothing to make", expected="at least one frame", got=options.count)
        training_bank = load_body_bank(*TRAINING_BANK, options.cache)
        every = load_motions(options.motions, training_bank)
        mesh = load_anny_spec(training_bank, every, options.cache)
        bank = load_body_bank(*CLIP_BANK, options.cache) if options.unseen_people else training_bank
        motions = choose(every, options.only, options.exclude)
        both = [*motions, *(mirror(motion, bank) for motion in motions)]
        config = FrameConfig(rooms=min(FrameConfig().rooms, options.count))  # no more than there are frames
        maker = FrameMaker(bank, mesh, both, options.seed + options.first_shard, config)
        size = min(options.count, options.shard_size)
        write_frame_shards(maker, options.out, options.seed, options.count, size, options.first_shard)
    except MetroError as error:
        print(f"finder: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("finder: interrupted; whole shards are kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
