"""What the command line of training can say, and what a run makes of it."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import torch

from metro_ros.core.errors import ConfigError
from training.build import ARCHITECTURES, with_architecture
from training.datasets.catalogue import KINDS
from training.mesh_choice import add_mesh_options
from training.mesh_spec import MeshSpec
from training.network_config import Attention, MetroConfig
from training.precision import Precision
from training.presets import PRESETS, Schedule, TrainConfig
from training.run_folder import LAST
from training.schedule import Length
from training.shrink import shrunk
from training.stages import Stage
from training.widths import constant_width

VALIDATE_EVERY = 500
"""Steps, where training is not counted in epochs."""


def check(options: argparse.Namespace) -> None:
    """Refuse what needs no file to be refused. Raises ConfigError."""
    for name, low in (("devices", 1), ("nodes", 1), ("workers", 0), ("seed", 0), ("log_every", 1), ("save_every_s", 0)):
        if not getattr(options, name) >= low:  # NaN, too, is refused
            raise ConfigError(_flag(name), expected=f"at least {low}", got=getattr(options, name))
    if options.mask_ratio is not None and not 0 <= options.mask_ratio <= 1:
        raise ConfigError("--mask-ratio", expected="0 to 1", got=options.mask_ratio)
    if options.pool is not None and (options.pool < 1 or options.pool_wait < 1 or options.workers < 1):
        got = f"--pool {options.pool} --pool-wait {options.pool_wait} --workers {options.workers}"
        raise ConfigError("the pool", expected="1 or more rows and workers", got=got)
    if options.graph:
        _check_graph(options)
    if not options.distil >= 0:
        raise ConfigError("--distil", expected="at least 0", got=options.distil)
    if options.teacher is not None and options.stage != "all":
        raise ConfigError("--teacher", expected="--stage all: the others train a part", got=options.stage)
    lengths = [_flag(name) for name in ("steps", "epochs", "minutes") if getattr(options, name) is not None]
    if len(lengths) > 1:
        raise ConfigError("length of training", expected="one of them", got=" and ".join(lengths))
    if options.report is not None and not options.validation:
        raise ConfigError("--report", expected="--validation, to measure on", got="none")
    if options.validation and options.stage != "all":
        raise ConfigError("--validation", expected="--stage all: the others train a part", got=options.stage)
    gpus = torch.cuda.device_count()
    if options.accelerator == "gpu" and gpus < options.devices:
        raise ConfigError("--accelerator gpu", expected=f"{options.devices} that torch finds", got=gpus)


def _check_graph(options: argparse.Namespace) -> None:
    several = options.devices * options.nodes > 1 or (options.accumulate or 1) > 1
    if options.pool is None or several or options.resume:
        raise ConfigError(
            "--graph",
            expected="--pool, one device, whole batches and a run from its beginning",
            got="another kind of run",
            remedy="begin with the weights of an earlier run by --start-from",
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def configure(options: argparse.Namespace) -> TrainConfig:
    """The preset, with what the command line says instead."""
    names = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    config = replace(PRESETS[options.preset](), **given)
    surface = {name: getattr(options, name) for name in ("edges", "normals") if getattr(options, name) is not None}
    weights = replace(config.objective.weights, **surface)
    return replace(config, objective=replace(config.objective, weights=weights))


def change_network(network: MetroConfig, mesh: MeshSpec, options: argparse.Namespace) -> MetroConfig:
    """The preset's network with what the command line says instead."""
    if options.architecture is not None:
        network = with_architecture(network, options.architecture)
    if options.constant_width:
        network = constant_width(network, mesh)
    if options.tiny:
        network = shrunk(network)
    given = {name: getattr(options, name) for name in ("mask_ratio", "attention")}
    return replace(network, **{name: value for name, value in given.items() if value is not None})


def run_length(options: argparse.Namespace, config: TrainConfig, rows: int) -> Length:
    """Of --minutes, --steps, --epochs or the preset's epochs, the first that is given."""
    if options.minutes is not None:
        return Length(minutes=options.minutes)
    if options.steps is not None:
        return Length(steps=options.steps)
    if config.epochs is None:
        raise ConfigError("length of training", expected="--steps, --epochs or --minutes", got="none")
    samples = config.batch * config.accumulate * options.devices * options.nodes
    return Length(steps=config.epochs * math.ceil(rows / samples), epochs=config.epochs)


