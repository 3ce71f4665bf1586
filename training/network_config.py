"""What shapes a network, but the mesh: frozen values that a checkpoint keeps; training.build makes networks of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from metro_ros.core.errors import ConfigError
from training.backbone import BLOCKS
from training.blazepose import LANDMARK_NUMBERS, NO_REFINEMENT, PYRAMID, REGRESSED, scaled
from training.network import CameraSource
from training.resnet import LAYERS

Attention = Literal["free", "local"]
"""Which tokens a token attends to: all, or its neighbours on mesh and skeleton, as a graph convolution would see them
(the paper's ablation of non-local interactions); see neighbours.token_neighbours."""


@dataclass(frozen=True, slots=True)
class SmallNetConfig:
    """See backbone.SmallNet. Strides 4, 8, 16."""

    stem_channels: int = 32
    channels: tuple[int, ...] = (32, 96, 192)
    blocks: tuple[int, ...] = (2, 2, 2)
    pyramid: int = 48
    refine: int = 2
    block: str = "basic"

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ConfigError("SmallNet block", expected=" or ".join(BLOCKS), got=self.block)

    @property
    def image_channels(self) -> int:
        return self.channels[-1]


@dataclass(frozen=True, slots=True)
class BlazePoseConfig:
    """See blazepose.BlazePose. Stride 32."""

    width: float = 1.0
    refine: tuple[int, ...] = NO_REFINEMENT

    def __post_init__(self) -> None:
        if not 0 < self.width <= 4:
            raise ConfigError("BlazePose width", expected="above 0, at most 4", got=self.width)
        if len(self.refine) != len(NO_REFINEMENT) or min(self.refine) < 0:
            raise ConfigError("BlazePose refine", expected="a number of blocks at strides 4, 8, 16", got=self.refine)

    @property
    def pyramid(self) -> int:
        return scaled(PYRAMID, self.width)

    @property
    def image_channels(self) -> int:
        return scaled(REGRESSED, self.width) + LANDMARK_NUMBERS


@dataclass(frozen=True, slots=True)
class HRNetConfig:
    """See hrnet.HRNet. Stride 32."""

    width: int = 64
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """See resnet.ResNet. Stride 32."""

    depth: int = 50
    pooled: bool = False

    def __post_init__(self) -> None:
        if self.depth not in LAYERS:
            raise ConfigError("ResNet depth", expected=" or ".join(map(str, LAYERS)), got=self.depth)


SeeingConfig = SmallNetConfig | BlazePoseConfig
"""Backbones with heatmaps, a mask and a surface, whose map is never pooled."""
BackboneConfig = SeeingConfig | HRNetConfig | ResNetConfig


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """One transformer block."""

    hidden: int
    feed_forward: int
    out_features: int
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class MetroConfig:
    """Everything that shapes a network, but the mesh.

    Attributes:
        image_size: S, crop side in pixels.
        backbone: which one, and its widths.
        blocks: transformer blocks, the last with out_features 3.
        keypoints: give every token the keypoints and confidences of the backbone's heatmaps.
        joint_features: give every joint's token, too, the backbone's fine map where its heatmap says that it is; only
            with keypoints. (METRO's tokens all mix the whole map, each by weights that the picture does not change.)
        camera, camera_hidden: see network.CameraSource.
        position_rows: rows of the position table; None for as many as there are tokens (512 in the original files).
        mask_ratio: the most that masked vertex modelling hides in training.
        train_upsampling: per step, whether it is learned.
        layer_norm_eps: 1e-12 in the original (0 in FP16: keep LayerNorm in FP32).
        init_std: of linear weights and position tables inside the blocks.
        attention: see Attention; "local" needs a mesh with faces.
        reliability_mm: the network also says how likely each joint is to be so close to the truth, both root-relative;
            None before training.calibrate has fitted that.
    """

    name: str
    image_size: int
    backbone: BackboneConfig
    blocks: tuple[BlockConfig, ...]
    keypoints: bool
    camera: CameraSource
    camera_hidden: int
    position_rows: int | None
    mask_ratio: float
    train_upsampling: tuple[bool, ...]
    layer_norm_eps: float
    init_std: float
    joint_features: bool = False
    attention: Attention = "free"
    reliability_mm: float | None = None

    def __post_init__(self) -> None:
        if not self.blocks or self.blocks[-1].out_features != 3:
            raise ConfigError("network blocks", expected="the last one to have out_features 3", got=self.blocks)
        if self.camera == "keypoints" and not self.keypoints:
            raise ConfigError("network camera", expected="keypoints=True for camera 'keypoints'", got=self.keypoints)
        if self.keypoints and not isinstance(self.backbone, SeeingConfig):
            raise ConfigError("network keypoints", expected="a backbone with heatmaps", got=self.backbone)
        if self.joint_features and not self.keypoints:
            raise ConfigError("network joint_features", expected="keypoints=True", got=self.keypoints)
        if self.reliability_mm is not None and not (self.keypoints and self.reliability_mm > 0):
            expected = "keypoints=True and millimetres above 0"
            raise ConfigError(
                "network reliability_mm", expected=expected, got=f"{self.keypoints}, {self.reliability_mm}"
            )
        if self.attention not in get_args(Attention):
            raise ConfigError("network attention", expected=" or ".join(get_args(Attention)), got=self.attention)


BACKBONES: dict[str, type[BackboneConfig]] = {
    "smallnet": SmallNetConfig, "blazepose": BlazePoseConfig, "hrnet": HRNetConfig, "resnet": ResNetConfig
}  # fmt: skip


def config_to_dict(config: MetroConfig) -> dict[str, Any]:
    """Plain containers and numbers, for a checkpoint; `config_from_dict` reads back an equal config."""
    kind = next(kind for kind, cls in BACKBONES.items() if isinstance(config.backbone, cls))
    return {**asdict(config), "backbone": {"kind": kind, **asdict(config.backbone)}}


def config_from_dict(fields: Mapping[str, Any]) -> MetroConfig:
    """Inverse of `config_to_dict`. Raises ConfigError when fields are missing or unknown."""
    try:
        backbone = dict(fields["backbone"])
        kind = BACKBONES[backbone.pop("kind")]
        blocks = tuple(BlockConfig(**block) for block in fields["blocks"])
        return MetroConfig(**{**fields, "backbone": kind(**backbone), "blocks": blocks})
    except (KeyError, TypeError) as error:
        raise ConfigError("network config", expected="the fields of MetroConfig", got=repr(error)) from error
