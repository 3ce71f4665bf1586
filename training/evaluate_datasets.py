"""Evaluate on a dataset as its papers do: one crop a sample, by the box that the dataset gives."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.bundle import Bundle
from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.crops import CropStyle
from training.datasets.sample import Dataset, SampleError
from training.freihand_submission import check_submission, write_submission
from training.predict import BATCH, Network, PlainPrediction, Predict, SampleCrop, predict_dataset
from training.protocols import FREIHAND, EvaluationProtocol, MeshTruth, Regression, Result, Score, Scorer, summarize
from training.tta import AveragedPrediction

PROBES = 20
"""About as many rows, all over a dataset, are asked for a truth before anything is predicted."""
NAMED = 10
"""Unusable rows that are told one by one; the others are only counted."""
TITLES = {
    "mpvpe_mm": "MPVPE",
    "pa_mpvpe_mm": "PA-MPVPE",
    "mpjpe_mm": "MPJPE",
    "pa_mpjpe_mm": "PA-MPJPE",
    "f_5mm": "F@5",
    "f_15mm": "F@15",
}


def evaluate_dataset(
    dataset: Dataset,
    protocol: EvaluationProtocol,
    bundle: Bundle,
    network: Network,
    *,
    mesh_truth: MeshTruth | None = None,
    root_regressor: NDArray[np.floating] | None = None,
    regress_truth: bool = False,
    crop_style: CropStyle = "paper",
    tta: bool = False,
    submission: Path | None = None,
    batch: int = BATCH,
) -> dict[str, Any]:
    """Predict every sample, score it, print a table; return the figures and how they came about, as JSON takes them.

    Args:
        network: the bundle's engine.
        mesh_truth, regress_truth: see `training.protocols.Scorer`. root_regressor: see `training.protocols.Regression`.
        crop_style: see `training.datasets.crops`.
        tta: average each prediction over turned and scaled crops, see `training.tta`.
        submission: write the predictions there as FreiHAND's server takes them.

    Raises:
        ConfigError: bundle and protocol do not fit.
        SourceError: no row can be used, there is nothing to compare with, or the body model is another; with a
            submission, any row cannot be used.
    """
    if submission is not None:
        if protocol.name != FREIHAND.name:
            raise ConfigError("a submission", expected=f"protocol {FREIHAND.name}", got=protocol.name)
        check_submission(submission, bundle.levels[-1])
    regression = Regression(bundle, protocol, root_regressor)
    scorer = Scorer(protocol, regression, dataset.joint_names, mesh_truth, regress_truth=regress_truth)
    crop = SampleCrop(bundle.manifest.crop.size, crop_style)
    predict: Predict = AveragedPrediction(network, crop, batch) if tta else PlainPrediction(network, crop)
    if submission is None:
        _check_truth(dataset, scorer)
    scores: list[Score] = []
    unusable: list[str] = []
    joints, vertices = [], []
    for row in predict_dataset(dataset, predict, batch):
        if row.sample is None or row.vertices is None:
            unusable.append(f"row {row.number}: {row.problem}")
            if submission is not None:
                raise SourceError(f"a submission needs every row of {dataset.name}", got=unusable[0])
            if len(unusable) <= NAMED:
                tqdm.write(f"evaluate: {dataset.name}, left out {unusable[-1]}", file=sys.stderr)
            continue
        scores.append(scorer(row.sample, row.vertices))
        if submission is not None:
            relative = regression(row.vertices)
            joints.append(relative.joints.astype(np.float32))
            vertices.append(relative.vertices.astype(np.float32))
    result = summarize(protocol, scores, len(unusable))
    print_table(protocol, result)
    if submission is not None:
        print(f"{write_submission(submission, joints, vertices)}: to be uploaded")
    if bundle.manifest.camera_frame == "crop_ray":
        print(
            "the model answers in the axes of its crop: MPJPE and MPVPE hold their angle to the camera's, PA does not"
        )
    return {
        "protocol": protocol.name,
        "dataset": dataset.name,
        **dict.fromkeys(TITLES),
        **result.figures,
        **{name: value for name, value in asdict(result).items() if name != "figures"},
        "unusable_rows": unusable[:NAMED],
        "root": regression.root_source,
        "camera_frame": bundle.manifest.camera_frame,
        "crop_style": crop_style,
        "tta": tta,
    }


def _check_truth(dataset: Dataset, scorer: Scorer) -> None:
    """Before hours of work: raises SourceError when rows all over the dataset tell nothing to compare with."""
    readable = 0
    for row in range(0, len(dataset), max(1, len(dataset) // PROBES)):
        try:
            truth = scorer.truth(dataset[row])
        except SampleError:
            continue
        if truth.joints is not None or truth.vertices is not None:
            return
        readable += 1
    if readable:
        raise SourceError(
            f"nothing to compare with in {dataset.name}",
            expected="true joints or meshes",
            got=f"none in {readable} rows",
            remedy="3DPW's own files need --mesh-model; FreiHAND without its truth takes --submission",
        )


def print_table(protocol: EvaluationProtocol, result: Result) -> None:
    """One line of figures under their names; a dash where no truth allows one."""
    print(f"{'protocol':<24}{'samples':>9}{'unusable':>10}" + "".join(f"{TITLES[m]:>10}" for m in protocol.metrics))
    values = "".join(f"{_text(metric, result.figures[metric]):>10}" for metric in protocol.metrics)
    print(f"{protocol.title:<24}{result.samples:>9}{result.unusable:>10}{values}   (mm; F in 0..1)")
    for what, sources in (("joints", result.joint_truth), ("mesh", result.mesh_truth)):
        print(f"  true {what} from: {', '.join(f'{source} ({count})' for source, count in sorted(sources.items()))}")


def _text(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if metric.endswith("_mm") else f"{value:.3f}"
