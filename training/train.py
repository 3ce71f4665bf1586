"""Train a network on any mix of datasets; interrupt it at any time, and go on with --resume.

python -m training.train --preset NAME --data KIND:PATH ... --out DIR

The run folder holds last.safetensors and best.safetensors (both export to a bundle), run.json, metrics.jsonl and the
curves and pictures for `tensorboard --logdir DIR`. On a CPU, --devices 2 (one process a core, one thread each) beats
one process with two threads as soon as anything else runs: threads meet at every layer, processes once a step.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import types
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from metro_ros.core.errors import ConfigError, MetroError
from training.build import ARCHITECTURES, Attention, MetroConfig, build, with_architecture
from training.build import PRESETS as NETWORKS
from training.checkpoint import load_checkpoint
from training.data import MetroData
from training.datasets.augment import NONE, AugmentConfig
from training.datasets.catalogue import KINDS, open_source
from training.datasets.mixture import Mixture
from training.mesh_choice import add_mesh_options, choose_mesh
from training.mesh_spec import MeshSpec
from training.module import MetroModule
from training.network import Metro
from training.precision import Precision, is_rounded
from training.presets import PRESETS, Schedule, TrainConfig
from training.pretrained import load_backbone_weights
from training.run_folder import LAST, JsonLines, KeepCheckpoints, ReportSkipped, SafetensorsIO, describe
from training.schedule import Length
from training.shrink import shrunk
from training.stages import BACKBONE_WEIGHTS, TOKEN_WEIGHTS, Stage
from training.truth import TruthMaker
from training.widths import constant_width

VALIDATE_EVERY = 500
"""Steps, where training is not counted in epochs."""


def train(options: argparse.Namespace) -> MetroModule:
    """One run as the command line says. Raises a MetroError for whatever a user can mend."""
    pl.seed_everything(options.seed, verbose=False)
    config = configure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = choose_mesh(options)
    network = change_network(NETWORKS[config.network](), chosen.spec, options)

    metro = build(network, chosen.spec)
    accelerator = options.accelerator if options.accelerator != "auto" else _best_accelerator()
    metro.rounded = is_rounded(options.precision, "cuda" if accelerator == "gpu" else "cpu")
    _start_from(metro, options)

    def mix(texts: list[str], augment: AugmentConfig, mask_ratio: float) -> Mixture:
        sources = [open_source(text, chosen.spec) for text in texts]
        return Mixture(
            sources, chosen.spec, augment, config.crop_style, network.image_size, chosen.pose_size, mask_ratio,
            options.seed,
        )  # fmt: skip

    mixture = mix(options.data, config.augment, network.mask_ratio)
    validation = mix(options.validation, NONE, 0.0) if options.validation else None
    truth = TruthMaker(chosen.spec, chosen.body_model, mixture.vertex_count)
    length = run_length(options, config, len(mixture))
    module = MetroModule(metro, network, truth, config, length, options.stage, chosen.bundle)
    data = MetroData(mixture, validation, config.batch, options.workers)
    trainer = make_trainer(options, config, length, accelerator)
    if trainer.is_global_zero:
        run = describe(options, module, mixture, validation)
        (options.out / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    last = options.out / LAST
    with _finish_step_on_interrupt(module):
        trainer.fit(module, data, ckpt_path=str(last) if options.resume and last.exists() else None)
    if options.report is not None and not module.stop_requested:
        report(trainer, module, data, options.report)
    return module


def report(trainer: pl.Trainer, module: MetroModule, data: MetroData, path: Path) -> None:
    """Write what the final weights score on the validation set."""
    if data.validation is None:
        raise ConfigError("a report", expected="--validation, to measure on", got="none")
    (scores,) = trainer.validate(module, data, verbose=False)
    if trainer.is_global_zero:
        path.write_text(json.dumps({"step": trainer.global_step, **scores}, indent=1) + "\n")


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


def make_trainer(options: argparse.Namespace, config: TrainConfig, length: Length, accelerator: str) -> pl.Trainer:
    """Lightning's trainer for one device or many."""
    _quieten()
    several = options.devices * options.nodes > 1
    if several and accelerator == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    callbacks: list[Callback] = [ReportSkipped(), TQDMProgressBar(refresh_rate=options.log_every)]
    if config.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema_decay))
    callbacks.append(KeepCheckpoints(options.out, options.save_every_s))
    return pl.Trainer(
        accelerator=accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy="ddp" if several else "auto",
        max_epochs=-1,
        max_steps=length.steps if length.steps is not None else -1,
        accumulate_grad_batches=config.accumulate,
        val_check_interval=validation_interval(options, length) * config.accumulate if options.validation else None,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if options.validation else 0,
        log_every_n_steps=options.log_every,
        logger=[TensorBoardLogger(options.out, name="", version=""), JsonLines(options.out / "metrics.jsonl")],
        callbacks=callbacks,
        plugins=[SafetensorsIO()],
        default_root_dir=options.out,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _start_from(metro: Metro, options: argparse.Namespace) -> None:
    """Weights of other runs: all of them, those of the tokens or of the backbone, or an ImageNet backbone."""
    for path, prefixes in (
        (options.start_from, ("",)),
        (options.tokens_from, TOKEN_WEIGHTS),
        (options.backbone_from, BACKBONE_WEIGHTS),
    ):
        if path is None:
            continue
        source, _, _ = load_checkpoint(path)
        weights = {name: value for name, value in source.state_dict().items() if name.startswith(prefixes)}
        own = metro.state_dict()
        misfits = [name for name, value in weights.items() if name not in own or own[name].shape != value.shape]
        if misfits:
            raise ConfigError(f"weights of {path}", expected="the same network", got=f"another {misfits[0]}")
        metro.load_state_dict(weights, strict=False)
    if options.imagenet is not None:
        report = load_backbone_weights(metro, options.imagenet)
        print(f"backbone: {report}", file=sys.stderr)


class _finish_step_on_interrupt:
    """Ctrl-C ends training after the running step, with everything saved; a second one ends it at once."""

    def __init__(self, module: MetroModule) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGINT, self._request)

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def _request(self, number: int, frame: types.FrameType | None) -> None:
        signal.signal(signal.SIGINT, self.before)
        self.module.stop_requested = True


