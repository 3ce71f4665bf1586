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
import os
import signal
import sys
import types
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from metro_ros.core.bundle import load_bundle
from metro_ros.core.errors import ConfigError, MetroError, SourceError
from training.adopt import adopt_tokens
from training.averaging import move_averages
from training.build import PRESETS as NETWORKS
from training.build import build
from training.checkpoint import load_checkpoint
from training.data import MetroData, Pooling
from training.datasets.augment import NONE, AugmentConfig
from training.datasets.catalogue import open_source
from training.datasets.mixture import Mixture
from training.distillation import load_teacher
from training.graphed import fit
from training.mediapipe_weights import load_mediapipe_weights
from training.mesh_choice import choose_mesh
from training.module import MetroModule
from training.network import Metro
from training.precision import is_rounded
from training.presets import TrainConfig
from training.pretrained import load_backbone_weights
from training.run_folder import (
    LAST,
    JsonLines,
    KeepCheckpoints,
    ReportSkipped,
    SafetensorsIO,
    describe,
    open_folder,
    write_run,
)
from training.schedule import Length
from training.stages import BACKBONE_WEIGHTS, TOKEN_WEIGHTS, freeze
from training.train_options import (
    change_network,
    check,
    configure,
    parser,
    run_length,
    validation_interval,
)
from training.truth import TruthMaker
from training.warm_start import load_bundle_backbone


def train(options: argparse.Namespace) -> MetroModule:
    """One run as the command line says. Raises a MetroError for whatever a user can mend."""
    check(options)
    pl.seed_everything(options.seed, verbose=False)
    config = configure(options)
    open_folder(options.out, options.resume)
    chosen = choose_mesh(options)
    network = change_network(NETWORKS[config.network](), chosen.spec, options)

    metro = build(network, chosen.spec)
    accelerator = options.accelerator if options.accelerator != "auto" else _best_accelerator()
    metro.rounded = is_rounded(options.precision, "cuda" if accelerator == "gpu" else "cpu")
    _start_from(metro, options)
    freeze(metro, options.freeze)

    # Loading processes are sent the mesh, and have no use for the 60 MB of its upsampling.
    spec = replace(chosen.spec, upsampling=())

    def mix(texts: list[str], augment: AugmentConfig, mask_ratio: float, in_turn: bool) -> Mixture:
        sources = [open_source(text, spec) for text in texts]
        return Mixture(
            sources, spec, augment, config.crop_style, network.image_size, chosen.pose_size,
            in_turn=in_turn, mask_ratio=mask_ratio, seed=options.seed,
        )  # fmt: skip

    pooling = None
    if options.pool is not None:
        pooling = Pooling(options.pool, options.pool_wait, config.augment)
    training = mix(options.data, config.augment if pooling is None else NONE, network.mask_ratio, in_turn=False)
    validation = mix(options.validation, NONE, 0.0, in_turn=True) if options.validation else None
    truth = TruthMaker(chosen.spec, chosen.body_model, training.vertex_count, config.objective.joints_from_mesh)
    length = run_length(options, config, len(training))
    module = MetroModule(metro, network, truth, config, length, options.stage, chosen.bundle, options.seed)
    if options.teacher is not None:
        module.teach(load_teacher(options.teacher, chosen.spec, network, metro.rounded), options.distil)
    data = MetroData(training, validation, config.batch, options.workers, pooling)
    trainer = make_trainer(options, config, length, accelerator)
    if trainer.is_global_zero:
        write_run(options.out, describe(options, module, training, validation))
    last = options.out / LAST
    with _finish_step_on_interrupt(module):
        if pooling is not None and options.graph:
            _fit_graphed(module, data, pooling, options, trainer)
        else:
            trainer.fit(module, data, ckpt_path=str(last) if options.resume and last.exists() else None)
    if options.report is not None and not module.stop_requested:
        report(trainer, module, data, options.report)
    return module


