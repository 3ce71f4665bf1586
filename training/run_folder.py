"""What a run leaves behind: run.json (config, code, data), metrics.jsonl, TensorBoard events, checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from metro_ros.core.errors import ConfigError
from training.datasets.mixture import Batch, Mixture
from training.module import MetroModule
from training.tensor_file import load_tree, save_tree

LAST, BEST, RUN = "last.safetensors", "best.safetensors", "run.json"


def describe(options: Namespace, module: MetroModule, training: Mixture, validation: Mixture | None) -> dict[str, Any]:
    """Everything that a run can be repeated from, as JSON takes it."""
    return {
        "command": sys.argv,
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "git": git_revision(),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "lightning": pl.__version__},
        "network": asdict(module.network),
        "training": asdict(module.config),
        "length": asdict(module.length),
        "stage": module.stage,
        "mesh": module.metro.mesh.name,
        "data": [_describe_source(mixture) for mixture in (training, validation) if mixture is not None],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def open_folder(folder: Path, resume: bool) -> None:
    """Make the folder of a run. Raises ConfigError when another run lies there already, unless it is to go on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {folder}", expected="a folder", got=error) from error
    if (folder / RUN).exists() and not resume and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        remedy = "go on with --resume, or name another folder"
        raise ConfigError(f"{folder} holds a run", expected="a new folder", got=RUN, remedy=remedy)


def write_run(folder: Path, run: dict[str, Any]) -> None:
    """Write run.json; a run that goes on is added to the one that began, under "resumed"."""
    path = folder / RUN
    try:
        first = json.loads(path.read_text()) if path.exists() else None
        if isinstance(first, dict):
            run = {**first, "resumed": [*first.get("resumed", []), run]}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(run, indent=1) + "\n")
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}", expected="a run's description", got=error) from error


def _describe_source(mixture: Mixture) -> dict[str, Any]:
    sources = [
        {"name": source.dataset.name, "rows": len(source.dataset), "weight": source.weight}
        for source in mixture.sources
    ]
    return {"seed": mixture.seed, "sources": sources}


def git_revision() -> str | None:
    """Commit of the code, with "+changes" where files differ from it; None outside of a checkout."""

    def git(*words: str) -> str:
        folder = Path(__file__).resolve().parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class JsonLines(Logger):
    """Metrics as lines of JSON, appended: what was there before a kill stays."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in run.json."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: float(f"{value:.7g}") for name, value in metrics.items() if name != "epoch"}
        if values:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


class SafetensorsIO(CheckpointIO):
    """Lightning's checkpoints as safetensors files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_tree(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load_tree(path)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class KeepCheckpoints(pl.Callback):
    """Ends training when the module says so, and keeps two states: the last one, and the one that validated best.

    Listed after the moving average, so that it sees both sets of weights after the same step.

    Args:
        folder: of both files.
        every_s: seconds of training between two savings of the last state; it is always saved at the end.
        monitor: the validated value, smaller is better.
    """

    def __init__(self, folder: Path, every_s: float, monitor: str = "pa_mpjpe_mm") -> None:
        self.folder, self.every_s, self.monitor = folder, every_s, monitor
        self.best = float("inf")
        self._saved_s, self._step = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetroModule)
        self._saved_s, self._step = pl_module.seconds, trainer.global_step
        trainer.should_stop = pl_module.is_finished  # nothing is left to do

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MetroModule)
        if trainer.global_step == self._step:
            return  # in the middle of a step that takes several batches
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or pl_module.is_finished
        if trainer.should_stop or pl_module.seconds - self._saved_s >= self.every_s:
            self._saved_s = pl_module.seconds
            trainer.save_checkpoint(self.folder / LAST)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        if trainer.state.fn != "fit" or score is None or not float(score) < self.best:
            return
        self.best = float(score)
        trainer.save_checkpoint(self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class ReportSkipped(pl.Callback):
    """Corrupt rows: named once each, and counted since the start of this process."""

    def __init__(self) -> None:
        self.count = 0
        self._named: set[str] = set()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._tell(batch)
        if batch.skipped:
            pl_module.log("skipped_rows", float(self.count), rank_zero_only=True)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *others: Any
    ) -> None:
        self._tell(batch)

    def _tell(self, batch: Batch) -> None:
        for row in batch.skipped:
            self.count += 1
            if row not in self._named:
                self._named.add(row)
                print(f"skipped: {row}", file=sys.stderr)
