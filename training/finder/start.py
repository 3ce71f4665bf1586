"""A finder that begins with what a bundle knows: its own finder, or its network's first stages, where they fit."""

from __future__ import annotations

from torch import Tensor, nn

from metro_ros.core.bundle import Bundle
from metro_ros.core.errors import ConfigError
from metro_ros.core.finder import PART
from training.finder.network import FinderNet
from training.finder.train import Trainer
from training.onnx_graph import read_model
from training.warm_start import FoldedWeights, unfold_convolutions

FRAMES = 48
"""That the batch norms' statistics are taken from."""


def start_from(trainer: Trainer, bundle: Bundle, images: Tensor) -> list[str]:
    """Set the convolutions that it has in common with the bundle's finder, or else with its backbone; their names.

    images: (N, H, W, 3) uint8 RGB as the network takes them, on any device, that the batch norms' statistics are of.

    Raises:
        ConfigError: not even the first one fits.
    """
    net = FinderNet(trainer.net.config)  # on the CPU, where the bundle's weights are
    net.load_state_dict(trainer.net.state_dict())
    part = bundle.part_file(PART)
    if part is not None:
        folded, place = FoldedWeights(read_model(part), "net."), ""
    else:
        folded, place = FoldedWeights(read_model(bundle.model_path)), "backbone."
    taken = unfold_convolutions(net, folded, images.cpu(), partly=True, place=place)
    if "stem.0" not in taken:
        first = net.stem[0]
        assert isinstance(first, nn.Conv2d)
        raise ConfigError(
            f"the networks of {bundle.path}",
            expected=f"a first convolution stem.0 of shape {tuple(first.weight.shape)}, as backbone.SmallNet has it",
            got="none",
        )
    for started in (trainer.net, trainer.average):
        started.load_state_dict(net.state_dict())
    return taken
