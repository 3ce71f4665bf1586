"""A pose_detector.onnx of a few nodes: a finder's, whose box is of a head, with a body of three heads below it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_finder import tiny_finder

from metro_ros.core.bundle import Bundle, add_part


def add_tiny_pose_detector(bundle: Bundle, size: int = 64, score: float = 0.5) -> Bundle:
    """Make the bundle have one, that takes whom it scores `score` or more."""
    model = tiny_pose_detector(size).SerializeToString()
    return add_part(bundle, "pose_detector", model, {"size": size, "score": score})


def tiny_pose_detector(size: int, heads: str = "heads") -> onnx.ModelProto:
    """image uint8 (N, S, S, 3) → boxes (N, 3, 4), four times what is bright high, scores (N, 3), heads (N, 3, 2)."""
    model = tiny_finder(size, size, ("head_boxes", "scores"))
    weights = {
        "body": np.array([[1, 0, 0, 0], [0, 1, 0, -3], [0, 0, 1, 0], [0, 0, 0, 4]], np.float32),
        "middle": np.array([[0.5, 0], [0, 0.5], [0.5, 0], [0, 0.5]], np.float32),
    }
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("MatMul", ["head_boxes", "body"], ["boxes"]),
            helper.make_node("MatMul", ["head_boxes", "middle"], [heads]),
        ]
    )
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    del graph.output[:]
    for name, shape in (("boxes", ["N", 3, 4]), ("scores", ["N", 3]), (heads, ["N", 3, 2])):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    return model
