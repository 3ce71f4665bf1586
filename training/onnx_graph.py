"""A module becomes an ONNX model that answers as torch does: export, and compare on crops."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from metro_ros.core.errors import MetroError
from training.normalize import Normalize
from training.rounding import round_channels

OPSET = 18
"""17 brought LayerNormalization; 18 is what torch's exporter writes without a conversion."""
TOLERANCE = 1e-4
"""Largest difference from torch: metres; for the camera relative to its size; for probabilities as they are."""
ROUNDED_TOLERANCE = 5e-3
"""The same once weights are rounded."""
LEAST_BORROWED = 1024
"""Bytes; less is not worth where it lies."""
CONVOLUTION_BITS, MATRIX_BITS = 9, 8
"""Bits of float16's mantissa that are kept of compact weights: with one less, the default's camera or vertices are off
by ROUNDED_TOLERANCE."""
LEAST_ROUNDED = 20_000
"""Numbers; in smaller constants it would save little, and among them are those that speak in metres."""
_HALVED = ".half"
"""Behind the names of constants that are stored in float16."""
_PACKED, _UNPACKED, _SCALE = ".packed", ".unpacked", ".scale"
"""Behind the names of kernels that are stored as whole numbers, of those as float32, and of what they are times."""


class ExportError(MetroError):
    """The exported model is not the network it was made from."""


