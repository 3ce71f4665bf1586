"""Narrower variants: which parts get narrow, that the file's types say so, what they cost, and when none is offered."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from tiny_bundle import make_tiny_bundle
from tiny_network import make_mesh, scramble, small_config

from metro_ros.core.bundle import Bundle, add_variant, load_bundle
from metro_ros.core.engines import open_engine, openvino
from training import variants
from training.build import build
from training.export import BundleInfo, export_bundle, probe_crops
from training.person_crops import person_crops
from training.quantise import quantise
from training.typed_graph import TYPES, GraphError, narrow, narrow_nodes, rounded
from training.variants import answers, compare, main

FORMATS = ("bf16", "fp16")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(5)
    config = small_config("default", (32, 16, 8))
    metro = scramble(build(config, make_mesh()))
    return export_bundle(metro, config, BundleInfo(), tmp_path_factory.mktemp("bundle") / "small")


def crops_for(bundle: Bundle) -> np.ndarray:
    return probe_crops(bundle.manifest.crop.size)


def scale_metres(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """A dwarf or a giant of the same network: random weights put their vertices metres apart."""
    real = variants.answers
    monkeypatch.setattr(
        variants, "answers", lambda model, crops: {k: factor * v for k, v in real(model, crops).items()}
    )


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in inferred.initializer
    }


@pytest.mark.parametrize("number_format", FORMATS)
def test_the_types_in_the_file_are_the_arithmetic(bundle: Bundle, number_format: str) -> None:
    model = onnx.load(bundle.model_path)
    made = narrow(model, narrow_nodes(model, 1), number_format)
    onnx.checker.check_model(made, full_check=True)
    types, narrow_type = types_of(made), TYPES[number_format]
    floats = {TensorProto.FLOAT, narrow_type}
    operators: dict[str, list[int]] = {}
    for node in made.graph.node:
        if node.op_type == "Cast":
            continue
        names = node.input[:1] if node.op_type == "Resize" else node.input
        kinds = {types[name] for name in [*names, *node.output] if name} & floats
        assert len(kinds) <= 1, f"{node.op_type} {node.name} mixes types"
        operators.setdefault(node.op_type, []).extend(kinds)
    assert set(operators["LayerNormalization"]) == set(operators["Softmax"]) == {TensorProto.FLOAT}
    assert operators["Conv"][0] == TensorProto.FLOAT and set(operators["Conv"][1:]) == {narrow_type}
    assert narrow_type in operators["MatMul"]
    for before, after in zip(model.graph.output, made.graph.output, strict=True):
        assert before == after
    assert made.graph.input == model.graph.input


def test_the_last_block_and_what_follows_stay_fp32(bundle: Bundle) -> None:
    nodes = list(onnx.load(bundle.model_path).graph.node)
    chosen = narrow_nodes(onnx.load(bundle.model_path), 0)
    norms = [index for index, node in enumerate(nodes) if node.op_type == "LayerNormalization"]
    last_block = norms[len(norms) * 2 // 3 - 1]  # three blocks of as many layers
    assert max(chosen) < last_block
    assert any(norms[len(norms) // 3] < index for index in chosen), "the second block gets narrow"
    assert all(nodes[index].op_type not in ("LayerNormalization", "Softmax", "Erf") for index in chosen)


def test_sums_of_two_streams_and_the_short_cuts_to_metres_stay_fp32(bundle: Bundle) -> None:
    model = onnx.load(bundle.model_path)
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    last_conv = max(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    inputs = {name: node for node in nodes for name in node.input}
    for index in narrow_nodes(model, 0):
        node = nodes[index]
        if index > last_conv and node.op_type == "Add":
            assert any(name in weights for name in node.input)
        if node.op_type == "MatMul" and any(name in weights for name in node.input):
            assert inputs[node.output[0]].op_type == "Add", "a layer's own product, with its bias"


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_narrow_model_is_close_and_takes_any_batch(bundle: Bundle, number_format: str) -> None:
    model, crops = onnx.load(bundle.model_path), crops_for(bundle)
    made = narrow(model, narrow_nodes(model, 1), number_format)
    expected = answers(model, crops)
    errors = compare(expected, answers(rounded(made, number_format), crops))
    spread = np.linalg.norm(expected["vertices"] - expected["vertices"].mean(axis=0), axis=2).mean() * 1e3
    assert 0 < errors.mean_vertex_mm < 0.05 * spread
    coarse = compare(expected, answers(rounded(narrow(model, narrow_nodes(model, 0), "bf16"), "bf16"), crops))
    fine = compare(expected, answers(rounded(narrow(model, narrow_nodes(model, 0), "fp16"), "fp16"), crops))
    assert fine.mean_vertex_mm < 0.5 * coarse.mean_vertex_mm, "three more bits"


def test_rounding_is_what_the_hardware_does(bundle: Bundle, tmp_path: Path) -> None:
    if "bf16" not in openvino.precisions():
        pytest.skip("this processor does not compute in bf16")
    crops, model = crops_for(bundle), onnx.load(bundle.model_path)
    made, expected = narrow(model, narrow_nodes(model, 1), "bf16"), answers(model, crops)
    copy = add_variant(
        _copy(bundle, tmp_path), "bf16", made.SerializeToString(), mean_vertex_mm=0, max_vertex_mm=0, joints_mm=0
    )
    output = open_engine(copy, "openvino", "bf16").infer(crops)
    native = compare(expected, {"vertices": output.vertices, "joints": output.joints})
    emulated = compare(expected, answers(rounded(made, "bf16"), crops))
    assert native.mean_vertex_mm == pytest.approx(emulated.mean_vertex_mm, rel=0.5)


def test_int8_is_in_the_convolutions_alone(bundle: Bundle) -> None:
    model, crops = onnx.load(bundle.model_path), crops_for(bundle)
    made = quantise(model, crops, wide_convolutions=1)
    produced = {name: node for node in made.graph.node for name in node.output}
    quantised = [
        all(name in produced and produced[name].op_type == "DequantizeLinear" for name in node.input[:2])
        for node in made.graph.node
        if node.op_type == "Conv"
    ]
    assert not quantised[0] and all(quantised[1:])
    for node in made.graph.node:
        if node.op_type == "MatMul":
            assert all(produced[name].op_type != "DequantizeLinear" for name in node.input if name in produced)
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert any(name.endswith("_scale") and array.size > 1 for name, array in scales.items()), "a scale for each channel"
    spread = compare(answers(model, crops[:1]), answers(made, crops[:1]))
    assert spread.mean_vertex_mm > 0


def test_a_variant_gets_into_the_bundle_with_its_error(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(variants, "person_crops", lambda size, folder: probe_crops(size))
    scale_metres(monkeypatch, 0.01)
    copy = _copy(bundle, tmp_path)
    assert main([str(copy.path), "--precision", "fp16", "bf16"]) == 0
    made = load_bundle(copy.path)
    assert set(made.manifest.variants) == {"fp16", "bf16"}
    variant = made.manifest.variants["fp16"]
    assert 0 < variant.mean_vertex_mm <= variant.max_vertex_mm
    assert f"fp16: vertices off by {variant.mean_vertex_mm:.2f} mm in the mean" in capsys.readouterr().out
    assert onnx.load(made.model_file("bf16")).opset_import[0].version == 22


def test_what_a_variant_is_off_on_the_average_is_taken_off(
    bundle: Bundle,
) -> None:
    crops = crops_for(bundle)
    expected = answers(bundle.model_path, crops)
    for candidate in variants._candidates(onnx.load(bundle.model_path), "bf16", crops):
        made = onnx.load_from_string(candidate.model)
        onnx.checker.check_model(made, full_check=True)
        got = answers(rounded(made, "bf16"), crops)
        for name in variants.CORRECTED:
            error = got[name] - expected[name]
            np.testing.assert_allclose(error[::2].mean(axis=0), 0, atol=1e-6)
            assert np.abs(error).max() > 1e-5
        held_out = compare({k: v[1::2] for k, v in expected.items()}, {k: v[1::2] for k, v in got.items()})
        assert candidate.errors == pytest.approx(held_out, rel=1e-3)


def test_what_is_too_far_off_is_not_offered(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scale_metres(monkeypatch, 100)
    copy = _copy(bundle, tmp_path)
    monkeypatch.setattr(variants, "person_crops", lambda size, folder: probe_crops(size))
    before = sorted((path.name, path.read_bytes()) for path in copy.path.iterdir())
    assert main([str(copy.path), "--precision", "bf16"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: bf16 is not offered") and "expected at most 2 mm in the mean, got" in line
    assert sorted((path.name, path.read_bytes()) for path in copy.path.iterdir()) == before


def test_a_network_without_a_transformer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(GraphError, match="expected convolutions and LayerNormalization nodes"):
        narrow_nodes(onnx.load(bundle.model_path))
    assert main([str(bundle.path), "--precision", "bf16"]) == 2
    assert main([str(tmp_path / "nothing")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: the model: expected") and second.startswith("error: no model bundle")


def test_weights_outside_of_a_format_are_named(bundle: Bundle) -> None:
    model = onnx.load(bundle.model_path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == conv.input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e6), weight.name))
    with pytest.raises(GraphError, match="in fp16: expected finite weights"):
        narrow(model, narrow_nodes(model, 0), "fp16")


def test_crops_of_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crops = person_crops(32)
    assert crops.shape == (60, 32, 32, 3) and crops.dtype == np.uint8
    np.testing.assert_array_equal(crops, person_crops(32))
    assert np.abs(np.diff(crops.astype(int), axis=0)).mean() > 5, "they are different crops"
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((40, 50, 3), 100 * index, np.uint8))
    assert person_crops(32, tmp_path).shape == (2, 32, 32, 3)
    (tmp_path / "0.png").unlink()
    assert main([str(Path(variants.__file__).parents[1] / "metro_ros/models/default"), "--crops", str(tmp_path)]) == 2
    assert "expected two or more, got 1" in capsys.readouterr().err


def _copy(bundle: Bundle, folder: Path) -> Bundle:
    target = folder / "copy"
    target.mkdir()
    for file in bundle.path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return load_bundle(target)
