"""An attention view for the tiny bundle: its own network's joints, coarsest vertices and camera, and a given matrix."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from metro_ros.core.bundle import Bundle, add_part


def add_tiny_attention(bundle: Bundle, weights: npt.ArrayLike, *, output_name: str = "attention") -> Bundle:
    """Write the part into the bundle; it answers `weights` (T, T) for every crop, under `output_name`."""
    matrix = np.asarray(weights, np.float32)
    model = onnx.load(bundle.model_path)
    graph = model.graph
    renamed = {"vertices": "finest"}
    for node in graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
    constants = {"coarse_rows": bundle.rows[0].astype(np.int64), "matrix": matrix, "tail": np.array(matrix.shape)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Gather", ["finest", "coarse_rows"], ["vertices"], axis=1),
            helper.make_node("Concat", ["batch", "tail"], ["attention_shape"], axis=0),
            helper.make_node("Expand", ["matrix", "attention_shape"], [output_name]),
        ]
    )
    outputs = {
        "joints": (len(bundle.skeleton), 3),
        "vertices": (bundle.levels[0], 3),
        "camera": (3,),
        output_name: matrix.shape,
    }
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in outputs.items()
    )
    onnx.checker.check_model(model)
    return add_part(bundle, "attention", model.SerializeToString(), {})


def spread_attention(bundle: Bundle, toward: dict[int, int]) -> npt.NDArray[np.float32]:
    """(T, T) rows that sum to 1: even, but that token `i` gives half of its attention to `toward[i]`."""
    tokens = len(bundle.skeleton) + bundle.levels[0]
    weights = np.full((tokens, tokens), 1 / tokens, np.float32)
    for token, other in toward.items():
        weights[token] = 0.5 / (tokens - 1)
        weights[token, other] = 0.5
    return weights
