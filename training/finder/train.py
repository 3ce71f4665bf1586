"""Training the finder: a plain loop that ends by the clock or by its steps, and goes on where it was killed.

Its weights are rounded in every step as they will be when stored, so that it learns to bear it.
On a GPU the loop never waits for a step: the loss stays there, and is looked at every so many steps.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from metro_ros.core.errors import ConfigError
from training.averaging import move_averages
from training.finder.loss import People, finder_loss, forgetting
from training.finder.network import FinderConfig, FinderNet
from training.finder.photographs import Photographs
from training.precision import Precision, is_rounded
from training.rounding import rounded_weights
from training.schedule import Length
from training.tensor_file import load_tree, non_finite, save_tree

LAST = "last.safetensors"
_RECORD, _AVERAGE, _RUN = "finder", "average", "run"


class Feed(Protocol):
    """Gives batches on the device that trains; see `training.finder.data`."""

    def __len__(self) -> int:
        """Frames at hand."""

    def batch(self, step: int) -> tuple[Tensor, People]:
        """Images (N, H, W, 3) uint8 RGB and who is in them, for `step`."""


@dataclass(frozen=True, slots=True)
class FinderTraining:
    """How the finder is trained.

    Attributes:
        batch: frames a step.
        learning_rate: of AdamW after `warm_up_steps`; it falls to nothing along half a cosine of the time.
        ema_decay: of the moving average of weights that is kept.
        clip: largest norm of the gradient.
        remembering: weight of what `Trainer.remember` adds to the loss.
        refresh_steps: how often new shards are looked for.
        check_steps: how often a loss on a GPU is looked at; on a CPU every one is.
        report_s, save_s: seconds between two lines of metrics, and between two savings.
    """

    batch: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    warm_up_steps: int = 200
    ema_decay: float = 0.999
    clip: float = 10.0
    remembering: float = 2.0
    refresh_steps: int = 200
    check_steps: int = 50
    report_s: float = 20.0
    save_s: float = 60.0
    seed: int = 0


class Trainer:
    """A network, its moving average and its optimiser, and how far they have come."""

    def __init__(
        self,
        network: FinderConfig,
        config: FinderTraining,
        precision: Precision = "auto",
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, torch.device(device)
        self.net = FinderNet(network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.bfloat16 = is_rounded(precision, self.device.type)
        self.step, self.seconds = 0, 0.0
        self._photographs: Photographs | None = None
        self._before: FinderNet | None = None
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True

    def begin_with(self, net: FinderNet) -> None:
        """Set all weights to those of another network of the same size."""
        for started in (self.net, self.average):
            started.load_state_dict(net.state_dict())

    def remember(self, before: FinderNet, photographs: Photographs) -> None:
        """From now on answer to photographs as `before` does, which is kept as it is."""
        self._before = copy.deepcopy(before).to(self.device).eval().requires_grad_(False)
        self._photographs = photographs

    @property
    def check_steps(self) -> int:
        """How many steps may be made before the loss is looked at."""
        return self.config.check_steps if self.device.type == "cuda" else 1

    def learn(self, images: Tensor, people: People, share: float) -> Tensor:
        """One step at `share` of the whole of training, on a batch that lies on the device; the loss (), there.

        Raises ConfigError, on the CPU alone, when the loss is not finite; on a GPU, whoever looks at it finds out.
        """
        config = self.config
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / max(config.warm_up_steps, 1))
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        with rounded_weights(self.net):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                loss = finder_loss(self.net(images), people, images.shape[2], images.shape[1])
                if self._photographs is not None and self._before is not None:
                    seen = self._photographs.batch(self.step)
                    with torch.no_grad():
                        before = self._before(seen)
                    loss = loss + config.remembering * forgetting(self.net(seen), before)
            if self.device.type == "cpu":
                self.check(loss)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        self.optimizer.step()
        self._follow()
        self.step += 1
        return loss.detach()

    def check(self, loss: Tensor) -> float:
        """The loss as a number. Raises ConfigError when it is not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(f"loss of step {self.step}", expected="a finite number", got=value)
        return value

    def _follow(self) -> None:
        """Move the average towards the network: by more while it is young."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step)) if self.step else 0.0
        means, values = ([*net.parameters(), *net.buffers()] for net in (self.average, self.net))
        move_averages(means, values, decay)

    def save(self, path: Path) -> None:
        """Everything that training goes on from, and what `load_finder` reads."""
        run = {
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        record = {"config": asdict(self.net.config)}
        save_tree({_RECORD: record, _AVERAGE: self.average.state_dict(), _RUN: run}, path)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises ConfigError when the file is another."""
        tree = load_tree(path)
        try:
            run: dict[str, Any] = tree[_RUN]
            self.net.load_state_dict(run["net"])
            self.average.load_state_dict(tree[_AVERAGE])
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


def run(trainer: Trainer, feed: Feed, out: Path, length: Length) -> None:
    """Train for `length`, what was before a kill included; out/last.safetensors is the result."""
    config = trainer.config
    began = time.monotonic() - trainer.seconds
    saved = reported = time.monotonic()
    smooth: Tensor | None = None
    with tqdm(total=100, desc="finder", unit="%", bar_format="{l_bar}{bar}| {elapsed}{postfix}", disable=None) as bar:
        while (share := length.share(trainer.step, trainer.seconds)) < 1:
            loss = trainer.learn(*feed.batch(trainer.step), share)
            # One that is not finite stays in the mean, so that none is missed between two looks.
            smooth = loss if smooth is None else torch.lerp(smooth, loss, 0.02)
            now = time.monotonic()
            trainer.seconds = now - began
            if trainer.step % trainer.check_steps:
                continue
            value = trainer.check(smooth)
            bar.n = round(100 * share)
            bar.set_postfix(step=trainer.step, frames=len(feed), loss=f"{value:.3f}")
            if now - reported >= config.report_s:
                reported = now
                _report(trainer, feed, value, out)
            if now - saved >= config.save_s:
                saved = now
                trainer.save(out / LAST)
    if smooth is not None:
        _report(trainer, feed, trainer.check(smooth), out)
    trainer.save(out / LAST)


def _report(trainer: Trainer, feed: Feed, loss: float, out: Path) -> None:
    """Add a line to out/metrics.jsonl, and say it."""
    line = {"step": trainer.step, "seconds": round(trainer.seconds), "frames": len(feed), "loss": round(loss, 4)}
    text = json.dumps(line)
    with (out / "metrics.jsonl").open("a") as file:
        file.write(text + "\n")
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
