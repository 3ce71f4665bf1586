"""`metro-ros build-engine`: build TensorRT plans before they are needed, here or for other GPUs."""

import argparse
import time
from pathlib import Path
from typing import get_args

from metro_ros.core.bundle import default_bundle_path, load_bundle
from metro_ros.core.engines import Precision
from metro_ros.core.engines.tensorrt import NAME, build_ahead
from metro_ros.core.engines.tensorrt_plan import BatchProfile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `metro-ros build-engine`."""
    usual = BatchProfile()
    parser.add_argument(
        "bundle", type=Path, nargs="?", default=default_bundle_path(), help="model bundle (default: built in)"
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="(%(default)s)")
    parser.add_argument("--max-batch", type=int, metavar="N", default=usual.largest, help="crops at once (%(default)s)")
    parser.add_argument(
        "--best-batch", type=int, metavar="N", default=usual.best, help="the fastest number (%(default)s)"
    )
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="X.Y",
        default=[None],
        help="build for GPUs of these, without one, by TensorRT-RTX (default: for the GPU here)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"folder (default: the cache, where engine {NAME} looks)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Build each plan that is not there yet, and name its file."""
    profile = BatchProfile(arguments.max_batch, arguments.best_batch)
    bundle = load_bundle(arguments.bundle)
    for capability in arguments.compute_capability:
        started = time.monotonic()
        path, built = build_ahead(bundle, arguments.precision, profile, capability, arguments.output)
        size_mb = path.stat().st_size / 1e6
        outcome = f"built in {time.monotonic() - started:.0f} s" if built else "up to date"
        print(f"{path}: {size_mb:.0f} MB, {outcome}", flush=True)
    return 0
