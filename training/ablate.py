"""Choices, measured: networks that differ in one thing, trained equally and measured on the same crops.

python -m training.ablate --study claims --motions FILE --data KIND:PATH --clear KIND:PATH --occluded KIND:PATH --out D

    claims         the paper's: masked vertex modelling, free attention, narrowing widths
    masking        how much of it
    backbones      BlazePose, with --mediapipe FILE also with its published weights, and SmallNets of three blocks, with
                   what each costs: milliseconds a crop on this machine
    distillation   without and with a teacher (--teacher CKPT, trained as --preset teacher)
    data           one set against another: --set NAME=KIND:PATH, several times

All variants of a study but those that are told other data see the same samples in the same order; those with the same
backbone start from one that was trained once on the side tasks. They are measured once with clear views and once with
something in front of everybody. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from metro_ros.core.errors import ConfigError, MetroError
from training.run_folder import LAST


@dataclass(frozen=True, slots=True)
class Variant:
    """What a variant adds to the command line of training.train.

    words: of its own run; backbone: of the run that its backbone comes from; data: in place of the study's.
    """

    words: tuple[str, ...] = ()
    backbone: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def _masked(ratio: str) -> Variant:
    return Variant(("--mask-ratio", ratio))


def _with_backbone(name: str) -> Variant:
    words = ("--architecture", name)
    return Variant(words, words)


STUDIES: dict[str, dict[str, Variant]] = {
    "claims": {
        "METRO": Variant(),
        "no masked vertex modelling": _masked("0"),
        "attention to mesh neighbours only": Variant(("--attention", "local")),
        "constant width, equal arithmetic": Variant(("--constant-width",)),
    },
    "masking": {f"at most {ratio} %": _masked(f"{ratio / 100}") for ratio in (0, 15, 30, 50)},
    "backbones": {
        name: _with_backbone(name) for name in ("blazepose", "smallnet", "smallnet-inverted", "smallnet-wide-kernel")
    },
}
"""Variants by name; those of `distillation`, of `data` and of published weights come from the command line."""
METRICS = ("mpjpe_mm", "pa_mpjpe_mm")


def variants_of(options: argparse.Namespace) -> dict[str, Variant]:
    """Of the study that the options name. Raises ConfigError where it lacks what it compares."""
    if options.study == "distillation":
        if options.teacher is None:
            raise ConfigError("--study distillation", expected="--teacher CKPT", got="none")
        return {"alone": Variant(), "with a teacher": Variant(("--teacher", str(options.teacher)))}
    if options.study == "backbones" and options.backbone_from is not None:
        raise ConfigError("--study backbones", expected="no --backbone-from", got="one for all")
    if options.study == "backbones" and options.mediapipe is not None:
        words = ("--architecture", "blazepose")
        published = Variant(words, (*words, "--mediapipe", str(options.mediapipe)))
        return {"blazepose, published weights": published, **STUDIES["backbones"]}
    if options.study != "data":
        return STUDIES[options.study]
    sets = dict(text.partition("=")[::2] for text in options.set)
    if len(sets) < 2 or not all(sets.values()):
        raise ConfigError("--study data", expected="--set NAME=KIND:PATH, twice or more", got=options.set or "none")
    return {name: Variant(backbone=("--data", path), data=(path,)) for name, path in sets.items()}


def train_words(options: argparse.Namespace, out: Path, data: Sequence[str], *words: str) -> list[str]:
    """Command line of one run; the same for all but `data` and `words`."""
    mesh = [word for name in ("motions", "mesh", "cache") if getattr(options, name) for word in
            (f"--{name}", str(getattr(options, name)))]  # fmt: skip
    sets = [word for text in data for word in ("--data", text)]
    return [
        sys.executable, "-m", "training.train", *mesh, *sets, "--out", str(out), "--resume",
        *(("--tiny",) if options.tiny else ()), *words,
    ]  # fmt: skip


def run(words: list[str], log: Path) -> None:
    """One run to its end; its output in `log`. Raises ConfigError when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        line = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(f"a run failed, see {log}", expected="exit code 0", got=f"{code}: {''.join(line)}")


