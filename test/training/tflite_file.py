"""A TensorFlow Lite file of convolutions, as MediaPipe's are: weights in half precision, widened by an operator."""

from collections.abc import Sequence

import flatbuffers
import numpy as np
import tflite
from torch import nn

from training.blazepose import LANDMARKS, BlazePose
from training.mediapipe_weights import file_order


def write_tflite(modules: Sequence[nn.Conv2d]) -> bytes:
    """A graph of these convolutions in their order, not joined to each other."""
    builder = flatbuffers.Builder()
    buffers, tensors, operators = [_buffer(builder, b"")], [], []

    def tensor(shape: Sequence[int], kind: int, content: bytes = b"") -> int:
        if content:
            buffers.append(_buffer(builder, content))
        shapes = builder.CreateNumpyVector(np.asarray(shape, np.int32))
        tflite.TensorStart(builder)
        tflite.TensorAddShape(builder, shapes)
        tflite.TensorAddType(builder, kind)
        tflite.TensorAddBuffer(builder, len(buffers) - 1 if content else 0)
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
            stored = tensor(value.shape, half, np.ascontiguousarray(value, np.float16).tobytes())
            places.append(tensor(value.shape, single))
            operator(2, [stored], places[-1])
        operator(1 if is_depthwise else 0, places, tensor([1, 8, 8, module.out_channels], single))

    kinds = tflite.BuiltinOperator
    codes = []
    for kind in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.DEQUANTIZE):
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
