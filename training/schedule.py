"""How far training has come, by steps, epochs or the clock, and the learning rate there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from metro_ros.core.errors import ConfigError
from training.presets import TrainConfig


@dataclass(frozen=True, slots=True)
class Length:
    """When training ends: after `steps` of the optimiser, or after `minutes`, whichever is given.

    epochs: whole passes that `steps` are, for the paper's schedule, which drops between two of them; 0 if not counted.
    """

    steps: int | None = None
    minutes: float | None = None
    epochs: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError("length of training", expected="either steps or minutes", got=(self.steps, self.minutes))
        if not (self.steps if self.minutes is None else self.minutes) > 0:  # type: ignore[operator]
            raise ConfigError("length of training", expected="more than nothing", got=self.steps or self.minutes)

    def share(self, step: int, seconds: float) -> float:
        """0 at the start, 1 at the end; after `seconds` of training time and before step `step`."""
        if self.minutes is not None:
            return seconds / (60.0 * self.minutes)
        assert self.steps is not None
        return step / self.steps


def learning_rate(config: TrainConfig, length: Length, step: int, share: float) -> float:
    """Of a step, at `share` of the whole of training; see presets.Schedule."""
    if config.schedule == "step":
        if length.epochs:
            # lr0 * 0.1 ** floor(epoch / (E / 2)): the drop waits for a whole epoch.
            share = math.floor(share * length.epochs + 1e-9) / length.epochs
        return config.learning_rate * (0.1 if share >= 0.5 else 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
    rate = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
    return rate * min(1.0, (step + 1) / max(config.warm_up_steps, 1))
