"""A network's eyes part of the way back to where they began: weights between those before and after training.

python -m training.blend --checkpoint CKPT --start BUNDLE_OR_CKPT --share 0.875 --out CKPT

Trained on synthetic images, a backbone that had seen photographs forgets some of what it knew of them. Along the
straight line between the two, what is learned comes faster than what is known goes (Wortsman et al., "Robust
fine-tuning of zero-shot models", CVPR 2022): a share of 0.875 cost the default half a millimetre on synthetic crops and
five on clips of one person, and poses people in photographs better. Backbone and keypoint head are blended; the tokens'
weights stay.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from metro_ros.core.bundle import load_bundle
from metro_ros.core.errors import ConfigError, MetroError
from training.checkpoint import load_checkpoint, save_checkpoint
from training.network import Metro
from training.stages import BACKBONE_WEIGHTS
from training.warm_start import load_bundle_backbone

REFINEMENT = "backbone.refine."
"""Blocks that began as nothing: of those, only what they add is scaled, or they would be blended with noise."""


@torch.no_grad()
def blend(metro: Metro, start: Metro, share: float) -> None:
    """In place: backbone and keypoint head of `metro` become `share` of themselves and the rest of `start`'s.

    Raises ConfigError for a share outside of 0 to 1, or another network.
    """
    if not 0 <= share <= 1:
        raise ConfigError("--share", expected="0 to 1", got=share)
    before = dict(start.named_parameters())
    for name, value in metro.named_parameters():
        if not name.startswith(BACKBONE_WEIGHTS):
            continue
        if name.startswith(REFINEMENT):
            if ".project." in name:
                value.mul_(share)
            continue
        if name not in before or before[name].shape != value.shape:
            raise ConfigError("the network to blend with", expected=f"{name} of {tuple(value.shape)}", got="another")
        value.lerp_(before[name], 1.0 - share)


def load_start(path: Path, metro: Metro) -> Metro:
    """A network with the eyes of a checkpoint, or of a bundle into a copy of `metro`."""
    if not path.is_dir():
        return load_checkpoint(path)[0]
    start = copy.deepcopy(metro)
    load_bundle_backbone(start, load_bundle(path))
    return start


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.blend", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a trained network")
    parser.add_argument("--start", type=Path, required=True, help="bundle or checkpoint that its eyes began with")
    parser.add_argument("--share", type=float, default=0.875, help="of the trained weights (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint")
    options = parser.parse_args(arguments)
    try:
        metro, config, bundle = load_checkpoint(options.checkpoint)
        blend(metro, load_start(options.start, metro), options.share)
        save_checkpoint(options.out, metro, config, bundle)
    except MetroError as error:
        print(f"blend: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
