"""Weights that bear being rounded: forwards and backwards with what is stored, steps with what it is rounded from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BITS = 6
"""Of each stored weight of a convolution; a network that has learned with them loses nothing."""


def round_channels(kernels: Tensor, bits: int = BITS) -> tuple[Tensor, Tensor]:
    """Whole numbers (C, ...) int8 of up to 8 bits and the scale of each channel (C, 1, ...): their product is near."""
    largest = kernels.abs().amax(dim=tuple(range(1, kernels.dim())), keepdim=True)
    scale = (largest / (2 ** (bits - 1) - 1)).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.round(kernels / scale).to(torch.int8), scale


@contextmanager
def rounded_weights(net: nn.Module, bits: int = BITS) -> Iterator[None]:
    """The network's convolutions with rounded weights; afterwards they are as they were, and have their gradients.

    A straight-through estimator (Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013).
    """
    weights = [module.weight for module in net.modules() if isinstance(module, nn.Conv2d)]
    exact = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                numbers, scale = round_channels(weight, bits)
                weight.copy_(numbers * scale)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, exact, strict=True):
                weight.copy_(value)
