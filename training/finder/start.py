"""A finder that begins with what a bundle's own network sees: its backbone's first stages, where they fit."""

from __future__ import annotations

import onnx
from torch import nn

from metro_ros.core.bundle import Bundle
from metro_ros.core.errors import ConfigError
from training.datasets.frames import FrameSet
from training.finder.augment import AugmentConfig
from training.finder.data import make_batch
from training.finder.train import Trainer
from training.warm_start import FoldedWeights, unfold_convolutions

FRAMES = 48
"""That the batch norms' statistics are taken from."""


def start_from(trainer: Trainer, bundle: Bundle, frames: FrameSet) -> list[str]:
    """Set the convolutions that the network has in common with the bundle's backbone; their names.

    Raises:
        ConfigError: not even the first one fits.
    """
    net = trainer.net
    shape = net.config.width, net.config.height
    images, _ = make_batch(frames, FRAMES, trainer.config.seed, 0, shape, AugmentConfig())
    taken = unfold_convolutions(net, FoldedWeights(onnx.load(bundle.model_path)), images, partly=True)
    if "stem.0" not in taken:
        first = net.stem[0]
        assert isinstance(first, nn.Conv2d)
        raise ConfigError(
            f"the backbone of {bundle.path}",
            expected=f"a first convolution stem.0 of shape {tuple(first.weight.shape)}, as backbone.SmallNet has it",
            got="none",
        )
    trainer.average.module.load_state_dict(net.state_dict())
    return taken
