"""A finder.onnx of a few nodes that finds the bright pixels of its input, so that boxes can be told right from wrong.

It answers three times: the box around all bright pixels; the same, a pixel to the right, for a little less, as two
neighbouring peaks do; and the whole input for a third. Its scores are the brightness of the brightest pixel, and
nothing when that is dark. A saturated red pixel makes its boxes NaN.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from metro_ros.core.bundle import Bundle, add_part

SCORES = (1.0, 0.9, 0.3)


def add_tiny_finder(bundle: Bundle, width: int = 64, height: int = 48, score: float = 0.5) -> Bundle:
    """Make the bundle have one, that takes whom it scores `score` or more."""
    model = tiny_finder(width, height).SerializeToString()
    return add_part(bundle, "finder", model, {"width": width, "height": height, "score": score})


def tiny_finder(width: int, height: int, outputs: tuple[str, str] = ("boxes", "scores")) -> onnx.ModelProto:
    """image uint8 (N, H, W, 3) → boxes (N, 3, 4) and scores (N, 3)."""
    boxes, scores = outputs
    weights = {
        "to_unit": np.float32(1 / 255),
        "half": np.float32(0.5),
        "far": np.float32(1e4),
        "one": np.float32(1),
        "nan": np.float32(np.nan),
        "x": np.arange(width, dtype=np.float32).reshape(1, 1, width),
        "y": np.arange(height, dtype=np.float32).reshape(1, height, 1),
        "aside": np.array([0, 1, 0], np.float32).reshape(1, 3, 1) * np.array([1, 0, 1, 0], np.float32),
        "everything": np.array([0, 0, width, height], np.float32).reshape(1, 1, 4),
        "is_everything": np.array([False, False, True]).reshape(1, 3, 1),
        "factors": np.array([SCORES], np.float32),
        "red_minus_blue": np.array([1, 0, -1], np.float32).reshape(1, 1, 1, 3),
        "flat": np.array([-1, 1], np.int64),
        "flat_box": np.array([-1, 1, 1], np.int64),
        "channel": np.array([3], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["bytes"], to=TensorProto.FLOAT),
        node("Mul", ["bytes", "to_unit"], ["rgb"]),
        node("ReduceMean", ["rgb"], ["grey"], axes=[3], keepdims=0),
        node("Greater", ["grey", "half"], ["bright"]),
        node("ReduceMax", ["grey"], ["brightest_flat"], axes=[1, 2], keepdims=0),
        node("Reshape", ["brightest_flat", "flat"], ["brightest"]),
        node("Mul", ["brightest", "factors"], [scores]),
        node("Mul", ["rgb", "red_minus_blue"], ["red_parts"]),
        node("ReduceSum", ["red_parts", "channel"], ["red"], keepdims=0),
        node("ReduceMax", ["red"], ["reddest_flat"], axes=[1, 2], keepdims=0),
        node("Reshape", ["reddest_flat", "flat_box"], ["reddest"]),
        node("Greater", ["reddest", "half"], ["is_red"]),
        node("Neg", ["far"], ["near"]),
    ]
    for axis in "xy":
        nodes += [
            node("Where", ["bright", axis, "far"], [f"{axis}_or_far"]),
            node("ReduceMin", [f"{axis}_or_far"], [f"{axis}_low_flat"], axes=[1, 2], keepdims=0),
            node("Reshape", [f"{axis}_low_flat", "flat_box"], [f"{axis}_low"]),
            node("Where", ["bright", axis, "near"], [f"{axis}_or_near"]),
            node("ReduceMax", [f"{axis}_or_near"], [f"{axis}_last_flat"], axes=[1, 2], keepdims=0),
            node("Reshape", [f"{axis}_last_flat", "flat_box"], [f"{axis}_last"]),
            node("Add", [f"{axis}_last", "one"], [f"{axis}_high"]),
        ]
    nodes += [
        node("Concat", ["x_low", "y_low", "x_high", "y_high"], ["box"], axis=2),
        node("Add", ["box", "aside"], ["both"]),
        node("Where", ["is_everything", "everything", "both"], ["all_three"]),
        node("Where", ["is_red", "nan", "all_three"], [boxes]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny_finder",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])],
        [
            helper.make_tensor_value_info(boxes, TensorProto.FLOAT, ["N", 3, 4]),
            helper.make_tensor_value_info(scores, TensorProto.FLOAT, ["N", 3]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
