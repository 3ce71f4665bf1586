"""Evaluate on labelled clips, as the model runs on a robot: frame after frame, by its own crops."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metro_ros.core.bundle import Bundle
from metro_ros.core.calibration import THRESHOLD_MM, Judged, join, judge_joints, reliability
from metro_ros.core.clip import TRUTH_FILE, Clip, load_clip
from metro_ros.core.engines import Engine
from metro_ros.core.errors import SourceError
from metro_ros.core.estimator import Estimator, Person
from metro_ros.core.evaluation import FrameErrors, evaluate_frame, scored_joints, summarize
from metro_ros.core.skeleton import J14
from training.reliability_diagram import write_diagram

METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "silhouette_iou")


def evaluate_clips(data: Path, bundle: Bundle, engine: Engine, diagram: Path | None = None) -> dict[str, Any]:
    """Print a table of every clip and of all frames; return both as JSON takes them.

    diagram: where to draw how far the joints' confidence can be believed, or None. Raises SourceError when there is no
    clip, or one of another body, or when the diagram cannot be drawn.
    """
    clips = find_clips(data)
    joints = "J14" if set(J14) <= set(bundle.skeleton.names) else f"{len(bundle.skeleton)} joints"
    print(f"{'clip':<14}{'frames':>7}{'lost':>6}{'MPJPE':>9}{'PA-MPJPE':>10}{'MPVPE':>9}{'IoU':>7}   (mm, {joints})")
    rows, every = {}, []
    judged: list[Judged] = []
    for path in clips:
        errors = run_clip(path, bundle, engine, judged)
        every += errors
        rows[path.name] = asdict(summarize(errors))
        _print_row(path.name, rows[path.name])
    total = asdict(summarize(every))
    _print_row("all frames", total)
    return total | judge_confidence(judged, bundle, diagram) | {"clips": rows}


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


def run_clip(path: Path, bundle: Bundle, engine: Engine, judged: list[Judged]) -> list[FrameErrors]:
    """Follow the person of one clip from its first frame to its last, and compare every frame with its truth.

    judged: gets the joints of everyone who was found.
    """
    clip, estimator = load_clip(path), Estimator(bundle, engine)
    errors = []
    for frame, image in enumerate(tqdm(clip.frames(), total=len(clip), desc=path.name, unit="frame", leave=False)):
        people = estimator(image, clip.camera, frame / clip.fps)
        errors.append(evaluate_frame(clip, frame, people, bundle))
        if people:
            judged.append(judge_person(clip, frame, max(people, key=lambda person: person.score), bundle))
    return errors


def judge_person(clip: Clip, frame: int, person: Person, bundle: Bundle) -> Judged:
    """The scored joints of the person in a frame, each right or not; none where the model has no confidence."""
    if person.joint_confidence is None:
        return join([])
    skeleton, scored = bundle.skeleton, scored_joints(bundle.skeleton)
    truth = bundle.joint_regressor @ clip.vertices(frame)
    joints, truth = person.joints - skeleton.root(person.joints), truth - skeleton.root(truth)
    return judge_joints(person.joint_confidence[scored], joints[scored], truth[scored], threshold_mm(bundle))


def judge_confidence(judged: list[Judged], bundle: Bundle, diagram: Path | None) -> dict[str, Any]:
    """Print and return how far the joints' confidence can be believed, and draw it; nothing of a model without.

    Raises SourceError when there is nothing to draw, or when it cannot be written.
    """
    answers = join(judged)
    if not len(answers.right) and diagram is None:
        return {}
    measured = reliability(answers)
    print(
        f"joints within {threshold_mm(bundle):g} mm: {measured.share_right:.1%}, by their confidence "
        f"{measured.mean_confidence:.1%}; expected calibration error {measured.ece:.3f}"
    )
    if diagram is not None:
        write_diagram(diagram, measured, threshold_mm(bundle))
    return {"confidence_ece": measured.ece, "reliability": measured.as_dict()}


def threshold_mm(bundle: Bundle) -> float:
    """How close to the truth a joint is right: as the bundle says, or THRESHOLD_MM."""
    return THRESHOLD_MM if bundle.manifest.confidence_mm is None else bundle.manifest.confidence_mm


def _print_row(name: str, row: dict[str, Any]) -> None:
    errors = "".join(
        f"{row[metric]:>{width}.{digits}f}"
        for metric, width, digits in zip(METRICS, (9, 10, 9, 7), (1, 1, 1, 3), strict=True)
    )
    print(f"{name:<14}{row['frames']:>7}{row['lost']:>6}{errors}")
