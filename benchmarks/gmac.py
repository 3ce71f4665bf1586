"""How much arithmetic a network takes."""

import numpy as np
import onnx
from onnx import numpy_helper

from metro_ros.core.bundle import Bundle


def count_gmac(bundle: Bundle) -> float:
    """Multiply-accumulates of one person in 1e9: every Conv, MatMul and Gemm of the model, for N = 1."""
    model = onnx.load(str(bundle.model_path))
    for axis in model.graph.input[0].type.tensor_type.shape.dim[:1]:
        axis.dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    shapes |= {tensor.name: list(numpy_helper.to_array(tensor).shape) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        outputs = [max(1, size) for size in shapes[node.output[0]]]
        weights = shapes[node.input[1]]
        inner = int(np.prod(weights[1:])) if node.op_type == "Conv" else max(1, shapes[node.input[0]][-1])
        total += int(np.prod(outputs)) * inner
    return total / 1e9
