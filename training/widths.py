"""Transformer blocks of one width instead of narrowing ones (the paper's ablation), at the same arithmetic."""

from __future__ import annotations

from dataclasses import replace

from metro_ros.core.errors import ConfigError
from training.build import token_features
from training.mesh_spec import MeshSpec
from training.network_config import MetroConfig


def transformer_macs(config: MetroConfig, mesh: MeshSpec) -> int:
    """Multiply-adds of all blocks for one person, as the network is trained: matrix products only, nothing folded."""
    tokens, features = mesh.token_count, token_features(config, mesh)
    total = 0
    for block in config.blocks:
        # Query, key, value and output; the two products of attention, over all heads; both feed-forward matrices.
        layer = 4 * block.hidden**2 + 2 * tokens * block.hidden + 2 * block.hidden * block.feed_forward
        ends = (features + block.out_features) * block.hidden + features * block.out_features
        total += tokens * (block.layers * layer + ends)
        features = block.out_features
    return total


def constant_width(config: MetroConfig, mesh: MeshSpec, hidden: int | None = None) -> MetroConfig:
    """`config` with every block as wide as the others, from the first to the last.

    Layers stay, and so do heads and the ratio of feed-forward to width of the first block, in all blocks. Equal
    arithmetic is the fair comparison: it is what a network costs in training and running, and a narrowing network has
    most of its parameters where its tokens are widest.

    Args:
        hidden: the width; None for the one whose `transformer_macs` come nearest to those of `config`.

    Raises:
        ConfigError: hidden is no positive multiple of the first block's heads.
    """
    heads = config.blocks[0].heads
    if hidden is None:
        target = transformer_macs(config, mesh)
        widest = max(block.hidden for block in config.blocks)
        widths = range(heads, widest + heads, heads)
        return min(
            (_of_width(config, width) for width in widths), key=lambda made: abs(transformer_macs(made, mesh) - target)
        )
    if hidden < heads or hidden % heads:
        raise ConfigError("constant width", expected=f"a multiple of {heads} heads", got=hidden)
    return _of_width(config, hidden)


def _of_width(config: MetroConfig, hidden: int) -> MetroConfig:
    first = config.blocks[0]
    feed_forward = round(hidden * first.feed_forward / first.hidden)
    outs = (hidden,) * (len(config.blocks) - 1) + (3,)
    blocks = tuple(
        replace(block, hidden=hidden, feed_forward=feed_forward, out_features=out, heads=first.heads)
        for block, out in zip(config.blocks, outs, strict=True)
    )
    return replace(config, blocks=blocks)
