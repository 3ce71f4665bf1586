"""Evaluate a bundle: on labelled clips as it runs on a robot, or on a dataset as its papers do.

python -m training.evaluate --bundle DIR --data DIR --json OUT --reliability PNG
python -m training.evaluate --bundle DIR --protocol h36m --data valid.protocol2.yaml --json OUT
python -m training.evaluate --bundle DIR --protocol 3dpw --data DIR --mesh-model SMPL.pkl --json OUT
python -m training.evaluate --bundle DIR --protocol freihand --data DIR --tta --submission pred.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle, record_measurement
from metro_ros.core.detectors import open_detector
from metro_ros.core.engines import Engine, open_engine
from metro_ros.core.errors import ConfigError, MetroError, SourceError
from training.datasets.crops import CropStyle
from training.evaluate_clips import evaluate_clips
from training.evaluate_datasets import evaluate_dataset
from training.protocols import PROTOCOLS

CLIPS = "clips"
OF_DATASETS = ("mesh_model", "h36m_regressor", "regress_truth", "crop_style", "tta", "submission")
"""Options that mean nothing to clips."""
OF_CLIPS = ("reliability",)
"""Options that mean nothing to datasets."""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _refuse_foreign(options)
        bundle = load_bundle(options.bundle)
        engine = open_engine(bundle, engine=options.engine, precision=options.precision)
        if options.protocol == CLIPS:
            detector = open_detector(options.detector, bundle, hurried=True)  # as the node has it
            figures = evaluate_clips(options.data, bundle, engine, detector, options.reliability)
        else:
            figures = _evaluate_dataset(options, bundle, engine)
        if options.json:
            report = {"bundle": bundle.manifest.name, "engine": engine.name, "precision": engine.precision}
            write_report(options.json, report | figures)
        if options.record:
            record_measurement(bundle, options.record, numbers(figures))
    except MetroError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """What a manifest keeps of an evaluation: how many were measured, and the means."""
    return {
        name: round(value, 3)
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="(default: the one that ships)")
    parser.add_argument("--protocol", choices=(CLIPS, *PROTOCOLS), default=CLIPS, help="(default: %(default)s)")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a clip, or a folder of clips; the folder of 3DPW or FreiHAND; a .yaml of METRO's own sets",
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--record", metavar="NAME", help="keep the figures in the bundle's manifest, under this name")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="fp32")
    clips = parser.add_argument_group("clips")
    clips.add_argument(
        "--detector", default="auto", help="who finds people: auto, the bundle's finder; none; or an ONNX file"
    )
    clips.add_argument("--reliability", type=Path, metavar="PNG", help="draw how far confidence can be believed")
    datasets = parser.add_argument_group("datasets")
    datasets.add_argument("--mesh-model", type=Path, help="SMPL or MANO file, for true meshes from poses")
    datasets.add_argument(
        "--h36m-regressor", type=Path, help=".npy (17, V); its first row is the root of a body's mesh"
    )
    datasets.add_argument(
        "--regress-truth", action="store_true", help="take true joints from the true mesh, not from the dataset"
    )
    datasets.add_argument("--crop-style", choices=get_args(CropStyle), help="as the model was trained (default: paper)")
    datasets.add_argument("--tta", action="store_true", help="average over 96 turned and scaled crops a sample")
    datasets.add_argument("--submission", type=Path, help="write FreiHAND's pred.json there, and the .zip beside it")
    return parser


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Figures as JSON; folders are made. Raises SourceError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise SourceError(f"cannot write {path}", got=error) from error


def _refuse_foreign(options: argparse.Namespace) -> None:
    """Raises ConfigError when an option is given that the protocol has no use for."""
    foreign, protocols = (OF_DATASETS, PROTOCOLS) if options.protocol == CLIPS else (OF_CLIPS, (CLIPS,))
    given = [name for name in foreign if getattr(options, name)]
    if given:
        name = f"--{given[0].replace('_', '-')}"
        raise ConfigError(name, expected=f"--protocol {' or '.join(protocols)}", got=f"--protocol {options.protocol}")


def _evaluate_dataset(options: argparse.Namespace, bundle: Bundle, engine: Engine) -> dict[str, Any]:
    # These load torch, which takes seconds, and which clips do without.
    from training.evaluation_sets import open_evaluation_set
    from training.mesh_truth import pelvis_regressor, posed_meshes

    protocol = PROTOCOLS[options.protocol]
    regressor = options.h36m_regressor
    return evaluate_dataset(
        open_evaluation_set(protocol, options.data),
        protocol,
        bundle,
        engine,
        mesh_truth=posed_meshes(options.mesh_model) if options.mesh_model else None,
        root_regressor=pelvis_regressor(regressor, bundle.levels[-1]) if regressor else None,
        regress_truth=options.regress_truth,
        crop_style=options.crop_style or "paper",
        tta=options.tta,
        submission=options.submission,
    )


if __name__ == "__main__":
    sys.exit(main())
