"""Make labelled images of bodies, from motion capture, or of hands.

python -m training.synth --motions FILE.npz --clips N --seed S --out DIR     labelled clips, to evaluate on
python -m training.synth --motions FILE.npz --crops N --seed S --out DIR     training crops, for training.train
python -m training.synth --subject hand --clips N --seed S --out DIR         the same of right hands, which move from
python -m training.synth --subject hand --crops N --seed S --out DIR         pose to pose and need no motions
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2

from metro_ros.core.errors import ConfigError, MetroError
from training.anny_spec import load_anny_spec
from training.body import TRAINING_BANK, load_body_bank
from training.datasets.shards import SHARD_SIZE, write_shards
from training.motion import load_motions, mirror
from training.synth.clips import ClipConfig, write_clips
from training.synth.recordings import choose
from training.synth.render import Renderer, choose_renderer
from training.synth.samples import SampleConfig, SampleMaker, followed

CLIP_BANK = (48, 77)
"""People in clips come from a bank of their own, so that nobody is both trained and evaluated on."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.synth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subject", choices=("body", "hand"), default="body", help="(%(default)s)")
    parser.add_argument("--motions", type=Path, help="of bodies: .npz of joint positions (see training.motion)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--clips", type=int, help="how many labelled clips")
    what.add_argument("--crops", type=int, help="how many training crops, in whole shards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=ClipConfig().frames, help="most frames a clip (%(default)s)")
    parser.add_argument("--people", type=int, default=ClipConfig().people, help="in a clip (%(default)s)")
    parser.add_argument("--crossing", action="store_true", help="clips of people who pass behind each other")
    parser.add_argument("--occluders", type=int, default=ClipConfig().occluders, help="things before people, in a clip")
    parser.add_argument("--only", default="", help="comma-separated recordings to use")
    parser.add_argument("--exclude", default="", help="comma-separated recordings to leave out")
    parser.add_argument("--unseen-people", action="store_true", help="crops of the people in clips, for validation")
    parser.add_argument(
        "--occluded",
        type=float,
        default=SampleConfig().occluded,
        help="share of crops with something in front (%(default)s)",
    )
    parser.add_argument("--followed", action="store_true", help="crops as of people followed through a recording")
    parser.add_argument("--shard-size", type=int, default=SHARD_SIZE, help="crops a shard (%(default)s)")
    parser.add_argument("--first-shard", type=int, default=0, help="so that several processes can share a folder")
    parser.add_argument(
        "--renderer", choices=get_args(Renderer), default="auto", help="auto: OpenGL where a GPU does it"
    )
    parser.add_argument("--cache", type=Path, help="where bodies and mesh spec are kept (default ~/.cache/metro_ros)")
    return parser


def _check_subject(options: argparse.Namespace) -> None:
    """Raises ConfigError when bodies have no motions, or hands are given what only bodies have."""
    if options.subject == "body":
        if options.motions is None:
            raise ConfigError("no motions", expected="--motions FILE.npz, or --subject hand", got="neither")
        return
    given = [name for name in ("motions", "only", "exclude", "followed") if getattr(options, name)]
    if given:
        raise ConfigError(f"--{given[0]}", expected="--subject body: hands need no recordings", got="--subject hand")


def _make_hands(options: argparse.Namespace) -> None:
    from training.synth.make_hands import make_hand_clips, make_hand_crops

    if options.clips is not None:
        make_hand_clips(
            options.clips, options.seed, options.out,
            frames=options.frames, renderer=options.renderer, cache=options.cache,
        )  # fmt: skip
        return
    began = time.monotonic()
    renderer = make_hand_crops(
        options.crops, options.seed, options.out, occluded=options.occluded, unseen_people=options.unseen_people,
        shard_size=options.shard_size, first_shard=options.first_shard, renderer=options.renderer, cache=options.cache,
    )  # fmt: skip
    print(f"{options.crops / (time.monotonic() - began):.0f} crops a second, one process, drawn by {renderer}")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    cv2.setNumThreads(1)
    count = options.clips if options.clips is not None else options.crops
    try:
        if min(count, options.frames, options.shard_size) < 1:
            raise ConfigError("nothing to make", expected="at least one clip, crop and frame", got=str(count))
        if options.people < 1 + options.crossing or options.occluders < 0:
            raise ConfigError(
                "people and things in a clip",
                expected="one person or more, two with --crossing, and no less than 0 things",
                got=f"{options.people} and {options.occluders}",
            )
        if not 0 <= options.occluded <= 1:
            raise ConfigError("share of occluded crops", expected="0 to 1", got=options.occluded)
        _check_subject(options)
        if options.subject == "hand":
            _make_hands(options)
            return 0
        training_bank = load_body_bank(*TRAINING_BANK, options.cache)
        every = load_motions(options.motions, training_bank)
        mesh = load_anny_spec(training_bank, every, options.cache)
        motions = choose(every, options.only, options.exclude)
        began = time.monotonic()
        crops_of_training_people = options.crops is not None and not options.unseen_people
        bank = training_bank if crops_of_training_people else load_body_bank(*CLIP_BANK, options.cache)
        # After anny, which brings an LLVM of its own: loaded behind Mesa's it crashes.
        renderer = choose_renderer(options.renderer)
        if options.crops is not None:
            sample_config = followed(options.occluded) if options.followed else SampleConfig(occluded=options.occluded)
            both = [*motions, *(mirror(motion, bank) for motion in motions)]
            rooms = min(sample_config.rooms, options.crops)  # a few crops need no three hundred of them
            maker = SampleMaker(bank, mesh, both, options.seed, replace(sample_config, rooms=rooms))
            size = min(count, options.shard_size)
            write_shards(maker, options.out, options.seed, count, size=size, first=options.first_shard)
            print(f"{count / (time.monotonic() - began):.0f} crops a second, one process, drawn by {renderer}")
        else:
            config = ClipConfig(
                frames=options.frames,
                people=options.people,
                crossing=options.crossing,
                occluders=options.occluders,
            )
            write_clips(bank, mesh, motions, count, options.seed, options.out, config)
    except MetroError as error:
        print(f"synth: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("synth: interrupted; what is whole is kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
