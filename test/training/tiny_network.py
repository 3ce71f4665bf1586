"""Small meshes and networks that are real, only tiny."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from training.build import default, paper_body, paper_hand
from training.mesh_spec import MeshSpec
from training.network import Metro
from training.network_config import BlockConfig, HRNetConfig, MetroConfig, SmallNetConfig


def make_mesh(level_sizes: tuple[int, ...] = (6, 10, 20), joints: int = 5) -> MeshSpec:
    random = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    finest = level_sizes[-1]
    return MeshSpec(
        name="tiny",
        joint_names=tuple(f"joint_{index}" for index in range(joints)),
        joint_parents=tuple(range(-1, joints - 1)),
        root_joints=(1, 2),
        level_sizes=level_sizes,
        template_tokens=array(joints + level_sizes[0], 3),
        joint_regressor=array(joints, finest),
        template=array(finest, 3),
        faces=tuple(random.integers(0, size, (8, 3)).astype(np.int32) for size in level_sizes),
        rows=tuple(np.arange(size, dtype=np.int32) for size in level_sizes),
        upsampling=tuple(array(fine, coarse) / coarse for coarse, fine in pairwise(level_sizes)),
    )


def small_blocks(hidden: tuple[int, ...]) -> tuple[BlockConfig, ...]:
    outs = (*(width // 2 for width in hidden[:-1]), 3)
    return tuple(
        BlockConfig(hidden=width, feed_forward=2 * width, out_features=out, layers=2, heads=2)
        for width, out in zip(hidden, outs, strict=True)
    )


def small_config(kind: str, hidden: tuple[int, ...] = (16, 8)) -> MetroConfig:
    """Each preset, shrunk: "default", "paper_body" or "paper_hand"."""
    preset = {"default": default, "paper_body": paper_body, "paper_hand": paper_hand}[kind]()
    shrunk = replace(
        preset, image_size=64, blocks=small_blocks(hidden), camera_hidden=7, position_rows=40, init_std=0.3,
        train_upsampling=(True, False),
    )  # fmt: skip
    if kind == "default":
        return replace(shrunk, backbone=SmallNetConfig(8, (8, 12, 16), (1, 1, 2), 12, 1))
    return replace(shrunk, backbone=HRNetConfig(width=4, pooled=kind == "paper_hand"))


def scramble(metro: Metro, size: int = 64) -> Metro:
    """No bias or gain at its initial 0 or 1 and real batch statistics, so that nothing is forgotten; eval mode."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in metro.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for module in metro.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain average of what it sees
        metro.backbone.train()(torch.randn(8, 3, size, size, generator=generator))
    return metro.eval()
