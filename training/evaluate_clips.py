"""Evaluate on labelled clips, as the model runs on a robot: frame after frame, by its own crops and ids."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metro_ros.core.bundle import Bundle
from metro_ros.core.calibration import THRESHOLD_MM, Judged, join, judge_joints, reliability
from metro_ros.core.clip import TRUTH_FILE, Clip, load_clip
from metro_ros.core.detect import Detector
from metro_ros.core.engines import Engine
from metro_ros.core.errors import SourceError
from metro_ros.core.estimator import Estimator
from metro_ros.core.evaluation import ClipEvaluation, FoundPerson, Score, scored_joints, summarize
from metro_ros.core.skeleton import J14
from training.reliability_diagram import write_diagram

METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "silhouette_iou")
COLUMNS = (
    ("frames", "frames", 8, "d"),
    ("bodies", "bodies", 8, "d"),
    ("lost", "lost", 6, "d"),
    ("MPJPE", "mpjpe_mm", 8, ".1f"),
    ("PA-MPJPE", "pa_mpjpe_mm", 10, ".1f"),
    ("MPVPE", "mpvpe_mm", 8, ".1f"),
    ("IoU", "silhouette_iou", 7, ".3f"),
    ("F@5", "f_5mm", 7, ".3f"),
    ("F@15", "f_15mm", 7, ".3f"),
    ("recall", "recall", 8, ".3f"),
    ("precision", "precision", 11, ".3f"),
    ("MOTA", "mota", 8, ".3f"),
    ("IDF1", "idf1", 7, ".3f"),
    ("switches", "id_switches", 10, "d"),
)
"""Heading, figure, width and format of the table; F-scores of hands alone."""


def evaluate_clips(
    data: Path, bundle: Bundle, engine: Engine, detector: Detector | None = None, diagram: Path | None = None
) -> dict[str, Any]:
    """Print a table of every clip and of all frames; return both as JSON takes them.

    detector: who finds people, as for `Estimator`; diagram: where to draw how far the joints' confidence can be
    believed, or None. Raises SourceError when there is no clip, or one of another body, or when the diagram cannot be
    drawn.
    """
    clips = find_clips(data)
    joints = "J14" if set(J14) <= set(bundle.skeleton.names) else f"{len(bundle.skeleton)} joints"
    columns = [column for column in COLUMNS if joints != "J14" or not column[1].startswith("f_")]
    print(f"{'clip':<14}" + "".join(f"{name:>{width}}" for name, _, width, _ in columns) + f"   (mm, {joints})")
    rows, every = {}, []
    judged: list[Judged] = []
    for path in clips:
        score = run_clip(path, bundle, engine, judged, detector)
        every.append(score)
        rows[path.name] = asdict(summarize([score]))
        _print_row(path.name, rows[path.name])
    total = asdict(summarize(every))
    _print_row("all frames", total)
    print(f"ids kept in {total['clips_kept']} of {total['clips']} clips")
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


def run_clip(
    path: Path, bundle: Bundle, engine: Engine, judged: list[Judged], detector: Detector | None = None
) -> Score:
    """Follow the people of one clip from its first frame to its last, and compare every frame with its truth.

    judged: gets the joints of everyone who was found.
    """
    clip = load_clip(path)
    estimator, evaluation = Estimator(bundle, engine, detector=detector), ClipEvaluation(clip, bundle)
    for frame, image in enumerate(tqdm(clip.frames(), total=len(clip), desc=path.name, unit="frame", leave=False)):
        matches = evaluation.add(estimator(image, clip.camera, frame / clip.fps))
        judged += [judge_person(clip, frame, person, match, bundle) for person, match in matches.items()]
    return evaluation.score()


def judge_person(clip: Clip, frame: int, person: int, found: FoundPerson, bundle: Bundle) -> Judged:
    """The scored joints of a true person as found in a frame, each right or not; none of a model without confidence."""
    if found.joint_confidence is None:
        return join([])
    skeleton, scored = bundle.skeleton, scored_joints(bundle.skeleton)
    truth = bundle.joint_regressor @ clip.vertices(frame, person)
    joints, truth = found.joints - skeleton.root(found.joints), truth - skeleton.root(truth)
    return judge_joints(found.joint_confidence[scored], joints[scored], truth[scored], threshold_mm(bundle))


def judge_confidence(judged: list[Judged], bundle: Bundle, diagram: Path | None) -> dict[str, Any]:
    """Print and return how far the joints' confidence can be believed, and draw it; nothing of a model without.

    Raises SourceError when the model has no confidence that could be drawn, or when the diagram cannot be written.
    """
    answers = join(judged)
    if not len(answers.right) and (diagram is None or bundle.manifest.confidence_mm is not None):
        return {}  # nobody was found, or nobody asked
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
    cells = [(row[figure], width, style) for _, figure, width, style in COLUMNS]
    print(f"{name:<14}" + "".join(f"{value:>{width}{style}}" for value, width, style in cells if value is not None))