def _best_accelerator() -> str:
    return "gpu" if torch.cuda.is_available() else "cpu"


def _quieten() -> None:
    """Lightning's advertisements are not the user's business; its errors are."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


def parser() -> argparse.ArgumentParser:
    """Every option of a run."""
    words = argparse.ArgumentParser(
        prog="python -m training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    how.add_argument("--schedule", choices=get_args(Schedule))
    how.add_argument("--edges", type=float, help="weight of the edge length loss, as in MeshGraphormer and FastMETRO")
    how.add_argument("--normals", type=float, help="weight of the normal loss")
    how.add_argument("--ema-decay", type=float, help="validate and export a moving average of the weights")
    how.add_argument("--mask-ratio", type=float, help="the most that masked vertex modelling hides")
    how.add_argument("--architecture", choices=ARCHITECTURES, help="another backbone for the paper's networks")
    how.add_argument("--attention", choices=get_args(Attention), help="local: mesh neighbours only, as an ablation")
    how.add_argument("--constant-width", action="store_true", help="blocks of one width, as an ablation")
    how.add_argument("--tiny", action="store_true", help="a network of the same structure and a hundredth of the size")
    how.add_argument("--start-from", type=Path, help="checkpoint to take all weights from")
    how.add_argument("--backbone-from", type=Path, help="checkpoint to take the backbone's weights from")
    how.add_argument("--tokens-from", type=Path, help="checkpoint to take all other weights from")
    how.add_argument("--imagenet", type=Path, help="HRNet weights trained on ImageNet, .pth or .safetensors")

    where = words.add_argument_group("where")
    where.add_argument("--accelerator", choices=["auto", "cpu", "gpu"], default="auto")
    where.add_argument("--devices", type=int, default=1, help="GPUs, or processes on a CPU, of each node")
    where.add_argument("--nodes", type=int, default=1, help="machines, by torchrun or SLURM")
    where.add_argument("--precision", choices=get_args(Precision), default="auto", help="auto: bf16 where it is native")
    where.add_argument("--save-every-s", type=float, default=300.0, help="seconds between savings (%(default)s)")
    where.add_argument("--log-every", type=int, default=20, metavar="STEPS")
    return words


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        module = train(options)
    except MetroError as error:
        print(f"training: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; go on from the last saving, {options.out / LAST}, with --resume", file=sys.stderr)
        return 130
    if module.stop_requested and not getattr(rank_zero_only, "rank", 0):
        print(
            f"interrupted after step {module.batches // module.config.accumulate}; go on with --resume", file=sys.stderr
        )
    return 130 if module.stop_requested else 0


if __name__ == "__main__":
    sys.exit(main())
