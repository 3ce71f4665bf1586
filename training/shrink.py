"""The same network a hundred times smaller, to try a recipe, a dataset or a mesh before the real thing takes days."""

from __future__ import annotations

from dataclasses import replace

from training.network_config import BlazePoseConfig, HRNetConfig, MetroConfig, SeeingConfig, SmallNetConfig

TINY_WIDTH = 0.125
"""Of BlazePose."""


def shrunk(config: MetroConfig) -> MetroConfig:
    """`config` with narrow layers, two a block; its parts and their order stay.

    An HRNet sees 64 pixels instead of 224. Backbones with dense heads keep their crop: its dense truth has its size.
    """
    blocks = tuple(
        replace(block, hidden=16, feed_forward=32, out_features=min(block.out_features, 16), layers=2, heads=2)
        for block in config.blocks
    )
    backbone = config.backbone
    if isinstance(backbone, HRNetConfig):
        backbone = replace(backbone, width=4)
    elif isinstance(backbone, SmallNetConfig):
        backbone = replace(backbone, stem_channels=8, channels=(8, 12, 16), blocks=(1, 1, 1), pyramid=8, refine=1)
    elif isinstance(backbone, BlazePoseConfig):
        backbone = replace(backbone, width=TINY_WIDTH)
    size = config.image_size if isinstance(backbone, SeeingConfig) else 64
    return replace(
        config, image_size=size, backbone=backbone, blocks=blocks, camera_hidden=min(config.camera_hidden, 8)
    )