def validation_interval(options: argparse.Namespace, length: Length) -> int:
    """Steps between two validations: an epoch, where training is counted in epochs."""
    if options.validate_every is not None:
        if options.validate_every < 1:
            raise ConfigError("--validate-every", expected="at least 1", got=options.validate_every)
        return options.validate_every
    return length.steps // length.epochs if length.steps and length.epochs else VALIDATE_EVERY


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Every option of a run."""
    words = argparse.ArgumentParser(
        prog="python -m training.train", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--preset", choices=PRESETS, default="default", help="see training.presets (%(default)s)")
    words.add_argument("--out", type=Path, required=True, help="run folder")
    words.add_argument("--resume", action="store_true", help=f"go on from --out/{LAST} where there is one")
    words.add_argument("--seed", type=int, default=88)

    data = words.add_argument_group("data", f"KIND:PATH or KIND:PATH@WEIGHT, several times; kinds: {', '.join(KINDS)}")
    data.add_argument("--data", action="append", required=True, metavar="KIND:PATH", help="to train on")
    data.add_argument("--validation", action="append", default=[], metavar="KIND:PATH", help="to validate on")
    data.add_argument("--validate-every", type=int, metavar="STEPS", help=f"(default: an epoch, or {VALIDATE_EVERY})")
    data.add_argument("--report", type=Path, help="JSON of what the final weights score on the validation set")
    data.add_argument(
        "--pool", type=int, metavar="ROWS", help="keep the last so many samples on the device, and draw from them"
    )
    data.add_argument(
        "--pool-wait", type=int, default=4000, metavar="ROWS", help="at hand before the first step (%(default)s)"
    )
    data.add_argument(
        "--graph",
        action="store_true",
        help="with --pool on one GPU: whole steps as one CUDA graph, see training.graphed",
    )
    data.add_argument("--workers", type=int, default=1, help="loading processes a device (default %(default)s)")
    add_mesh_options(words.add_argument_group("mesh", "what the network predicts"))

    how = words.add_argument_group("how", "the preset's unless given")
    how.add_argument("--stage", choices=get_args(Stage), default="all", help="see training.stages")
    how.add_argument("--steps", type=int, help="end after so many steps of the optimiser")
    how.add_argument("--epochs", type=int, help="end after so many passes over the data")
    how.add_argument("--minutes", type=float, help="end by the clock; the schedule follows it")
    how.add_argument("--batch", type=int, help="samples a device and micro-batch")
    how.add_argument("--accumulate", type=int, help="micro-batches a step")
    how.add_argument("--learning-rate", type=float)
    how.add_argument("--final-learning-rate", type=float)
    how.add_argument("--backbone-rate", type=float, help="the backbone's learning rate over that of all else")
    how.add_argument("--warm-up-steps", type=int, help="over which the cosine's learning rate rises")
    how.add_argument("--weight-decay", type=float)
    how.add_argument("--schedule", choices=get_args(Schedule))
    how.add_argument("--edges", type=float, help="weight of the edge length loss, as in MeshGraphormer and FastMETRO")
    how.add_argument("--normals", type=float, help="weight of the normal loss")
    how.add_argument("--ema-decay", type=float, help="validate and export a moving average of the weights")
    how.add_argument("--mask-ratio", type=float, help="the most that masked vertex modelling hides")
    how.add_argument("--architecture", choices=ARCHITECTURES, help="another backbone than the preset's")
    how.add_argument("--attention", choices=get_args(Attention), help="local: mesh neighbours only, as an ablation")
    how.add_argument("--constant-width", action="store_true", help="blocks of one width, as an ablation")
    how.add_argument("--tiny", action="store_true", help="a network of the same structure and a hundredth of the size")
    how.add_argument("--start-from", type=Path, help="checkpoint to take all weights from")
    how.add_argument("--backbone-from", type=Path, help="checkpoint or bundle to take the backbone's weights from")
    how.add_argument("--tokens-from", type=Path, help="checkpoint to take all other weights from")
    how.add_argument("--teacher", type=Path, help="checkpoint of a larger network whose answers are learned too")
    how.add_argument("--distil", type=float, default=50.0, help="weight of the teacher's answers (%(default)s)")
    how.add_argument("--imagenet", type=Path, help="HRNet weights trained on ImageNet, .pth or .safetensors")
    how.add_argument("--mediapipe", type=Path, help="pose_landmark_full.tflite, see training.mediapipe_weights")
    how.add_argument(
        "--freeze", action="append", default=[], metavar="NAME", help="keep weights whose names begin so, several times"
    )

    where = words.add_argument_group("where")
    where.add_argument("--accelerator", choices=["auto", "cpu", "gpu"], default="auto")
    where.add_argument("--devices", type=int, default=1, help="GPUs, or processes on a CPU, of each node")
    where.add_argument("--nodes", type=int, default=1, help="machines, by torchrun or SLURM")
    where.add_argument("--precision", choices=get_args(Precision), default="auto", help="auto: bf16 where it is native")
    where.add_argument("--save-every-s", type=float, default=300.0, help="seconds between savings (%(default)s)")
    where.add_argument("--log-every", type=int, default=20, metavar="STEPS")
    return words
