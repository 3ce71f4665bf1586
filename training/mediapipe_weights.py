"""The weights of MediaPipe's pose network into a BlazePose backbone, from the file in MediaPipe's own package.

`pip download --no-deps mediapipe==0.10.21`; the wheel, a zip file, holds
mediapipe/modules/pose_landmark/pose_landmark_full.tflite (6.4 MB, Apache-2.0, trained by Google on photographs).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from metro_ros.core.errors import ConfigError
from training.blazepose import LANDMARKS, BlazePose
from training.tflite_weights import read_convolutions, set_convolution

_PER_LANDMARK = 5
"""x, y, z, visibility and presence of each, in the regression in pixels."""
_VISIBILITY = 3
_MASK_AND_HEATMAPS = 12
"""Convolutions of the file between the pyramid and the regression."""


def file_order(backbone: BlazePose) -> list[nn.Conv2d | None]:
    """The backbone's convolutions as pose_landmark_full.tflite has them; None for those of its mask and heatmaps.

    A lateral comes behind the first convolution of the next stage.
    """
    order: list[Any] = [*backbone.trunk.stem]
    pending: list[Any] = [None, None]  # the mask's own lateral, at stride 2
    for stage, lateral in zip(backbone.trunk.stages, backbone.laterals, strict=True):
        for block in cast(nn.Sequential, stage):
            order += [block.expand, *pending, block.depthwise, block.project]
            pending = []
        pending = [lateral.depthwise, lateral.pointwise]
    order += [*backbone.top, *pending]
    order += [None] * _MASK_AND_HEATMAPS
    order += [backbone.reduce.depthwise, backbone.reduce.pointwise]
    for block in backbone.regression:
        order += [block.depthwise, block.pointwise]
    return order


@torch.no_grad()
def load_mediapipe_weights(backbone: nn.Module, path: Path) -> None:
    """Set every weight but those of the dense head, which is METRO's own.

    Raises:
        SourceError: see read_convolutions.
        ConfigError: another backbone, or the weights of another network; the backbone is then unchanged.
    """
    if not isinstance(backbone, BlazePose):
        raise ConfigError(
            f"weights of {path}", expected="a BlazePose backbone", got=type(backbone).__name__,
            remedy="--architecture blazepose",
        )  # fmt: skip
    stored = read_convolutions(path)
    order = file_order(backbone)
    pairs = [(module, one) for module, one in zip(order, stored, strict=False) if module is not None]
    fits = len(stored) == len(order) + 3  # image landmarks, metres, and whether there is a person
    if not fits or any(tuple(module.weight.shape) != one.weight.shape for module, one in pairs):
        raise ConfigError(
            f"weights of {path}",
            expected="those of pose_landmark_full.tflite, and a backbone of width 1",
            got=f"{len(stored)} convolutions",
        )
    for module, one in pairs:
        set_convolution(module, one.weight, one.bias)
    in_pixels, in_metres = stored[len(order)], stored[len(order) + 1]
    seen = slice(_VISIBILITY, _PER_LANDMARK * LANDMARKS, _PER_LANDMARK)
    weight, bias = (np.concatenate([a, b[seen]]) for a, b in zip(in_metres, in_pixels, strict=True))
    set_convolution(backbone.landmarks, weight, bias)
