"""Training the finder: a plain loop that ends by the clock or by its steps, and goes on where it was killed."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from metro_ros.core.errors import ConfigError
from training.datasets.frames import FrameSet
from training.finder.augment import AugmentConfig
from training.finder.data import make_batch
from training.finder.loss import TargetBatch, finder_loss
from training.finder.network import FinderConfig, FinderNet
from training.precision import Precision, is_rounded
from training.schedule import Length
from training.tensor_file import load_tree, non_finite, save_tree

LAST = "last.safetensors"
_RECORD, _AVERAGE, _RUN = "finder", "average", "run"

_Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True, slots=True)
class FinderTraining:
    """How the finder is trained.

    Attributes:
        batch: frames a step.
        learning_rate: of AdamW after `warm_up_steps`; it falls to nothing along half a cosine of the time.
        ema_decay: of the moving average of weights that is kept.
        clip: largest norm of the gradient.
        early_share, early_size: so much of the time, images of that width and height take less than half of it a step.
        refresh_steps: how often new shards are looked for.
        save_s: seconds between two savings.
    """

    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warm_up_steps: int = 100
    ema_decay: float = 0.998
    clip: float = 10.0
    early_share: float = 0.6
    early_size: tuple[int, int] = (192, 160)
    refresh_steps: int = 200
    save_s: float = 60.0
    seed: int = 0


class Trainer:
    """A network, its moving average and its optimiser, and how far they have come."""

    def __init__(self, network: FinderConfig, config: FinderTraining, precision: Precision = "auto") -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.net = FinderNet(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.net, multi_avg_fn=self._follow, use_buffers=True)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.rounded = is_rounded(precision)
        self.step, self.seconds = 0, 0.0

    def learn(self, images: Tensor, targets: TargetBatch, share: float) -> float:
        """One step at `share` of the whole of training; the loss. Raises ConfigError when it is not finite."""
        config = self.config
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / max(config.warm_up_steps, 1))
        self.net.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.rounded):
            maps = self.net(images)
        loss = finder_loss(maps, targets)
        if not torch.isfinite(loss):
            raise ConfigError(f"loss of step {self.step}", expected="a finite number", got=float(loss.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        self.optimizer.step()
        self.average.update_parameters(self.net)
        self.step += 1
        return float(loss.detach())

    def _follow(self, average: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        """Move the average, over `count` states, towards the current one: by more while it is young."""
        decay = min(self.config.ema_decay, (1 + int(count)) / (10 + int(count)))
        for mean, value in zip(average, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def save(self, path: Path) -> None:
        """Everything that training goes on from, and what `load_finder` reads."""
        run = {
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.average.n_averaged,
        }
        average = self.average.module.state_dict()
        save_tree({_RECORD: {"config": asdict(self.net.config)}, _AVERAGE: average, _RUN: run}, path)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises ConfigError when the file is another."""
        tree = load_tree(path)
        try:
            run: dict[str, Any] = tree[_RUN]
            self.net.load_state_dict(run["net"])
            self.average.module.load_state_dict(tree[_AVERAGE])
            self.average.n_averaged.copy_(run["averaged"])
            self.optimizer.load_state_dict(run["optimizer"])
            self.step, self.seconds = int(run["step"]), float(run["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"checkpoint {path}", expected="a run of the finder", got=error) from error


def load_finder(path: Path) -> FinderNet:
    """The averaged network of a checkpoint, in eval mode. Raises ConfigError when there is none or it is not finite."""
    tree = load_tree(path)
    try:
        fields: dict[str, Any] = tree[_RECORD]["config"]
        config = FinderConfig(**fields)
        net = FinderNet(config)
        net.load_state_dict(tree[_AVERAGE])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(f"checkpoint {path}", expected="a finder", got=error) from error
    if broken := non_finite(net.state_dict()):
        raise ConfigError(f"checkpoint {path}", expected="finite weights", got=f"others in {', '.join(broken[:3])}")
    return net.eval()


def run(trainer: Trainer, frames: FrameSet, out: Path, length: Length, augment: AugmentConfig) -> None:
    """Train for `length`, what was before a kill included; out/last.safetensors is the result."""
    config = trainer.config
    saved, began = time.monotonic(), time.monotonic() - trainer.seconds
    whole = trainer.net.config.width, trainer.net.config.height
    smooth = float("nan")
    with tqdm(total=100, desc="finder", unit="%", bar_format="{l_bar}{bar}| {elapsed}{postfix}") as bar:
        while (share := length.share(trainer.step, trainer.seconds)) < 1:
            if trainer.step % config.refresh_steps == 0:
                frames.refresh()
            shape = config.early_size if share < config.early_share else whole
            loss = trainer.learn(*make_batch(frames, config.batch, config.seed, trainer.step, shape, augment), share)
            smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
            now = time.monotonic()
            trainer.seconds = now - began
            bar.n = round(100 * share)
            bar.set_postfix(step=trainer.step, frames=len(frames), loss=f"{smooth:.3f}")
            if now - saved > config.save_s:
                saved = now
                trainer.save(out / LAST)
                line = {"step": trainer.step, "seconds": round(trainer.seconds), "loss": round(smooth, 4)}
                with (out / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
    trainer.save(out / LAST)