def to_onnx(graph: nn.Module, image_size: int | tuple[int, int], output_names: Sequence[str]) -> bytes:
    """A module that takes `image`, uint8 (N, H, W, 3), as a serialised ONNX model, N dynamic. Raises ExportError.

    image_size: H and W, or the side of a square.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    crops = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    # The exporter reports its progress and its own deprecations; neither is the user's business.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.eval(),
            (crops,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(output_names),
            dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        )
    if program is None:
        raise ExportError("torch's ONNX exporter returned nothing")
    model = program.model_proto
    del program, graph  # a paper-sized network is 0.7 GB, and every stage of the exporter holds it once
    return strip_traces(model).SerializeToString()


def check_against(
    model: bytes,
    expected: Callable[[Tensor], Mapping[str, Tensor]],
    crops: npt.NDArray[np.uint8],
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Run ONNX Runtime and torch on the same crops.

    Args:
        expected: normalised images (N, 3, S, S) to the value of each of the model's outputs.
        crops: (N, S, S, 3) uint8 RGB; run as one crop and then the rest, so that a fixed N cannot pass.

    Returns:
        The largest difference of each output.

    Raises:
        ExportError: one is above `tolerance` or not finite.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    differences = dict.fromkeys(names, 0.0)
    for part in (crops[:1], crops[1:]):
        with torch.no_grad():
            wanted = expected(Normalize()(torch.from_numpy(part)))
        for name, got in zip(names, session.run(names, {"image": part}), strict=True):
            want = wanted[name].numpy()
            difference = np.abs(got - want)
            if name == "camera":
                difference = difference / np.maximum(1.0, np.abs(want))
            # NaN compares false with everything: let it through max and catch it below.
            differences[name] = float(np.maximum(differences[name], difference.max()))
    for name, largest in differences.items():
        if not largest <= tolerance:
            raise ExportError(
                f"the ONNX model disagrees with torch in {name}", expected=f"at most {tolerance:g}", got=f"{largest:g}"
            )
    return differences


def strip_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's traces: they name files of the machine, and weigh megabytes."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def halve_weights(model: bytes, least: int = 1024, rounded: bool = False) -> bytes:
    """The same graph with every constant of `least` numbers or more stored in float16, and cast back where it is used.

    Half the file, for numbers a two-thousandth off: engines undo it once, when they load it.

    Args:
        rounded: round large convolutions and the matrices of transformer layers further, to CONVOLUTION_BITS or
            MATRIX_BITS of float16's ten, for archives: zeros at the end take no room there.
    """
    graph = onnx.load_from_string(model)
    casts = []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < least:
            continue
        name = tensor.name
        halves = values.astype(np.float16)
        if rounded and values.size >= LEAST_ROUNDED and (bits := _bits(values.shape)) is not None:
            halves = round_mantissa(halves, bits)
        tensor.CopyFrom(numpy_helper.from_array(halves, name + _HALVED))
        casts.append(onnx.helper.make_node("Cast", [name + _HALVED], [name], to=onnx.TensorProto.FLOAT))
    for node in reversed(casts):
        graph.graph.node.insert(0, node)
    return graph.SerializeToString()


def pack_weights(model: bytes, bits: int, least: int = 64) -> bytes:
    """The same graph with the kernels of convolutions stored as whole numbers of `bits` bits, times a number a channel.

    Other constants of `least` numbers or more become float16. Engines undo it once, when they load the file.
    """
    graph = onnx.load_from_string(halve_weights(model, least))
    kernels = {node.input[1] for node in graph.graph.node if node.op_type == "Conv"}
    nodes, kept = [], []
    source = {
        tensor.name: tensor for tensor in onnx.load_from_string(model).graph.initializer if tensor.name in kernels
    }
    for tensor in graph.graph.initializer:
        name = tensor.name.removesuffix(_HALVED)
        if name not in source:
            kept.append(tensor)
            continue
        numbers, scale = round_channels(torch.from_numpy(numpy_helper.to_array(source[name]).copy()), bits)
        kept += [
            numpy_helper.from_array(values.numpy(), name + suffix)
            for values, suffix in ((numbers, _PACKED), (scale, _SCALE))
        ]
        cast = onnx.helper.make_node("Cast", [name + _PACKED], [name + _UNPACKED], to=onnx.TensorProto.FLOAT)
        nodes += [cast, onnx.helper.make_node("Mul", [*cast.output, name + _SCALE], [name])]
    others = [node for node in graph.graph.node if node.op_type != "Cast" or node.output[0] not in source]
    del graph.graph.initializer[:], graph.graph.node[:], graph.graph.value_info[:]
    graph.graph.initializer.extend(kept)
    graph.graph.node.extend([*nodes, *others])
    return graph.SerializeToString()


def _bits(shape: tuple[int, ...]) -> int | None:
    """Of the mantissa that are kept of a constant, None for all. Layers are as wide as a multiple of 32; what leads
    from block to block, and to the mesh, has columns that speak in metres, and is not."""
    if len(shape) == 4:
        return CONVOLUTION_BITS
    return MATRIX_BITS if len(shape) == 2 and not any(side % 32 for side in shape) else None


def round_mantissa(values: npt.NDArray[np.float16], bits: int) -> npt.NDArray[np.float16]:
    """The nearest numbers with so many bits of the mantissa, the even one of two as near; those at float16's end, which
    would become infinite, stay."""
    dropped = 10 - bits
    pattern = values.view(np.uint16).astype(np.int64)
    kept = (pattern + (1 << (dropped - 1)) - 1 + ((pattern >> dropped) & 1)) >> dropped
    nearest = (kept << dropped).astype(np.uint16).view(np.float16).reshape(values.shape)
    return np.where(np.isfinite(nearest), nearest, values)


def borrow_weights(model: bytes, lender: bytes, file: str) -> bytes:
    """The same graph with each constant of LEAST_BORROWED bytes or more that `lender` holds too read out of there.

    Args:
        lender: content of `file`, an ONNX model that lies beside the graph's own file wherever that is loaded.
    """
    graph, lent = onnx.load_from_string(model), onnx.load_from_string(lender)
    held = {tensor.raw_data for tensor in lent.graph.initializer if len(tensor.raw_data) >= LEAST_BORROWED}
    for tensor in graph.graph.initializer:
        content = tensor.raw_data
        if content not in held:
            continue
        set_external_data(tensor, file, offset=lender.index(content), length=len(content))
        tensor.ClearField("raw_data")
    return graph.SerializeToString()


def read_model(path: str | Path) -> onnx.ModelProto:
    """A file's graph with what `halve_weights` and `pack_weights` stored otherwise as float32, by their old names."""
    model = onnx.load(path)
    halved = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith(_HALVED)}
    for tensor in halved.values():
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name.removesuffix(_HALVED)))
    scales = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith(_SCALE)}
    for tensor in model.graph.initializer:
        if tensor.name.endswith(_PACKED):
            name = tensor.name.removesuffix(_PACKED)
            values = numpy_helper.to_array(tensor) * numpy_helper.to_array(scales[name + _SCALE])
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    stored = (_HALVED, _PACKED, _UNPACKED, _SCALE)
    kept = [node for node in model.graph.node if not any(name.endswith(stored) for name in node.input)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
