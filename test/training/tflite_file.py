"""A TensorFlow Lite file of convolutions, as MediaPipe's are: weights in half precision, widened by an operator."""

from collections.abc import Sequence

import flatbuffers
import numpy as np
import tflite
from torch import nn

from training.blazepose import LANDMARKS, BlazePose
from training.mediapipe_weights import file_order


def write_tflite(modules: Sequence[nn.Conv2d], sparse: bool = False) -> bytes:
    """A graph of these convolutions in their order, not joined to each other; sparse: pointwise ones without zeros."""
    builder = flatbuffers.Builder()
    buffers, tensors, operators = [_buffer(builder, b"")], [], []

    def tensor(shape: Sequence[int], kind: int, content: bytes = b"", columns: int | None = None) -> int:
        if content:
            buffers.append(_buffer(builder, content))
        shapes = builder.CreateNumpyVector(np.asarray(shape, np.int32))
        tflite.TensorStart(builder)
        tflite.TensorAddShape(builder, shapes)
        tflite.TensorAddType(builder, kind)
        tflite.TensorAddBuffer(builder, len(buffers) - 1 if content else 0)
        if columns is not None:
            tflite.TensorAddSparsity(builder, columns)
        tensors.append(tflite.TensorEnd(builder))
        return len(tensors) - 1

    def operator(code: int, inputs: Sequence[int], output: int) -> None:
        ins, outs = (builder.CreateNumpyVector(np.asarray(places, np.int32)) for places in (inputs, [output]))
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, code)
        tflite.OperatorAddInputs(builder, ins)
        tflite.OperatorAddOutputs(builder, outs)
        operators.append(tflite.OperatorEnd(builder))

    half, single = tflite.TensorType.FLOAT16, tflite.TensorType.FLOAT32
    for module in modules:
        is_depthwise = module.groups > 1
        order = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
        places = [tensor([1, 8, 8, module.in_channels], single)]
        for value in (module.weight.detach().numpy().transpose(order), module.bias.detach().numpy()):
            halves = np.ascontiguousarray(value, np.float16)
            if sparse and value.ndim == 4 and not is_depthwise and value.shape[1:3] == (1, 1):
                stored = tensor(value.shape, half, halves[halves != 0].tobytes(), _columns(builder, halves))
                operator(3, [stored], stored := tensor(value.shape, half))
            else:
                stored = tensor(value.shape, half, halves.tobytes())
            places.append(tensor(value.shape, single))
            operator(2, [stored], places[-1])
        operator(1 if is_depthwise else 0, places, tensor([1, 8, 8, module.out_channels], single))

    kinds = tflite.BuiltinOperator
    codes = []
    for kind in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.DEQUANTIZE, kinds.DENSIFY):
        tflite.OperatorCodeStart(builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, kind)
        tflite.OperatorCodeAddBuiltinCode(builder, kind)
        codes.append(tflite.OperatorCodeEnd(builder))
    tensor_list, operator_list = _vector(builder, tensors), _vector(builder, operators)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensor_list)
    tflite.SubGraphAddOperators(builder, operator_list)
    graphs = _vector(builder, [tflite.SubGraphEnd(builder)])
    code_list, buffer_list = _vector(builder, codes), _vector(builder, buffers)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, code_list)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, buffer_list)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _columns(builder: flatbuffers.Builder, weight: np.ndarray) -> int:
    """Which columns of each row of a weight (O, 1, 1, I) are stored, as MediaPipe's files say it."""
    rows, places = np.nonzero(weight[:, 0, 0])
    ends = np.concatenate([[0], np.bincount(rows, minlength=len(weight)).cumsum()])

    def vector(values: np.ndarray, small: bool) -> int:
        content = builder.CreateNumpyVector(values.astype(np.uint8 if small else np.uint16))
        table = tflite.Uint8Vector if small else tflite.Uint16Vector
        start, add, end = (getattr(tflite, f"{table.__name__}{part}") for part in ("Start", "AddValues", "End"))
        start(builder)
        add(builder, content)
        return end(builder)

    segments, indices = vector(ends, False), vector(places, True)
    kinds, dimensions = tflite.SparseIndexVector, []
    for size in weight.shape[:3]:
        tflite.DimensionMetadataStart(builder)
        tflite.DimensionMetadataAddFormat(builder, tflite.DimensionType.DENSE)
        tflite.DimensionMetadataAddDenseSize(builder, size)
        dimensions.append(tflite.DimensionMetadataEnd(builder))
    tflite.DimensionMetadataStart(builder)
    tflite.DimensionMetadataAddFormat(builder, tflite.DimensionType.SPARSE_CSR)
    tflite.DimensionMetadataAddArraySegmentsType(builder, kinds.Uint16Vector)
    tflite.DimensionMetadataAddArraySegments(builder, segments)
    tflite.DimensionMetadataAddArrayIndicesType(builder, kinds.Uint8Vector)
    tflite.DimensionMetadataAddArrayIndices(builder, indices)
    dimensions.append(tflite.DimensionMetadataEnd(builder))
    order = builder.CreateNumpyVector(np.arange(4, dtype=np.int32))
    metadata = _vector(builder, dimensions)
    tflite.SparsityParametersStart(builder)
    tflite.SparsityParametersAddTraversalOrder(builder, order)
    tflite.SparsityParametersAddDimMetadata(builder, metadata)
    return tflite.SparsityParametersEnd(builder)


def write_pose_network(
    backbone: BlazePose, in_pixels: nn.Conv2d | None = None, in_metres: nn.Conv2d | None = None
) -> bytes:
    """A file in the order of MediaPipe's, those convolutions made up that METRO has no use for."""
    channels = backbone.landmarks.in_channels
    order = [nn.Conv2d(3, 3, 1) if module is None else module for module in file_order(backbone)]
    order += [in_pixels or nn.Conv2d(channels, 5 * LANDMARKS, 2), in_metres or nn.Conv2d(channels, 3 * LANDMARKS, 2)]
    return write_tflite([*order, nn.Conv2d(channels, 1, 2)])


def _buffer(builder: flatbuffers.Builder, content: bytes) -> int:
    data = builder.CreateByteVector(content)
    tflite.BufferStart(builder)
    tflite.BufferAddData(builder, data)
    return tflite.BufferEnd(builder)


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()
