"""Variants of a bundle's network in narrower number formats, each with its measured error in the manifest.

python -m training.variants BUNDLE [--precision bf16 fp16 int8] [--crops FOLDER]

bf16 and fp16 are written by training.typed_graph, int8 by training.quantise. What is off on the average of some crops
is taken off the outputs by a constant, and the error measured on others. Of each kind the fastest candidate is
taken whose vertices are off by no more than TARGET_MM in the mean, else the closest; none is written whose vertices are
off by more than MAX_VARIANT_MM. The error is the distance to the fp32 network's answers for crops of people.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from metro_ros.core.bundle import Bundle, add_variant, load_bundle
from metro_ros.core.errors import MetroError
from metro_ros.core.manifest import MAX_VARIANT_MM, VARIANT_PRECISIONS
from training.onnx_graph import read_model
from training.person_crops import person_crops
from training.quantise import quantise
from training.typed_graph import narrow, narrow_nodes, rounded

TARGET_MM = 1.0
"""What `auto` still takes: see metro_ros.core.engines."""
WIDE_CONVOLUTIONS = {"bf16": (1, 2, 5), "fp16": (0, 1, 2), "int8": (1, 3, 8)}
"""How many of the first convolutions stay fp32, the fastest first."""


CORRECTED = ("joints", "vertices", "camera")


class VariantError(MetroError):
    """A variant is too far from the fp32 network."""


class Errors(NamedTuple):
    """Distances to the fp32 network's answers, in millimetres; see metro_ros.core.manifest.Variant."""

    mean_vertex_mm: float
    max_vertex_mm: float
    joints_mm: float


class Candidate(NamedTuple):
    """A model that may become a variant."""

    wide_convolutions: int
    model: bytes
    errors: Errors


def make_variant(bundle: Bundle, precision: str, crops: npt.NDArray[np.uint8]) -> tuple[Bundle, Errors]:
    """Add one variant to a bundle.

    Args:
        precision: bf16, fp16 or int8.
        crops: (N, S, S, 3) uint8 RGB of people, two or more: every other one to calibrate with, the rest to measure.

    Returns:
        The bundle with it, and its errors.

    Raises:
        VariantError: no candidate is within MAX_VARIANT_MM; the bundle is as before.
        GraphError: the network's parts cannot be told.
    """
    model = read_model(bundle.model_path)
    best: Candidate | None = None
    for candidate in _candidates(model, precision, crops):
        if best is None or candidate.errors.mean_vertex_mm < best.errors.mean_vertex_mm:
            best = candidate
        if candidate.errors.mean_vertex_mm <= TARGET_MM:
            break
    assert best is not None
    if not best.errors.mean_vertex_mm <= MAX_VARIANT_MM:
        raise VariantError(
            f"{precision} is not offered: its vertices are too far from the fp32 network's",
            expected=f"at most {MAX_VARIANT_MM:g} mm in the mean",
            got=f"{best.errors.mean_vertex_mm:.2f} mm with the first {best.wide_convolutions} convolutions in fp32",
        )
    return add_variant(bundle, precision, best.model, **best.errors._asdict()), best.errors


def compare(expected: dict[str, npt.NDArray[np.float32]], got: dict[str, npt.NDArray[np.float32]]) -> Errors:
    """Errors of one network's answers `got` beside those of another, both as `answers` gives them."""
    vertices = np.linalg.norm(got["vertices"] - expected["vertices"], axis=2) * 1e3
    joints = np.linalg.norm(got["joints"] - expected["joints"], axis=2) * 1e3
    return Errors(float(vertices.mean()), float(vertices.max()), float(joints.mean()))


def answers(model: onnx.ModelProto | Path, crops: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """Outputs by name of a model for crops (N, S, S, 3), one at a time, by ONNX Runtime on the CPU as the file says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # it would merge the roundings
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {"image": crops[index : index + 1]}) for index in range(len(crops))]
    return {name: np.concatenate(columns) for name, columns in zip(names, zip(*rows, strict=True), strict=True)}


def subtract(model: onnx.ModelProto, constants: Mapping[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """The model with constants, one row each, taken off its outputs of those names."""
    result = copy.deepcopy(model)
    for name, constant in constants.items():
        before = f"{name}.biased"
        for node in result.graph.node:
            for names in (node.input, node.output):
                for place, one in enumerate(names):
                    if one == name:
                        names[place] = before
        result.graph.initializer.append(numpy_helper.from_array(constant[None], f"{name}.bias"))
        result.graph.node.append(helper.make_node("Sub", [before, f"{name}.bias"], [name], name=f"{name}.unbiased"))
    return result


def _candidates(model: onnx.ModelProto, precision: str, crops: npt.NDArray[np.uint8]) -> Iterator[Candidate]:
    calibration, held_out = crops[::2], crops[1::2]
    expected, expected_in_calibration = answers(model, held_out), answers(model, calibration)
    for wide in WIDE_CONVOLUTIONS[precision]:
        if precision == "int8":
            made = computed = quantise(model, calibration, wide)
        else:
            made = narrow(model, narrow_nodes(model, wide), precision)  # type: ignore[arg-type]
            computed = rounded(made, precision)  # type: ignore[arg-type]
        in_calibration, got = answers(computed, calibration), answers(computed, held_out)
        bias = {name: (in_calibration[name] - expected_in_calibration[name]).mean(axis=0) for name in CORRECTED}
        got |= {name: got[name] - bias[name] for name in CORRECTED}
        yield Candidate(wide, subtract(made, bias).SerializeToString(), compare(expected, got))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line for each variant that is not offered."""
    parser = argparse.ArgumentParser(prog="python -m training.variants", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="directory; its manifest and models are added to")
    parser.add_argument(
        "--precision", nargs="+", choices=VARIANT_PRECISIONS, default=list(VARIANT_PRECISIONS), help="(all three)"
    )
    parser.add_argument("--crops", type=Path, help="folder of images, one person in each (the package's demo clip)")
    options = parser.parse_args(arguments)
    refused = 0
    try:
        bundle = load_bundle(options.bundle)
        crops = person_crops(bundle.manifest.crop.size, options.crops)
        for precision in options.precision:
            try:
                bundle, errors = make_variant(bundle, precision, crops)
            except VariantError as error:
                refused += 1
                print(f"error: {error}", file=sys.stderr)
            else:
                print(
                    f"{precision}: vertices off by {errors.mean_vertex_mm:.2f} mm in the mean and "
                    f"{errors.max_vertex_mm:.2f} mm at most, joints by {errors.joints_mm:.2f} mm"
                )
    except MetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
