"""Evaluate a bundle on labelled clips, as it runs on a robot: frame after frame, by its own crops.

python -m training.evaluate --bundle DIR --data DIR --json OUT
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.clip import TRUTH_FILE, load_clip
from metro_ros.core.engines import Engine, open_engine
from metro_ros.core.errors import MetroError, SourceError
from metro_ros.core.estimator import Estimator
from metro_ros.core.evaluation import FrameErrors, evaluate_frame, summarize

METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "silhouette_iou")


def find_clips(data: Path) -> list[Path]:
    """Every clip folder below `data`, or `data` itself. Raises SourceError when there is none."""
    if (data / TRUTH_FILE).is_file():
        return [data]
    clips = sorted(path.parent for path in data.glob(f"*/{TRUTH_FILE}"))
    if not clips:
        raise SourceError(
            f"no labelled clips in {data}", expected="folders by python -m training.synth --clips", got="none"
        )
    return clips


def run_clip(path: Path, bundle: Bundle, engine: Engine) -> list[FrameErrors]:
    """Follow the person of one clip from its first frame to its last, and compare every frame with its truth."""
    clip, estimator = load_clip(path), Estimator(bundle, engine)
    errors = []
    for frame, image in enumerate(tqdm(clip.frames(), total=len(clip), desc=path.name, unit="frame", leave=False)):
        people = estimator(image, clip.camera, frame / clip.fps)
        errors.append(evaluate_frame(clip, frame, people, bundle))
    return errors


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="(default: the one that ships)")
    parser.add_argument("--data", type=Path, required=True, help="a clip, or a folder of clips")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="fp32")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        bundle = load_bundle(options.bundle)
        engine = open_engine(bundle, engine=options.engine, precision=options.precision)
        clips = find_clips(options.data)
        print(f"{'clip':<14}{'frames':>7}{'lost':>6}{'MPJPE':>9}{'PA-MPJPE':>10}{'MPVPE':>9}{'IoU':>7}   (mm, J14)")
        rows, every = {}, []
        for path in clips:
            errors = run_clip(path, bundle, engine)
            every += errors
            rows[path.name] = asdict(summarize(errors))
            _print_row(path.name, rows[path.name])
        total = asdict(summarize(every))
        _print_row("all frames", total)
        if options.json:
            report = {"bundle": bundle.manifest.name, "engine": engine.name, "precision": engine.precision}
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report | total | {"clips": rows}, indent=1) + "\n")
    except MetroError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def _print_row(name: str, row: dict) -> None:
    errors = "".join(
        f"{row[metric]:>{width}.{digits}f}"
        for metric, width, digits in zip(METRICS, (9, 10, 9, 7), (1, 1, 1, 3), strict=True)
    )
    print(f"{name:<14}{row['frames']:>7}{row['lost']:>6}{errors}")


if __name__ == "__main__":
    sys.exit(main())
