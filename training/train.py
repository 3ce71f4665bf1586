"""Train the default network on stored synthetic crops; interrupt it at any time, and go on with --resume.

python -m training.train --motions FILE --shards DIR --validation DIR --out DIR --steps N

Under torchrun every process takes its share of each batch, on a GPU of its own where there are GPUs. On a CPU, one
process a core with one thread each beats one process with many threads as soon as anything else runs: threads meet at
every layer, processes once a step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from metro_ros.core.errors import ConfigError, MetroError
from metro_ros.core.metrics import mpjpe, pa_mpjpe
from metro_ros.core.skeleton import J14
from training.anny_spec import load_anny_spec
from training.augment import AugmentConfig, Batch, augment
from training.body import TRAINING_BANK, load_body_bank
from training.build import MetroConfig, build, default
from training.checkpoint import load_checkpoint, make_record, network_from_record
from training.crop_source import CropSource
from training.losses import LossWeights
from training.masking import sample_token_mask
from training.motion import load_motions
from training.network import Metro
from training.normalize import Normalize
from training.precision import Precision, set_precision
from training.side_losses import SideWeights
from training.stages import Stage, stage_loss

BACKBONE_WEIGHTS = ("backbone.", "keypoint_head.")
TOKEN_WEIGHTS = ("conv_learn_tokens.", "trans_encoder.", "upsampling")
Schedule = Literal["cosine", "step"]
"""Half a cosine after a warm-up, or the paper's: constant, a tenth of it from half way on, no warm-up."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How the default network is trained.

    The paper's weights for joints, vertices and 2D; the coarse and middle levels carry the vertex loss, since the last
    upsampling is fixed and would only repeat the middle level at ten times its cost.
    """

    batch: int = 32
    learning_rate: float = 8e-4
    final_learning_rate: float = 5e-6
    schedule: Schedule = "cosine"
    warm_up_steps: int = 300
    weight_decay: float = 0.0
    save_every_s: float = 300.0
    weights: LossWeights = field(
        default_factory=lambda: LossWeights(joints=1000.0, vertices=100.0, keypoints=100.0, levels=(0.5, 0.5, 0.0))
    )
    side: SideWeights = field(default_factory=SideWeights)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Of a step, by the config's schedule over the whole of training (progress 0 to 1); see Schedule."""
    if config.schedule == "step":
        return config.learning_rate * (0.1 if progress >= 0.5 else 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    rate = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
    return rate * min(1.0, (step + 1) / config.warm_up_steps)


def validate(metro: Metro, source: CropSource) -> dict[str, float]:
    """J14 errors of the joint tokens on every stored crop, millimetres."""
    device = metro.template_tokens.device
    normalize = Normalize().to(device)
    metro.eval()
    predicted, truth = [], []
    with torch.no_grad():
        for shard in source.shards:
            for start in range(0, len(shard["image"]), 50):
                images = normalize(torch.from_numpy(shard["image"][start : start + 50]).to(device))
                images = images.contiguous(memory_format=torch.channels_last)
                predicted.append(metro(images, levels=1).joints.cpu().numpy())
                truth.append(shard["joints"][start : start + 50])
    metro.train()
    names = metro.mesh.joint_names
    columns = [names.index(name) for name in J14]
    ours, theirs = np.concatenate(predicted)[:, columns], np.concatenate(truth)[:, columns]
    hips = [J14.index("R_Hip"), J14.index("L_Hip")]
    ours = ours - ours[:, hips].mean(axis=1, keepdims=True)
    theirs = theirs - theirs[:, hips].mean(axis=1, keepdims=True)
    return {
        "mpjpe_mm": 1000 * float(np.mean(mpjpe(ours, theirs))),
        "pa_mpjpe_mm": 1000 * float(np.mean(pa_mpjpe(ours, theirs))),
    }


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0


class Trainer:
    """One run: network, optimiser, and the checkpoint that holds both."""

    def __init__(
        self, metro: Metro, network: MetroConfig, config: TrainConfig, out: Path, seed: int, device: str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.metro = metro.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.config, self.out, self.seed = network, config, out, seed
        trained = [parameter for parameter in metro.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.progress = Progress()
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.processes = dist.get_world_size() if dist.is_initialized() else 1

    @property
    def checkpoint(self) -> Path:
        return self.out / "last.pt"

    def save(self) -> None:
        """Write the checkpoint; a crash in the middle leaves the old one whole."""
        state: dict[str, Any] = {
            "metro": make_record(self.metro, self.network),
            "optimiser": self.optimiser.state_dict(),
            "step": self.progress.step,
            "seconds": self.progress.seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        restored, _, _ = network_from_record(state["metro"])
        self.metro.load_state_dict(restored.state_dict())
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(state["step"], state["seconds"])

    def start_from(self, checkpoint: Path, prefixes: tuple[str, ...]) -> None:
        """Take the weights whose names start with one of `prefixes` from another run."""
        source, _, _ = load_checkpoint(checkpoint)
        weights = {key: value for key, value in source.state_dict().items() if key.startswith(prefixes)}
        self.metro.load_state_dict(weights, strict=False)

    def run(
        self, source: CropSource, validation: CropSource | None, steps: int, minutes: float | None, stage: Stage
    ) -> None:
        """Train to `steps`, or, when `minutes` is given, until they are over (the schedule then follows the clock)."""
        normalize, log = Normalize().to(self.device), (self.out / "log.jsonl").open("a")
        joints, coarse = self.metro.mesh.joint_count, self.metro.mesh.level_sizes[0]
        count = self.config.batch // self.processes
        began = time.monotonic() - self.progress.seconds
        saved = time.monotonic()
        self.metro.train()
        average = None
        with tqdm(
            total=steps if minutes is None else None,
            initial=self.progress.step,
            desc="train",
            unit="step",
            disable=self.rank > 0,
            mininterval=5,
        ) as bar:
            while True:
                step, self.progress.seconds = self.progress.step, time.monotonic() - began
                share = self._agree(step / steps if minutes is None else self.progress.seconds / (60 * minutes))
                if share >= 1.0:
                    break
                rng = np.random.default_rng([self.seed, step, self.rank])
                generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
                stored = Batch(*(column.to(self.device) for column in source.batch(rng, count)))
                batch = augment(stored, self.config.augment, generator)
                mask = sample_token_mask(count, joints, coarse, self.network.mask_ratio, generator=generator)
                for group in self.optimiser.param_groups:
                    group["lr"] = learning_rate(self.config, step, share)
                images = normalize(batch.image)
                loss = stage_loss(
                    stage,
                    self.metro,
                    batch,
                    images,
                    mask.to(self.device),
                    generator,
                    self.config.weights,
                    self.config.side,
                )
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self._average_gradients()
                self.optimiser.step()
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise ConfigError("training diverged", expected="a finite loss", got=f"{value} at step {step}")
                average = value if average is None else 0.98 * average + 0.02 * value
                self.progress.step += 1
                bar.update()
                bar.set_postfix(loss=f"{average:.2f}", crops=len(source), refresh=False)
                if time.monotonic() - saved > self.config.save_every_s:
                    saved = time.monotonic()
                    source.refresh()
                    if self.rank > 0:
                        continue
                    self.save()
                    report: dict[str, Any] = {"step": step, "seconds": round(self.progress.seconds), "loss": average}
                    report |= validate(self.metro, validation) if validation else {}
                    log.write(json.dumps(report) + "\n")
                    log.flush()
                    bar.write(json.dumps(report))
        if self.rank == 0:
            self.save()

    def _average_gradients(self) -> None:
        """One all-reduce of every gradient; the processes start alike and so stay alike."""
        if self.processes == 1:
            return
        gradients = [parameter.grad for parameter in self.metro.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.processes
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _agree(self, share: float) -> float:
        """The first process's share, so that all of them stop at the same step."""
        if self.processes == 1:
            return share
        value = torch.tensor([share], dtype=torch.float64, device=self.device)
        dist.broadcast(value, src=0)
        return float(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.splitlines()[0])
    parser.add_argument("--motions", type=Path, required=True, help="motion file; fits the mesh levels the first time")
    parser.add_argument("--shards", type=Path, required=True, help="folder by python -m training.synth --crops")
    parser.add_argument("--validation", type=Path, help="another such folder, from motions that --shards never saw")
    parser.add_argument("--out", type=Path, required=True, help="run folder: last.pt, log.jsonl")
    parser.add_argument("--steps", type=int, default=30000, help="batches (default %(default)s)")
    parser.add_argument("--minutes", type=float, help="stop by the clock instead")
    parser.add_argument("--stage", choices=get_args(Stage), default="all", help="see training.stages")
    parser.add_argument("--backbone-from", type=Path, help="checkpoint to take the backbone's weights from")
    parser.add_argument("--tokens-from", type=Path, help="checkpoint to take all other weights from")
    parser.add_argument("--schedule", choices=get_args(Schedule), default=TrainConfig().schedule)
    parser.add_argument("--learning-rate", type=float, default=TrainConfig().learning_rate)
    parser.add_argument("--final-learning-rate", type=float, default=TrainConfig().final_learning_rate)
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="auto", help="auto: bf16 where it is native"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU where one is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--cache", type=Path, help="where bodies and mesh spec are kept (default ~/.cache/metro_ros)")
    parser.add_argument("--resume", action="store_true", help="go on from --out/last.pt where there is one")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    trainer = None
    try:
        bank = load_body_bank(*TRAINING_BANK, options.cache)
        mesh = load_anny_spec(bank, load_motions(options.motions, bank), options.cache)
        network = default()
        rates = (options.learning_rate, options.final_learning_rate)
        config = TrainConfig(learning_rate=rates[0], final_learning_rate=rates[1], schedule=options.schedule)
        options.out.mkdir(parents=True, exist_ok=True)
        metro = build(network, mesh)
        set_precision(metro, options.precision, device)
        trainer = Trainer(metro, network, config, options.out, options.seed, device)
        if options.resume and trainer.checkpoint.exists():
            trainer.resume()
        else:
            for checkpoint, names in ((options.tokens_from, TOKEN_WEIGHTS), (options.backbone_from, BACKBONE_WEIGHTS)):
                if checkpoint:
                    trainer.start_from(checkpoint, names)
        validation = CropSource(options.validation) if options.validation else None
        trainer.run(CropSource(options.shards), validation, options.steps, options.minutes, options.stage)
    except KeyboardInterrupt:
        if trainer is not None and trainer.rank == 0:
            trainer.save()
            print(f"interrupted at step {trainer.progress.step}; go on with --resume", file=sys.stderr)
        return 130
    except MetroError as error:
        print(f"training: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
