"""Evaluate on labelled clips, as the model runs on a robot: frame after frame, by its own crops."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metro_ros.core.bundle import Bundle
from metro_ros.core.clip import TRUTH_FILE, load_clip
from metro_ros.core.engines import Engine
from metro_ros.core.errors import SourceError
from metro_ros.core.estimator import Estimator
from metro_ros.core.evaluation import FrameErrors, evaluate_frame, summarize
from metro_ros.core.skeleton import J14

METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "silhouette_iou")
HAND_METRICS = ("f_5mm", "f_15mm")


def evaluate_clips(data: Path, bundle: Bundle, engine: Engine) -> dict[str, Any]:
    """Print a table of every clip and of all frames; return both as JSON takes them.

    Raises SourceError when there is no clip, or one of another body.
    """
    clips = find_clips(data)
    joints = "J14" if set(J14) <= set(bundle.skeleton.names) else f"{len(bundle.skeleton)} joints"
    of_hands = "" if joints == "J14" else f"{'F@5':>7}{'F@15':>7}"
    heading = f"{'clip':<14}{'frames':>7}{'lost':>6}{'MPJPE':>9}{'PA-MPJPE':>10}{'MPVPE':>9}{'IoU':>7}{of_hands}"
    print(f"{heading}   (mm, {joints})")
    rows, every = {}, []
    for path in clips:
        errors = run_clip(path, bundle, engine)
        every += errors
        rows[path.name] = asdict(summarize(errors))
        _print_row(path.name, rows[path.name])
    total = asdict(summarize(every))
    _print_row("all frames", total)
    return total | {"clips": rows}


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


def _print_row(name: str, row: dict[str, Any]) -> None:
    errors = "".join(
        f"{row[metric]:>{width}.{digits}f}"
        for metric, width, digits in zip(METRICS, (9, 10, 9, 7), (1, 1, 1, 3), strict=True)
    )
    scores = "".join(f"{row[metric]:>7.3f}" for metric in HAND_METRICS if row[metric] is not None)
    print(f"{name:<14}{row['frames']:>7}{row['lost']:>6}{errors}{scores}")