def _fit_graphed(
    module: MetroModule, data: MetroData, pooling: Pooling, options: argparse.Namespace, trainer: pl.Trainer
) -> None:
    device = trainer.strategy.root_device
    lines = JsonLines(options.out / "metrics.jsonl")
    with data.make_pool(pooling, device) as pool:
        last, every = options.out / LAST, options.log_every
        fit(module.to(device), pool, pooling, last, lines.log_metrics, every, options.save_every_s)
    if data.validation is not None:
        trainer.loggers = []  # they would call it step 0
        (scores,) = trainer.validate(module, data, verbose=False)
        lines.log_metrics(scores, module.batches)


def report(trainer: pl.Trainer, module: MetroModule, data: MetroData, path: Path) -> None:
    """Write what the final weights score on the validation set. Raises SourceError when that cannot be written."""
    (scores,) = trainer.validate(module, data, verbose=False)
    if not trainer.is_global_zero:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": trainer.global_step, **scores}, indent=1) + "\n")
    except OSError as error:
        raise SourceError(f"cannot write {path}", got=error) from error


def make_trainer(options: argparse.Namespace, config: TrainConfig, length: Length, accelerator: str) -> pl.Trainer:
    """Lightning's trainer for one device or many."""
    _quieten()
    several = options.devices * options.nodes > 1
    if several and accelerator == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    callbacks: list[Callback] = [ReportSkipped(), TQDMProgressBar(refresh_rate=options.log_every)]
    if config.ema_decay is not None:
        # Without a device it would be made before the module moves, and stay on the CPU.
        device = "cuda" if accelerator == "gpu" else None
        callbacks.append(WeightAveraging(device, multi_avg_fn=partial(_follow, config.ema_decay)))
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
        benchmark=accelerator == "gpu",
    )


def _follow(decay: float, averages: list[Tensor], values: list[Tensor], count: object) -> None:
    """move_averages, as torch's AveragedModel calls it."""
    move_averages(averages, values, decay)


def _start_from(metro: Metro, options: argparse.Namespace) -> None:
    """Weights of other runs: all, those of the tokens or of the backbone; or a backbone that has seen photographs."""
    for path, prefixes in (
        (options.start_from, ("",)),
        (options.tokens_from, TOKEN_WEIGHTS),
        (options.backbone_from, BACKBONE_WEIGHTS),
    ):
        if path is None:
            continue
        if path is options.backbone_from and path.is_dir():
            load_bundle_backbone(metro, load_bundle(path))
            continue
        source, _, _ = load_checkpoint(path)
        weights = {name: value for name, value in source.state_dict().items() if name.startswith(prefixes)}
        # What was fitted to the old weights by training.calibrate says nothing of those to come.
        weights = {name: value for name, value in weights.items() if not name.startswith("reliability_head.")}
        if prefixes is TOKEN_WEIGHTS:
            weights = adopt_tokens(metro, source, weights)
        own = metro.state_dict()
        misfits = [name for name, value in weights.items() if name not in own or own[name].shape != value.shape]
        if misfits:
            raise ConfigError(f"weights of {path}", expected="the same network", got=f"another {misfits[0]}")
        metro.load_state_dict(weights, strict=False)
    if options.mediapipe is not None:
        load_mediapipe_weights(metro.backbone, options.mediapipe)
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


def _without_worker(error: MetroError) -> str:
    """One line of an error, also where torch has wrapped it in the traceback of a loading process."""
    lines = str(error.what).strip().splitlines()
    if not lines or not lines[0].startswith("Caught "):
        return str(error)
    return lines[-1].partition(": ")[2]


def _best_accelerator() -> str:
    return "gpu" if torch.cuda.is_available() else "cpu"


def _quieten() -> None:
    """Lightning's advertisements are not the user's business; its errors are."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parser(__doc__).parse_args(arguments)
    try:
        module = train(options)
    except MetroError as error:
        print(f"training: {_without_worker(error)}", file=sys.stderr)
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
