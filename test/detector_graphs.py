"""Real ONNX graphs that see one bright rectangle, and say so as each kind of detector would.

The box goes around all pixels whose green is above a threshold. The score of class `person` is the mean of the first
channel in it, over the largest value: it tells the order of the colours and their range. The scores of classes 1 and 2
are the values of the input's first and last pixel: they tell what lies around the image, and where the image lies.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ELEMENTS = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


class Builder:
    """Collects nodes and constants; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def __call__(self, operation: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        name = name or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def indices(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def reshape(self, value: str, *shape: int, name: str | None = None) -> str:
        return self("Reshape", value, self.indices(*shape), name=name)

    def cast(self, value: str, dtype: str | int, name: str | None = None) -> str:
        return self("Cast", value, to=ELEMENTS[dtype] if isinstance(dtype, str) else dtype, name=name)

    def one_row(self, row: str, count: int, width: int, at: int) -> str:
        """(count, width) float32 of zeros with (1, width) `row` at row `at`."""
        mask = np.zeros((count, 1))
        mask[at] = 1
        return self("Mul", self.constant(mask), row)


class Seen:
    """Names of (1, 1) float32 values in a graph: the box in pixels of the input, its score, first and last pixel."""

    def __init__(self, b: Builder, image: str, size: tuple[int, int], largest: float, threshold: float) -> None:
        """image: (1, 3, H, W) of any type."""
        self.b = b
        height, width = size
        colours = b.cast(image, "float32")
        green = b("Slice", colours, b.indices(1), b.indices(2), b.indices(1))
        bright = b.cast(b("Greater", green, b.constant(threshold)), "float32")
        edges = []
        for axis, side in ((3, width), (2, height)):
            other = 5 - axis
            line = b.reshape(b("ReduceMax", bright, axes=[1, other]), 1, side)
            place = b.constant(np.arange(side)[None])
            nowhere = b("Mul", b("Sub", b.constant(1), line), b.constant(1e4))
            first = b("ReduceMin", b("Add", place, nowhere), axes=[1])
            past = b("ReduceMax", b("Mul", line, b.constant(np.arange(1, side + 1)[None])), axes=[1])
            edges.append((b("Min", first, past), past))  # nothing there: no width
        (self.left, self.right), (self.top, self.bottom) = edges
        mass = b("Max", b("ReduceSum", bright, b.indices(0, 1, 2, 3)), b.constant(1))
        channel = b("Slice", colours, b.indices(0), b.indices(1), b.indices(1))
        total = b("ReduceSum", b("Mul", channel, bright), b.indices(0, 1, 2, 3))
        self.score = b.reshape(b("Div", b("Div", total, mass), b.constant(largest)), 1, 1)
        self.first, self.last = (
            b.reshape(
                b("Div", b("Slice", channel, b.indices(y, x), b.indices(y + 1, x + 1), b.indices(2, 3)), top), 1, 1
            )
            for top in [b.constant(largest)]
            for y, x in ((0, 0), (height - 1, width - 1))
        )

    def row(self, *values: str) -> str:
        """(1, len(values))"""
        return self.b("Concat", *values, axis=1)

    def corners(self) -> str:
        return self.row(self.left, self.top, self.right, self.bottom)

    def centre(self, scale: Sequence[float] = (1, 1)) -> str:
        """(1, 4) centre and size, of each side times `scale`."""
        b = self.b
        half = b.constant(0.5)
        centre = [
            b("Mul", b("Add", low, high), half) for low, high in ((self.left, self.right), (self.top, self.bottom))
        ]
        size = [b("Sub", high, low) for low, high in ((self.left, self.right), (self.top, self.bottom))]
        return b("Mul", self.row(*centre, *size), b.constant([*scale, *scale]))


def save(
    path: Path,
    b: Builder,
    image_shape: Sequence[object],
    outputs: dict[str, tuple[int, Sequence[object]]],
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
    more_inputs: dict[str, tuple[int, Sequence[object]]] | None = None,
) -> Path:
    """Write the graph with its input `images`."""
    inputs = {"images": (ELEMENTS[dtype], image_shape), **(more_inputs or {})}
    described = [
        [helper.make_tensor_value_info(name, *what) for name, what in side.items()] for side in (inputs, outputs)
    ]
    graph = helper.make_graph(b.nodes, "detector", *described, b.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def save_certain(path: Path, size: tuple[int, int], box: tuple[float, float, float, float]) -> Path:
    """A YOLOv10 that finds one person in every image, in `box` of its input's `size` (height, width)."""
    b = Builder()
    nothing = b("Mul", b("ReduceMean", "images", axes=[0, 1, 2, 3], keepdims=0), b.constant(0.0))
    b("Add", b.constant([[[*box, 0.9, 0.0]]]), nothing, name="output0")
    return save(path, b, (1, 3, *size), {"output0": (TensorProto.FLOAT, (1, 1, 6))})
