"""The Lightning module: it optimises a network and measures it, and knows nothing of what the network computes."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from metro_ros.core.errors import ConfigError
from metro_ros.core.evaluation import scored_joints
from metro_ros.core.metrics import mpjpe, pa_mpjpe
from metro_ros.core.skeleton import Skeleton
from training.checkpoint import RECORD, make_record
from training.datasets.mixture import Batch
from training.distillation import Teacher, distillation_loss
from training.mesh_spec import MeshSpec
from training.network import Metro, MetroOutput
from training.network_config import MetroConfig
from training.normalize import Normalize
from training.pictures import prediction_sheet
from training.presets import TrainConfig
from training.schedule import Length, learning_rate
from training.stages import Stage, freeze_the_rest, stage_loss
from training.truth import TruthMaker

PICTURES = 8
"""Predictions drawn a validation."""
_SLOWER = "backbone."
"""What TrainConfig.backbone_rate is for, by the beginning of its weights' names."""
FINITE_EVERY = 50
"""Batches on a GPU between two looks at whether the loss is a number."""


class MetroModule(pl.LightningModule):
    """One network in one stage of training.

    Args:
        metro: the network. network: its config, kept in the checkpoints.
        truth: makes the truth of a batch.
        config: how it is trained. length: how long. stage: see `training.stages`.
        bundle: fields for the manifest of the bundle that is made from it. seed: of dropout.
    """

    def __init__(
        self,
        metro: Metro,
        network: MetroConfig,
        truth: TruthMaker,
        config: TrainConfig,
        length: Length,
        stage: Stage = "all",
        bundle: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        freeze_the_rest(stage, metro)
        self.metro, self.network, self.truth = metro.to(memory_format=torch.channels_last), network, truth  # type: ignore[call-overload]
        self.config, self.length, self.stage, self.bundle = config, length, stage, bundle or {}
        self.seed = seed
        self.scored = scored_joints(Skeleton(metro.mesh.joint_names, metro.mesh.joint_parents))
        self.normalize = Normalize()
        self.teacher: Teacher | None = None
        self.distil = 0.0
        self.seconds = 0.0
        """Of training so far, by the first process's clock."""
        self.batches = 0
        """Micro-batches that have gone into an optimiser's step."""
        self.stop_requested = False
        """Set it, in the first process, to end training after the running step."""
        self._stopping = False
        self._since: float | None = None
        self._steps = 0
        self._losses: list[Tensor] = []
        self._compared: list[tuple[np.ndarray, np.ndarray]] = []
        """Predicted and true joints of the validation at hand, (N, J, 3) metres a batch."""

    def teach(self, teacher: Teacher, weight: float) -> None:
        """Learn what `teacher` answers, too; see `training.distillation`."""
        self.teacher, self.distil = teacher, weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(self.groups(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)

    def groups(self) -> list[dict[str, Any]]:
        """Trained weights for an optimiser, each group with the `share` of the learning rate that it takes."""
        trained = {name: value for name, value in self.metro.named_parameters() if value.requires_grad}
        seeing = [value for name, value in trained.items() if name.startswith(_SLOWER)]
        others = [value for name, value in trained.items() if not name.startswith(_SLOWER)]
        shares = ((others, 1.0), (seeing, self.config.backbone_rate))
        return [{"params": values, "share": share} for values, share in shares if values]

    def on_train_start(self) -> None:
        self._since, self._steps = None, self.global_step
        _lay_out_alike(self.trainer.optimizers[0])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate by how far training has come; all processes take the first one's clock."""
        now = time.monotonic()
        self.seconds += 0.0 if self._since is None else now - self._since
        self._since = now
        if self.trainer.world_size > 1:
            self.seconds, self._stopping = self.trainer.strategy.broadcast((self.seconds, self.stop_requested))
        rate = learning_rate(self.config, self.length, self.global_step, self._share())
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["share"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(batch.first)
        # Dropout: after a kill as before it, and different in every process.
        torch.manual_seed(1_000_003 * self.seed + batch.first)
        loss = self.loss(batch, generator)
        # To look at a number on a GPU is to wait for it, so that is done now and then.
        looked_at = loss.device.type == "cpu" or batch_idx % FINITE_EVERY == 0
        if looked_at and not math.isfinite(value := float(loss.detach())):
            raise ConfigError("training diverged", expected="a finite loss", got=f"{value} at step {self.global_step}")
        self._losses.append(loss.detach())
        return loss

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Of one batch on the module's device; generator: see `stage_loss`."""
        images, truth = self.normalize(batch.image), self.truth(batch)
        objective = self.config.objective
        loss, output = stage_loss(self.stage, self.metro, batch, truth, images, generator, objective)
        if self.teacher is not None and output is not None:
            taught = self.teacher(images, objective.levels)
            loss = loss + self.distil * distillation_loss(output, taught, batch.person)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.batches += len(self._losses)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """After the last micro-batch of a step, its loss."""
        if self.global_step == self._steps:
            return
        self._steps = self.global_step
        several = self.trainer.world_size > 1
        self.log("loss", torch.stack(self._losses).mean(), prog_bar=True, sync_dist=several)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        self._losses.clear()

    @property
    def is_finished(self) -> bool:
        """Whether the step that has just ended was the last one."""
        # Processes end together: a request that came since this step began is every one's at the next.
        stopping = self._stopping if self.trainer.world_size > 1 else self.stop_requested
        return stopping or self._share() >= 1.0

    def _share(self) -> float:
        return self.length.share(self.global_step, self.seconds)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Gather joints; draw the first batch."""
        objective = self.config.objective
        output: MetroOutput = self.metro(self.normalize(batch.image), levels=objective.levels)
        truth = self.truth(batch)
        joints = output.joints
        if objective.regressed and output.vertices[-1] is not None:
            joints = self.metro.regress_joints(output.vertices[-1])
        assert truth.has_joints is not None
        known = (truth.has_joints > 0) & (truth.joint_confidence[:, self.scored] > 0).all(dim=1)
        self._compared.append((joints[known].float().cpu().numpy(), truth.joints[known].float().cpu().numpy()))
        if batch_idx == 0 and self.trainer.is_global_zero and self.logger is not None:
            self._draw(batch, output)

    def on_validation_epoch_end(self) -> None:
        ours, theirs = (np.concatenate(parts) for parts in zip(*self._compared, strict=True))
        self._compared.clear()
        errors = joint_errors(ours, theirs, self.metro.mesh, self.scored)
        totals = torch.tensor([*(value * len(ours) for value in errors.values()), len(ours)], device=self.device)
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        if totals[-1] > 0:
            for name, total in zip(errors, totals[:-1], strict=True):
                self.log(name, total / totals[-1], prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = make_record(self.metro.mesh, self.network, self.bundle)
        checkpoint["seconds"], checkpoint["batches"] = self.seconds, self.batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds, self.batches = checkpoint["seconds"], checkpoint["batches"]

    def _draw(self, batch: Batch, output: MetroOutput) -> None:
        vertices = next(level for level in reversed(output.vertices) if level is not None)
        crops = batch.image[:PICTURES].round().to(torch.uint8).cpu().numpy()
        joints, surface, camera = (
            part[:PICTURES].float().cpu().numpy() for part in (output.joints, vertices, output.camera)
        )
        sheet = prediction_sheet(crops, joints, surface, camera, self.metro.mesh)
        for logger in self.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                logger.experiment.add_image("predictions", sheet, self.global_step, dataformats="HWC")


def _lay_out_alike(optimiser: torch.optim.Optimizer) -> None:
    """Moments from a file lie in the order of their indices, channels-last weights do not, and the fused Adam walks
    through the memory of both side by side."""
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


def joint_errors(ours: np.ndarray, theirs: np.ndarray, mesh: MeshSpec, columns: list[int]) -> dict[str, float]:
    """MPJPE from the mesh's root and PA-MPJPE of the `columns` of (N, J, 3) joints, metres in, mm out; 0 of none."""
    if not len(ours):
        return {"mpjpe_mm": 0.0, "pa_mpjpe_mm": 0.0}
    root = list(mesh.root_joints)
    ours, theirs = (joints[:, columns] - joints[:, root].mean(axis=1, keepdims=True) for joints in (ours, theirs))
    return {
        "mpjpe_mm": 1000 * float(np.mean(mpjpe(ours, theirs))),
        "pa_mpjpe_mm": 1000 * float(np.mean(pa_mpjpe(ours, theirs))),
    }
