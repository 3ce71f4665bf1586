"""The weights of MediaPipe's pose network into a BlazePose backbone, from the file in MediaPipe's own package.

`pip download --no-deps mediapipe==0.10.21`; the wheel, a zip file, holds
mediapipe/modules/pose_landmark/pose_landmark_full.tflite (6.4 MB, Apache-2.0, trained by Google on photographs).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metro_ros.core.errors import ConfigError, SourceError
from training.blazepose import LANDMARKS, BlazePose

MAX_BYTES = 64 << 20
_PER_LANDMARK = 5
"""x, y, z, visibility and presence of each, in the regression in pixels."""
_VISIBILITY = 3
_MASK_AND_HEATMAPS = 12
"""Convolutions of the file between the pyramid and the regression."""


class Convolution(NamedTuple):
    """weight (O, I, k, k), or (C, 1, k, k) channel by channel, and bias (O,), float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def read_convolutions(path: Path) -> list[Convolution]:
    """All of a TensorFlow Lite file, in the order they run in.

    Raises:
        SourceError: no such file, too large, or not what it should be.
    """
    try:
        import tflite  # type: ignore[import-untyped]
    except ImportError as error:
        raise SourceError(
            f"cannot read {path}", expected="the package tflite", got="none", remedy="pip install tflite"
        ) from error
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SourceError(f"{path} is too large", expected=f"at most {MAX_BYTES >> 20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}", got=error.strerror or error) from error
    if content[4:8] != b"TFL3":
        raise SourceError(
            f"{path} is no TensorFlow Lite file", expected="pose_landmark_full.tflite of MediaPipe", got=content[4:8]
        )
    try:
        return list(_convolutions(tflite.Model.GetRootAsModel(content, 0), tflite))
    except (IndexError, ValueError, KeyError, AttributeError, TypeError, OverflowError, struct.error) as error:
        # An offset that leads out of the file: flatbuffers' readers check nothing.
        raise SourceError(f"{path} is damaged", expected="a whole TensorFlow Lite file", got=error) from error


def _convolutions(model, tflite) -> Iterator[Convolution]:  # type: ignore[no-untyped-def]
    graph = model.Subgraphs(0)
    kinds = tflite.BuiltinOperator
    sources: dict[int, int] = {}  # of what is stored narrow and widened when it is loaded
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        inputs = operator.InputsAsNumpy()
        if kind == kinds.DEQUANTIZE:
            sources[int(operator.Outputs(0))] = int(inputs[0])
        if kind not in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D):
            continue
        weight, bias = (_tensor(model, graph, sources.get(int(i), int(i)), tflite) for i in inputs[1:3])
        # Stored as (O, k, k, I), or (1, k, k, C) channel by channel.
        order = (0, 3, 1, 2) if kind == kinds.CONV_2D else (3, 0, 1, 2)
        yield Convolution(np.ascontiguousarray(weight.transpose(order)), bias)


def _tensor(model, graph, index: int, tflite) -> NDArray[np.float32]:  # type: ignore[no-untyped-def]
    tensor = graph.Tensors(index)
    types = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy()
    return np.frombuffer(stored.tobytes(), types[tensor.Type()]).reshape(tensor.ShapeAsNumpy()).astype(np.float32)


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
        _set(module, one.weight, one.bias)
    in_pixels, in_metres = stored[len(order)], stored[len(order) + 1]
    seen = slice(_VISIBILITY, _PER_LANDMARK * LANDMARKS, _PER_LANDMARK)
    weight, bias = (np.concatenate([a, b[seen]]) for a, b in zip(in_metres, in_pixels, strict=True))
    _set(backbone.landmarks, weight, bias)


def _set(module: nn.Conv2d, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    assert module.bias is not None
    module.weight.copy_(torch.from_numpy(weight))
    module.bias.copy_(torch.from_numpy(bias))
