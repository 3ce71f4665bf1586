"""The convolutions of a TensorFlow Lite file, weights in half precision and sparse ones included."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metro_ros.core.errors import SourceError

MAX_BYTES = 64 << 20


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
        raise SourceError(f"{path} is no TensorFlow Lite file", expected="one of MediaPipe's", got=content[4:8])
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
        if kind in (kinds.DEQUANTIZE, kinds.DENSIFY):
            sources[int(operator.Outputs(0))] = int(inputs[0])
        if kind not in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D):
            continue
        weight, bias = (_tensor(model, graph, _stored(sources, int(i)), tflite) for i in inputs[1:3])
        # Stored as (O, k, k, I), or (1, k, k, C) channel by channel.
        order = (0, 3, 1, 2) if kind == kinds.CONV_2D else (3, 0, 1, 2)
        yield Convolution(np.ascontiguousarray(weight.transpose(order)), bias)


def _stored(sources: dict[int, int], index: int) -> int:
    """The tensor that lies in the file, of which this one is made."""
    while index in sources:
        index = sources[index]
    return index


def _tensor(model, graph, index: int, tflite) -> NDArray[np.float32]:  # type: ignore[no-untyped-def]
    tensor = graph.Tensors(index)
    types = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy()
    values = np.frombuffer(stored.tobytes(), types[tensor.Type()]).astype(np.float32)
    shape = tensor.ShapeAsNumpy()
    return values.reshape(shape) if tensor.Sparsity() is None else _densify(values, shape, tensor.Sparsity(), tflite)


def _densify(values: NDArray[np.float32], shape: NDArray[np.int32], sparsity, tflite) -> NDArray[np.float32]:  # type: ignore[no-untyped-def]
    """Rows of compressed columns, the one layout that is known here. Raises ValueError for another one."""
    last = sparsity.DimMetadataLength() - 1
    formats = [sparsity.DimMetadata(place).Format() for place in range(last + 1)]
    kinds = tflite.DimensionType
    if last + 1 != len(shape) or formats != [kinds.DENSE] * last + [kinds.SPARSE_CSR]:
        raise ValueError("sparse weights of an unknown layout")
    columns = sparsity.DimMetadata(last)
    ends = _indices(columns.ArraySegments(), columns.ArraySegmentsType(), tflite)
    places = _indices(columns.ArrayIndices(), columns.ArrayIndicesType(), tflite)
    dense = np.zeros((int(np.prod(shape[:-1])), int(shape[-1])), np.float32)
    dense[np.repeat(np.arange(len(dense)), np.diff(ends)), places] = values
    return dense.reshape(shape)


def _indices(table, kind: int, tflite) -> NDArray[np.int64]:  # type: ignore[no-untyped-def]
    """Whole numbers of a sparse dimension, of whichever width they are stored in."""
    vectors = {
        tflite.SparseIndexVector.Int32Vector: tflite.Int32Vector,
        tflite.SparseIndexVector.Uint16Vector: tflite.Uint16Vector,
        tflite.SparseIndexVector.Uint8Vector: tflite.Uint8Vector,
    }
    vector = vectors[kind]()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), np.int64)


def set_convolution(module: nn.Conv2d, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Copy them; call it without gradients."""
    assert module.bias is not None
    module.weight.copy_(torch.from_numpy(weight))
    module.bias.copy_(torch.from_numpy(bias))
