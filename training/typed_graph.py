"""A bundle's ONNX model in a narrower floating-point format, strongly typed: the types in the file are the arithmetic.

Convolutions and matrix products, with what lies between them, get narrow; their inputs and outputs are cast where they
meet the rest. In fp32 stay LayerNorm, softmax, GELU, the sums along the residual streams of the transformer, the last
block and all after it, everything around the keypoints, and the backbone's first convolutions as far as is asked.
"""

from __future__ import annotations

import copy
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from metro_ros.core.errors import MetroError

Format = Literal["bf16", "fp16"]

TYPES: dict[str, int] = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
NUMPY_TYPES: dict[str, type] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
OPSETS: dict[str, int] = {"bf16": 22, "fp16": 18}
"""The first opset whose Conv has the type, and no less than the exporter's."""
BETWEEN = frozenset({"Relu", "Clip", "Add", "Resize", "Transpose", "Reshape", "Split", "GlobalAveragePool", "MaxPool"})
"""Operators that follow the type of what they are given."""


class GraphError(MetroError):
    """A model cannot be made narrower."""


def narrow_nodes(model: onnx.ModelProto, wide_convolutions: int = 1) -> frozenset[int]:
    """The nodes that are worth a narrower format and can bear it.

    Args:
        wide_convolutions: so many of the backbone's first convolutions stay fp32.

    Returns:
        Their places in `model.graph.node`.

    Raises:
        GraphError: there are no convolutions or no LayerNormalization to tell the parts of the network by.
    """
    nodes = list(model.graph.node)
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    norms = [index for index, node in enumerate(nodes) if node.op_type == "LayerNormalization"]
    if not convolutions or not norms:
        raise GraphError("the model", expected="convolutions and LayerNormalization nodes", got="a graph without")
    weights = {tensor.name for tensor in model.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    wide = set(convolutions[:wide_convolutions])
    chosen: set[int] = set()
    made_narrow: set[str] = set()
    for index, node in enumerate(nodes[: _start_of_last_block(model, norms)]):
        activations = [name for name in node.input if name and name not in weights]
        if node.op_type == "Conv":
            narrow_here = index not in wide
        elif node.op_type == "MatMul":
            # The layers' own; what leads past them, straight to coordinates in metres, has no bias of its own.
            narrow_here = len(activations) == 2 or _has_bias(node, users, weights)
        elif node.op_type == "Add" and index > convolutions[-1] and len(activations) == 2:
            narrow_here = False  # a residual stream
        else:
            narrow_here = node.op_type in BETWEEN and any(name in made_narrow for name in activations)
        if narrow_here:
            chosen.add(index)
            made_narrow.update(node.output)
    return frozenset(chosen)


def _has_bias(node: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]], weights: set[str]) -> bool:
    """Whether a product's only use is the sum with a constant."""
    following = users.get(node.output[0], [])
    return len(following) == 1 and following[0].op_type == "Add" and any(name in weights for name in following[0].input)


def _start_of_last_block(model: onnx.ModelProto, norms: list[int]) -> int:
    """The place after the last LayerNorm of the block before the last; blocks are told by their widths.

    A network of one width gets no place past its first LayerNorm: all its blocks stay as they are.
    """
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 1}
    widths = [sizes.get(model.graph.node[index].input[1], 0) for index in norms]
    first_of_last = widths.index(widths[-1])
    return norms[first_of_last - 1] + 1 if first_of_last else norms[0]


def narrow(model: onnx.ModelProto, chosen: frozenset[int], number_format: Format) -> onnx.ModelProto:
    """The model with the chosen nodes in `number_format`; inputs and outputs keep their types."""
    to = TYPES[number_format]
    result = copy.deepcopy(model)
    if OPSETS[number_format] > model.opset_import[0].version:
        result = version_converter.convert_version(result, OPSETS[number_format])
    graph = onnx.shape_inference.infer_shapes(result).graph
    floats = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    made_narrow = {
        name for index, node in enumerate(graph.node) if index in chosen for name in node.output if name in floats
    }
    casts: set[str] = set()
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, suffix: str, kind: int) -> str:
        if name + suffix not in casts:
            casts.add(name + suffix)
            nodes.append(helper.make_node("Cast", [name], [name + suffix], name=name + suffix, to=kind))
        return name + suffix

    narrow_weights: dict[str, TensorProto] = {}
    for index, node in enumerate(graph.node):
        for place, name in enumerate(node.input):
            if node.op_type == "Resize" and place > 0:
                continue  # its scales are fp32 by the specification
            if index not in chosen:
                if name in made_narrow:
                    node.input[place] = cast(name, ".wide", TensorProto.FLOAT)
            elif name in weights:
                narrow_weights.setdefault(name, _round(weights[name], number_format))
                node.input[place] = narrow_weights[name].name
            elif name in floats and name not in made_narrow:
                node.input[place] = cast(name, f".{number_format}", to)
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in [*result.graph.initializer, *narrow_weights.values()] if tensor.name in used]
    del result.graph.initializer[:], result.graph.value_info[:]
    result.graph.initializer.extend(kept)
    return result


def rounded(model: onnx.ModelProto, number_format: Format) -> onnx.ModelProto:
    """What a narrow model computes, for machines that cannot: in fp32, each narrow tensor rounded where it is made.

    Sums are kept in fp32 within an operator, as GPUs and the CPUs' dot products keep them.
    """
    to = TYPES[number_format]
    result = copy.deepcopy(model)
    narrow_names = {tensor.name for tensor in result.graph.initializer if tensor.data_type == to}
    nodes: list[onnx.NodeProto] = []
    for place, node in enumerate(result.graph.node):
        if node.op_type == "Cast":
            nodes.append(node)
            if node.attribute[0].i == to:
                narrow_names.add(node.output[0])
            continue
        narrow_here = False
        for index, name in enumerate(node.input):
            if name in narrow_names:
                narrow_here = True
                up = f"{name}.{place}.up"
                if up not in {output for known in nodes[-len(node.input) :] for output in known.output}:
                    nodes.append(helper.make_node("Cast", [name], [up], name=up, to=TensorProto.FLOAT))
                node.input[index] = up
        nodes.append(node)
        if narrow_here:
            for index, name in enumerate(node.output):
                node.output[index] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [name], name=f"{name}.rounded", to=to))
                narrow_names.add(name)
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    return result


def _round(tensor: TensorProto, number_format: Format) -> TensorProto:
    """A weight in the format, under a name of its own. Raises GraphError when it is outside of the format's range."""
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        rounded_values: npt.NDArray = values.astype(NUMPY_TYPES[number_format])
    if not np.isfinite(rounded_values.astype(np.float32)).all():
        raise GraphError(f"{tensor.name} in {number_format}", expected="finite weights", got=f"up to {values.max():g}")
    return numpy_helper.from_array(rounded_values, f"{tensor.name}.{number_format}")
