"""The paper's claims, measured again: masking, attention and widths, each pair trained equally.

python -m training.ablate --motions FILE --data KIND:PATH --clear KIND:PATH --occluded KIND:PATH --out DIR

Every variant starts from the same backbone, trained once on the side tasks, sees the same samples in the same order,
and is measured on the same crops, once with clear views and once with something in front of everybody. Interrupted,
the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from metro_ros.core.errors import ConfigError, MetroError
from training.run_folder import LAST

VARIANTS: dict[str, tuple[str, ...]] = {
    "METRO": (),
    "no masked vertex modelling": ("--mask-ratio", "0"),
    "attention to mesh neighbours only": ("--attention", "local"),
    "constant width, equal arithmetic": ("--constant-width",),
}
"""What each variant adds to the command line of training.train."""
METRICS = ("mpjpe_mm", "pa_mpjpe_mm")


def train_words(options: argparse.Namespace, out: Path, *words: str) -> list[str]:
    """Command line of one run; the same for all but `words`."""
    mesh = [word for name in ("motions", "mesh", "cache") if getattr(options, name) for word in
            (f"--{name}", str(getattr(options, name)))]  # fmt: skip
    data = [word for text in options.data for word in ("--data", text)]
    return [
        sys.executable, "-m", "training.train", *mesh, *data, "--out", str(out), "--resume",
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
    backbone = options.out / "backbone"
    stage = ("--stage", "backbone", "--steps", str(options.backbone_steps))
    run(train_words(options, backbone, *stage), backbone / "log.txt")

    def one(job: tuple[str, int]) -> None:
        variant, seed = job
        for view, sets in (("clear", options.clear), ("occluded", options.occluded)):
            out = folder(options.out, variant, seed)
            measured = [word for text in sets for word in ("--validation", text)]
            words = ("--steps", str(options.steps), "--seed", str(seed), "--backbone-from", str(backbone / LAST))
            run(train_words(options, out, *words, *VARIANTS[variant], *measured, "--report", str(out / f"{view}.json")),
                out / "log.txt")  # fmt: skip

    jobs = [(variant, seed) for seed in range(options.seeds) for variant in VARIANTS]
    with ThreadPoolExecutor(options.processes) as pool:
        for _ in pool.map(one, jobs):
            pass
    return {variant: collect(options.out, variant, options.seeds) for variant in VARIANTS}


def folder(out: Path, variant: str, seed: int) -> Path:
    """Of one run."""
    return out / f"{variant.replace(' ', '_').replace(',', '')}_{seed}"


def collect(out: Path, variant: str, seeds: int) -> dict[str, dict[str, float]]:
    """Means of one variant's reports over its seeds."""
    result = {}
    for view in ("clear", "occluded"):
        reports = [json.loads((folder(out, variant, seed) / f"{view}.json").read_text()) for seed in range(seeds)]
        result[view] = {metric: mean(report[metric] for report in reports) for metric in METRICS}
    return result


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: MPJPE / PA-MPJPE in mm."""
    lines = ["| network | clear views | occluded |", "|---|---|---|"]
    for variant, views in results.items():
        cells = [" / ".join(f"{views[view][metric]:.1f}" for metric in METRICS) for view in ("clear", "occluded")]
        lines.append(f"| {variant} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motions", type=Path, help="motion file of the default mesh")
    parser.add_argument("--mesh", type=Path, help="or a mesh of your own, see training.mesh_files")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--data", action="append", required=True, help="to train on, see training.train")
    parser.add_argument("--clear", action="append", required=True, help="to measure on, with clear views")
    parser.add_argument("--occluded", action="append", required=True, help="to measure on, with occluders")
    parser.add_argument("--out", type=Path, required=True)
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
