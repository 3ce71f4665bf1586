"""`metro-ros attention`: what a person's joints attend to, drawn over the image."""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.cli.finding import View, unrelated, with_cameras
from metro_ros.cli.sources import open_source
from metro_ros.core.attention import Attention, AttentionNetwork, shares, token_regions
from metro_ros.core.attention_view import ViewConfig, draw_attention
from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.detectors import open_detector
from metro_ros.core.engines import EngineName, open_engine
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.estimator import Person
from metro_ros.core.mirror import mirror_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `metro-ros attention`."""
    usual = ViewConfig()
    parser.add_argument("source", help="image; or a folder, video or labelled clip, with --frame")
    parser.add_argument("--joint", nargs="+", required=True, metavar="NAME", help="one panel each: right_wrist head")
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="model bundle (default: built in)")
    parser.add_argument("--mirror", action="store_true", help="find left hands with a right-hand model")
    parser.add_argument("--output", type=Path, default=Path("attention.png"), help="picture to write (%(default)s)")
    parser.add_argument("--person", type=int, metavar="N", default=1, help="1 is the one with the best score")
    parser.add_argument("--frame", type=int, metavar="N", default=0, help="of the source, from 0 (%(default)s)")
    parser.add_argument("--size", type=int, metavar="PX", default=usual.side_px, help="of a panel (%(default)s)")
    parser.add_argument("--engine", choices=get_args(EngineName), default="auto", help="(%(default)s: the fastest)")


def run(arguments: argparse.Namespace) -> int:
    """Find the person, look at the same crop with the attention view, draw, and say where most of it goes."""
    view_config = ViewConfig(side_px=arguments.size)
    bundle = load_bundle(arguments.bundle)
    joints = [bundle.skeleton.find(name) for name in arguments.joint]
    if arguments.mirror:
        bundle = mirror_bundle(bundle)
    network = AttentionNetwork(bundle)
    view = _frame(arguments.source, arguments.frame)
    engine, detector = open_engine(bundle, arguments.engine), open_detector("auto", bundle)
    try:
        ((_, people),) = unrelated([view], bundle, engine, together=1, detector=detector)
    finally:
        engine.close()
        if detector is not None:
            detector.close()
    person = _chosen(people, arguments.person, view.frame.name)
    attention = network.look(view.frame.image, person.box)
    regions = token_regions(bundle)
    picture = draw_attention(view.frame.image, attention, joints, bundle.skeleton, regions, view_config)
    _write(arguments.output, picture)
    for joint in joints:
        print(_told(attention, joint, bundle, regions, view_config.listed))
    print(f"Written: {arguments.output}")
    return 0


def _frame(source: str, number: int) -> View:
    """One frame of a source, with its camera. Raises SourceError when there is no such frame."""
    if number < 0:
        raise ConfigError("--frame", expected="0 or more", got=number)
    view = next(islice(with_cameras(open_source(source), None, None), number, None), None)
    if view is None:
        raise SourceError(f"{source} ends before frame {number}", remedy="frames are counted from 0")
    return view


def _chosen(people: Sequence[Person], number: int, name: str) -> Person:
    """The person of that place, by score. Raises ConfigError when there are fewer."""
    if not 1 <= number <= len(people):
        raise ConfigError(
            f"no such person in {name}",
            expected=f"--person 1 to {len(people)}" if people else "an image that shows somebody",
            got=number if people else "nothing found",
        )
    return sorted(people, key=lambda person: -person.score)[number - 1]


def _told(attention: Attention, joint: int, bundle: Bundle, regions: npt.NDArray[np.intp], listed: int) -> str:
    """One line: where most of the attention goes, joints with the mesh around them."""
    names, most = bundle.skeleton.names, shares(attention, joint, regions)[:listed]
    return f"{names[joint]} attends to " + ", ".join(f"{names[share.joint]} {share.total:.1%}" for share in most)


def _write(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Raises SourceError when the picture cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), picture)
    except (cv2.error, OSError):  # OpenCV raises for an unknown suffix
        written = False
    if not written:
        raise SourceError(f"cannot write {path}", expected="a folder with room, and an image type to write")