def ablate(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Train and measure every variant; variant -> "clear"/"occluded" -> metric, means over seeds."""
    variants = variants_of(options)
    if not options.data and options.study != "data":
        raise ConfigError("--data", expected="crops to train on", got="none")
    backbones = {variant.backbone: variant for variant in variants.values()}
    places = {words: options.out / f"backbone_{_file_name(' '.join(words)) or 'shared'}" for words in backbones}

    def prepare(variant: Variant) -> None:
        out = places[variant.backbone]
        architecture = () if variant.data else variant.backbone
        stage = ("--stage", "backbone", "--steps", str(options.backbone_steps), *architecture)
        run(train_words(options, out, variant.data or options.data, *stage), out / "log.txt")

    def one(job: tuple[str, int]) -> None:
        name, seed = job
        variant = variants[name]
        for view, sets in (("clear", options.clear), ("occluded", options.occluded)):
            out = folder(options.out, name, seed)
            measured = [word for text in sets for word in ("--validation", text)]
            start = str(options.backbone_from or places[variant.backbone] / LAST)
            words = ("--steps", str(options.steps), "--seed", str(seed), "--backbone-from", start, *variant.words)
            run(train_words(options, out, variant.data or options.data, *words, *measured,
                            "--report", str(out / f"{view}.json")), out / "log.txt")  # fmt: skip

    with ThreadPoolExecutor(options.processes) as pool:
        for _ in pool.map(prepare, [] if options.backbone_from else backbones.values()):
            pass
        for _ in pool.map(one, [(name, seed) for seed in range(options.seeds) for name in variants]):
            pass
    results = {name: collect(options.out, name, options.seeds) for name in variants}
    if options.study == "backbones":
        for name, ms in crop_ms([folder(options.out, name, 0) / LAST for name in variants], list(variants)).items():
            results[name]["cost"] = {"crop_ms": ms}
    return results


def crop_ms(checkpoints: Sequence[Path], names: Sequence[str]) -> dict[str, float]:
    """Median milliseconds a crop of each network, exported, on the fastest engine here; taking turns."""
    from metro_ros.core.engines import open_engine  # these load torch's exporter, which takes seconds
    from metro_ros.core.engines.measure import median_ms
    from training.checkpoint import load_checkpoint
    from training.export import BundleInfo, export_bundle

    with tempfile.TemporaryDirectory() as scratch:
        engines = []
        for name, path in zip(names, checkpoints, strict=True):
            metro, config, fields = load_checkpoint(path)
            bundle = export_bundle(metro, config, BundleInfo.from_dict(fields), Path(scratch) / name)
            engines.append(open_engine(bundle, engine="openvino", precision="fp32"))
        times = median_ms(engines, rounds=40, limit_s=20.0)
        for engine in engines:
            engine.close()
    return {name: float("nan") if isinstance(ms, Exception) else ms for name, ms in zip(names, times, strict=True)}


def _file_name(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text).strip("_-")


def folder(out: Path, variant: str, seed: int) -> Path:
    """Of one run."""
    return out / f"{_file_name(variant)}_{seed}"


def collect(out: Path, variant: str, seeds: int) -> dict[str, dict[str, float]]:
    """Means of one variant's reports over its seeds."""
    result = {}
    for view in ("clear", "occluded"):
        reports = [json.loads((folder(out, variant, seed) / f"{view}.json").read_text()) for seed in range(seeds)]
        result[view] = {metric: mean(report[metric] for report in reports) for metric in METRICS}
    return result


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: MPJPE / PA-MPJPE in mm."""
    costs = any("cost" in views for views in results.values())
    lines = ["| network | clear views | occluded |" + " ms a crop |" * costs, "|---|---|---|" + "---|" * costs]
    for variant, views in results.items():
        cells = [" / ".join(f"{views[view][metric]:.1f}" for metric in METRICS) for view in ("clear", "occluded")]
        cells += [f"{views['cost']['crop_ms']:.2f}"] if costs else []
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=(*STUDIES, "distillation", "data"), default="claims", help="(%(default)s)")
    parser.add_argument("--teacher", type=Path, help="checkpoint, for --study distillation")
    parser.add_argument("--mediapipe", type=Path, help="pose_landmark_full.tflite, for --study backbones")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=KIND:PATH", help="for --study data")
    parser.add_argument("--motions", type=Path, help="motion file of the default mesh")
    parser.add_argument("--mesh", type=Path, help="or a mesh of your own, see training.mesh_files")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--data", action="append", default=[], help="to train on, see training.train")
    parser.add_argument("--clear", action="append", required=True, help="to measure on, with clear views")
    parser.add_argument("--occluded", action="append", required=True, help="to measure on, with occluders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone-from", type=Path, help="checkpoint whose backbone all start with")
    parser.add_argument("--backbone-steps", type=int, default=1000, help="shared by all (%(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of each variant (%(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="runs a variant (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a network of a hundredth of the size, to try the command")
    options = parser.parse_args(arguments)
    try:
        results = ablate(options)
    except MetroError as error:
        print(f"ablate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ablate: interrupted; the same command goes on", file=sys.stderr)
        return 130
    (options.out / "ablation.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
