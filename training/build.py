"""The composition root: one frozen config, every number visible, one network out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from metro_ros.core.errors import ConfigError
from training.backbone import Backbone, SmallNet
from training.blazepose import BlazePose
from training.heads import KeypointHead
from training.hrnet import OUT_CHANNELS, HRNet
from training.mesh_spec import MeshSpec
from training.neighbours import token_neighbours
from training.network import Metro
from training.network_config import (
    BackboneConfig,
    BlazePoseConfig,
    BlockConfig,
    HRNetConfig,
    MetroConfig,
    ResNetConfig,
    SeeingConfig,
    SmallNetConfig,
)
from training.reliability import ReliabilityHead
from training.resnet import ResNet
from training.transformer import TransformerBlock


def default() -> MetroConfig:
    """The network this project trains: 0.6 GMAC at 192 pixels, so that two CPU cores run it at camera rate.

    Its backbone has seen photographs of people before: see training.mediapipe_weights. Heads stay 32 wide: narrower
    ones cost time for nothing. The blocks are the paper's at a quarter of its width; init_std is its 0.02 at width 1024
    scaled to these. The second upsampling stays at the least-squares fit of the body model: 15 M numbers that hold no
    image knowledge.
    """
    return MetroConfig(
        name="default",
        image_size=192,
        backbone=BlazePoseConfig(refine=(1, 2, 2)),
        blocks=(
            BlockConfig(hidden=256, feed_forward=1024, out_features=128, layers=2, heads=8, dropout=0.0),
            BlockConfig(hidden=128, feed_forward=512, out_features=64, layers=2, heads=4, dropout=0.0),
            BlockConfig(hidden=64, feed_forward=256, out_features=3, layers=2, heads=2, dropout=0.0),
        ),
        keypoints=True,
        joint_features=True,
        camera="keypoints",
        camera_hidden=0,
        position_rows=None,
        mask_ratio=0.3,
        train_upsampling=(True, False),
        layer_norm_eps=1e-12,
        init_std=0.04,
    )


def teacher() -> MetroConfig:
    """The default network's teacher: the same backbone, crops and mesh, blocks of twice the depth; see
    training.distillation."""
    return replace(
        default(),
        name="teacher",
        blocks=(
            BlockConfig(hidden=256, feed_forward=1024, out_features=128, layers=4, heads=8, dropout=0.0),
            BlockConfig(hidden=128, feed_forward=512, out_features=64, layers=4, heads=4, dropout=0.0),
            BlockConfig(hidden=64, feed_forward=256, out_features=3, layers=4, heads=2, dropout=0.0),
        ),
    )


def hand() -> MetroConfig:
    """The hand network this project trains: two thirds of `default`'s width, for 96 tokens, from nothing.

    Fingers are thin, so it keeps a crop of 128 pixels and saves in channels.
    """
    return replace(
        default(),
        name="hand",
        image_size=128,
        backbone=SmallNetConfig(stem_channels=24, channels=(24, 64, 128), pyramid=40),
        blocks=(
            BlockConfig(hidden=96, feed_forward=384, out_features=64, layers=2, heads=3, dropout=0.0),
            BlockConfig(hidden=64, feed_forward=256, out_features=32, layers=2, heads=2, dropout=0.0),
            BlockConfig(hidden=32, feed_forward=128, out_features=3, layers=2, heads=1, dropout=0.0),
        ),
        train_upsampling=(True,),
    )


def paper_body() -> MetroConfig:
    """The paper's body network (METRO, HRNet-W64): 183 M parameters in use, 56 GMAC."""
    return MetroConfig(
        name="paper_body",
        image_size=224,
        backbone=HRNetConfig(width=64, pooled=False),
        blocks=(
            BlockConfig(hidden=1024, feed_forward=3072, out_features=512),
            BlockConfig(hidden=256, feed_forward=3072, out_features=128),
            BlockConfig(hidden=128, feed_forward=3072, out_features=3),
        ),
        keypoints=False,
        camera="coarse",
        camera_hidden=250,
        position_rows=512,
        mask_ratio=0.3,
        train_upsampling=(True, True),
        layer_norm_eps=1e-12,
        init_std=0.02,
    )


def paper_hand() -> MetroConfig:
    """The paper's hand network: one pooled image vector for all tokens, the camera from all tokens, no masking."""
    return MetroConfig(
        name="paper_hand",
        image_size=224,
        backbone=HRNetConfig(width=64, pooled=True),
        blocks=(
            BlockConfig(hidden=1024, feed_forward=4096, out_features=512),
            BlockConfig(hidden=256, feed_forward=1024, out_features=128),
            BlockConfig(hidden=64, feed_forward=256, out_features=3),
        ),
        keypoints=False,
        camera="tokens",
        camera_hidden=150,
        position_rows=512,
        mask_ratio=0.0,
        train_upsampling=(True,),
        layer_norm_eps=1e-12,
        init_std=0.02,
    )


PRESETS = {
    "default": default, "teacher": teacher, "hand": hand, "paper_body": paper_body, "paper_hand": paper_hand
}  # fmt: skip


