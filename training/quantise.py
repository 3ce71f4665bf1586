"""Post-training quantisation of the backbone's convolutions to int8, by ONNX Runtime's tools: QDQ, per channel."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static


class _Crops(CalibrationDataReader):
    def __init__(self, crops: npt.NDArray[np.uint8]) -> None:
        self._left = iter(crops)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        crop = next(self._left, None)
        return None if crop is None else {"image": crop[None]}


def quantise(model: onnx.ModelProto, crops: npt.NDArray[np.uint8], wide_convolutions: int = 1) -> onnx.ModelProto:
    """The model with all but its first convolutions in int8.

    Args:
        crops: (N, S, S, 3) uint8 RGB to calibrate the activations' ranges with.
        wide_convolutions: so many of the first stay fp32.

    Returns:
        Its weights and activations int8 and symmetric, a scale for each channel and for each tensor; its biases fp32.
    """
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "int8.onnx"
        logging.getLogger().addFilter(_no_advice)  # to preprocess the model: the exporter has done that
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantize_static(
                    onnx.shape_inference.infer_shapes(model),
                    output,
                    _Crops(crops),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=["Conv"],
                    nodes_to_exclude=convolutions[:wide_convolutions],
                    per_channel=True,
                    activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                    extra_options={"ActivationSymmetric": True, "QuantizeBias": False},  # as TensorRT wants it
                    calibrate_method=CalibrationMethod.MinMax,
                )
        finally:
            logging.getLogger().removeFilter(_no_advice)
        return onnx.load(output)


def _no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()
