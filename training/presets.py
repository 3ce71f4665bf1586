"""How each network is trained: every default of a run in one frozen config a preset."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from metro_ros.core.errors import ConfigError
from training.build import PRESETS as NETWORKS
from training.datasets.augment import DEFAULT, HAND, PAPER_BODY, PAPER_HAND, AugmentConfig
from training.datasets.crops import CropStyle
from training.losses import BODY_WEIGHTS, HAND_WEIGHTS, LossWeights
from training.side_losses import SideWeights
from training.stages import Objective

Schedule = Literal["cosine", "step"]
"""Half a cosine after a warm-up, or the paper's: constant, a tenth of it from half of the epochs on, no warm-up."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        network: preset of training.build.
        batch: samples a process and step takes at once.
        accumulate: how many of those make one step of the optimiser.
        learning_rate, final_learning_rate: of AdamW, which is Adam while weight_decay is 0.
        schedule, warm_up_steps: see Schedule; only the cosine warms up.
        epochs: how long, where the command line says nothing else; None leaves it to the command line.
        ema_decay: of the moving average of weights that is validated and exported; None for none.
        backbone_rate: the backbone's learning rate over that of all else; below 1 for one that knows something already.
        objective, augment, crop_style: see there.
    """

    network: str
    batch: int
    learning_rate: float
    objective: Objective
    augment: AugmentConfig
    crop_style: CropStyle
    accumulate: int = 1
    final_learning_rate: float = 0.0
    schedule: Schedule = "step"
    warm_up_steps: int = 0
    weight_decay: float = 0.0
    epochs: int | None = None
    ema_decay: float | None = None
    backbone_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ConfigError("network", expected=" or ".join(NETWORKS), got=self.network)
        for name, value, low in (
            ("batch", self.batch, 1),
            ("accumulate", self.accumulate, 1),
            ("warm_up_steps", self.warm_up_steps, 0),
            ("epochs", self.epochs if self.epochs is not None else 1, 1),
        ):
            if value < low:
                raise ConfigError(name, expected=f"at least {low}", got=value)
        rates = (self.learning_rate, self.final_learning_rate)
        if not all(map(math.isfinite, rates)) or not self.learning_rate > 0 or self.final_learning_rate < 0:
            raise ConfigError("learning rates", expected="finite and above 0", got=rates)
        if not 0 < self.backbone_rate <= 1:
            raise ConfigError("backbone_rate", expected="above 0, at most 1", got=self.backbone_rate)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError("ema_decay", expected="between 0 and 1", got=self.ema_decay)


def default() -> TrainConfig:
    """The network this project ships.

    The paper's weights for joints, vertices and 2D; the coarse and middle levels carry the vertex loss, since the last
    upsampling is fixed and would only repeat the middle level at ten times its cost.
    """
    weights = LossWeights(joints=1000.0, vertices=100.0, keypoints=100.0, levels=(0.5, 0.5, 0.0))
    return TrainConfig(
        network="default",
        batch=32,
        learning_rate=8e-4,
        final_learning_rate=5e-6,
        schedule="cosine",
        warm_up_steps=300,
        objective=Objective(weights, SideWeights(), levels=2, regressed=False),
        augment=DEFAULT,
        crop_style="smooth",
    )


def teacher() -> TrainConfig:
    """The default network's teacher, trained as it is."""
    return replace(default(), network="teacher", learning_rate=5e-4)


def hand() -> TrainConfig:
    """The hand network this project ships.

    A hand is a tenth of a body, so what is measured in metres counts more than there, but not ten times (squared, a
    hundred times) as much: gradients of L1 terms do not shrink with the error, and the backbone would hear of nothing
    else. Fitted to ten crops for 90 steps, joints come as near by these weights (19 mm) as by joints at 10,000 and
    vertices at 300, and keypoints nearer (18 px of 128 instead of 23); by 100,000 and 1,000, fitted to 24
    crops for 150 steps, keypoints stay where they were (32 px). Hands have no upright.
    """
    return replace(
        default(),
        network="hand",
        warm_up_steps=100,
        objective=Objective(
            LossWeights(joints=3000.0, vertices=200.0, keypoints=100.0, levels=(0.5, 0.5)),
            SideWeights(surface=50.0, anchored_joints=100.0),
            levels=None,
            regressed=False,
        ),
        augment=HAND,
    )


def paper_body() -> TrainConfig:
    """The paper's body: 30 images a GPU on eight of them, 200 epochs, Adam at 1e-4."""
    return TrainConfig(
        network="paper_body",
        batch=30,
        learning_rate=1e-4,
        epochs=200,
        objective=Objective(BODY_WEIGHTS, None, levels=None, regressed=True),
        augment=PAPER_BODY,
        crop_style="paper",
    )


def paper_3dpw() -> TrainConfig:
    """The paper's fine-tuning on 3DPW: five epochs from the Human3.6M checkpoint.

    3DPW as published has SMPL's hips, not Human3.6M's: joints are regressed from its true meshes.
    """
    base = paper_body()
    return replace(base, epochs=5, objective=replace(base.objective, joints_from_mesh=True))


def paper_hand() -> TrainConfig:
    """The paper's hand on FreiHAND: 32 images a GPU on eight of them, 200 epochs, all weights 1."""
    return replace(
        paper_body(),
        network="paper_hand",
        batch=32,
        objective=Objective(HAND_WEIGHTS, None, levels=None, regressed=True),
        augment=PAPER_HAND,
    )


PRESETS = {
    "default": default, "teacher": teacher, "hand": hand,
    "paper_body": paper_body, "paper_3dpw": paper_3dpw, "paper_hand": paper_hand,
}  # fmt: skip