ARCHITECTURES: dict[str, BackboneConfig] = {
    "resnet50": ResNetConfig(),
    "hrnet": HRNetConfig(width=40),
    "hrnet-w64": HRNetConfig(width=64),
    "blazepose": BlazePoseConfig(),
    "smallnet": SmallNetConfig(),
    "smallnet-wide": SmallNetConfig(channels=(64, 128, 224), blocks=(2, 3, 3), pyramid=64),
    "smallnet-inverted": SmallNetConfig(channels=(32, 80, 160), blocks=(2, 3, 3), block="inverted"),
    "smallnet-wide-kernel": SmallNetConfig(channels=(48, 96, 192), blocks=(2, 2, 3), block="wide_kernel"),
}
"""The paper's backbones, as its code calls them; and those to compare the default one with, BlazePose as published."""


def with_architecture(config: MetroConfig, name: str) -> MetroConfig:
    """A network with another of ARCHITECTURES, pooled as before. Raises ConfigError where that can't be."""
    if name not in ARCHITECTURES:
        raise ConfigError("backbone", expected=" or ".join(ARCHITECTURES), got=name)
    backbone = ARCHITECTURES[name]
    if isinstance(backbone, SeeingConfig):
        return replace(config, backbone=backbone)
    return replace(config, backbone=replace(backbone, pooled=_is_pooled(config)))


def build(config: MetroConfig, mesh: MeshSpec) -> Metro:
    """The network of `config` for `mesh`, randomly initialised, in training mode.

    Raises:
        ConfigError: the config and the mesh do not fit.
    """
    if len(config.train_upsampling) != len(mesh.level_sizes) - 1:
        expected = f"{len(mesh.level_sizes) - 1} values for levels {mesh.level_sizes}"
        raise ConfigError("train_upsampling", expected=expected, got=config.train_upsampling)
    backbone = _build_backbone(config, mesh)
    if config.image_size % backbone.stride:
        raise ConfigError("image_size", expected=f"a multiple of {backbone.stride}", got=config.image_size)
    if isinstance(config.backbone, BlazePoseConfig) and not 160 <= config.image_size <= 256:
        raise ConfigError("image_size of BlazePose", expected="160 to 256", got=config.image_size)
    keypoint_head = reliability_head = None
    if config.keypoints:
        keypoint_head = KeypointHead(joints=mesh.joint_count, image_channels=backbone.out_channels)
    if config.reliability_mm is not None:
        reliability_head = ReliabilityHead(joints=mesh.joint_count)
    return Metro(
        mesh=mesh,
        backbone=backbone,
        grid_cells=None if _is_pooled(config) else (config.image_size // backbone.stride) ** 2,
        keypoint_head=keypoint_head,
        joint_features=_joint_features(config),
        reliability_head=reliability_head,
        blocks=_build_blocks(config, token_features(config, mesh), mesh),
        camera=config.camera,
        camera_hidden=config.camera_hidden,
        train_upsampling=config.train_upsampling,
    )


def token_features(config: MetroConfig, mesh: MeshSpec) -> int:
    """Numbers a token enters the first block with: template, image and, where the network sees
    them, all keypoints, and what is at its joint."""
    image = config.backbone.image_channels if isinstance(config.backbone, SeeingConfig) else OUT_CHANNELS
    return 3 + image + (3 * mesh.joint_count if config.keypoints else 0) + _joint_features(config)


def _joint_features(config: MetroConfig) -> int:
    """P of the backbone's fine map, 0 for a network whose tokens are not given it."""
    return config.backbone.pyramid if config.joint_features and isinstance(config.backbone, SeeingConfig) else 0


def _is_pooled(config: MetroConfig) -> bool:
    return not isinstance(config.backbone, SeeingConfig) and config.backbone.pooled


def _build_backbone(config: MetroConfig, mesh: MeshSpec) -> Backbone:
    spec = config.backbone
    if isinstance(spec, ResNetConfig):
        return ResNet(depth=spec.depth, pooled=spec.pooled)
    if isinstance(spec, HRNetConfig):
        return HRNet(width=spec.width, pooled=spec.pooled)
    if isinstance(spec, BlazePoseConfig):
        return BlazePose(joints=mesh.joint_count, width=spec.width, refine=spec.refine)
    return SmallNet(
        joints=mesh.joint_count,
        stem_channels=spec.stem_channels,
        channels=spec.channels,
        blocks=spec.blocks,
        pyramid=spec.pyramid,
        refine=spec.refine,
        block=spec.block,
    )


def _build_blocks(config: MetroConfig, in_features: int, mesh: MeshSpec) -> list[TransformerBlock]:
    neighbours = torch.from_numpy(token_neighbours(mesh)) if config.attention == "local" else None
    blocks = []
    for block in config.blocks:
        blocks.append(
            TransformerBlock(
                in_features=in_features,
                hidden=block.hidden,
                feed_forward=block.feed_forward,
                out_features=block.out_features,
                layers=block.layers,
                heads=block.heads,
                position_rows=mesh.token_count if config.position_rows is None else config.position_rows,
                dropout=block.dropout,
                layer_norm_eps=config.layer_norm_eps,
                init_std=config.init_std,
                neighbours=neighbours,
            )
        )
        in_features = block.out_features
    return blocks


def count_parameters(module: nn.Module) -> int:
    """Numbers an optimiser could change, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())
