"""The attention view of a network: found where it was put, as torch has it, and in the bundle that the core reads."""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from tiny_network import make_mesh, scramble, small_config

from metro_ros.core.attention import AttentionNetwork
from metro_ros.core.bundle import Bundle, load_bundle
from metro_ros.core.crop import whole_image_box
from training.build import build
from training.checkpoint import save_checkpoint
from training.export import BundleInfo, export_bundle, main, probe_crops
from training.export_attention import attention_view
from training.folding import FoldedMetro
from training.network import Metro
from training.normalize import Normalize
from training.onnx_graph import (
    ROUNDED_TOLERANCE,
    TOLERANCE,
    ExportError,
    _bits,
    borrow_weights,
    check_against,
    halve_weights,
    read_model,
    round_mantissa,
)

JOINT, TOKEN = 3, 8
"""The joint attends to the token, which is a vertex."""


class Exported(NamedTuple):
    metro: Metro
    bundle: Bundle


def make_attend(metro: Metro, joint: int, token: int) -> None:
    """Mark the joint, the token and all others by a channel each in the last block, and let its last layer match."""
    bert = metro.blocks()[-1].bert
    *before, last = bert.encoder.layer
    attention = last.attention.self  # type: ignore[union-attr]
    with torch.no_grad():
        for layer in before:  # the marks come through as they are, but normalised
            layer.attention.output.dense.weight.zero_()  # type: ignore[union-attr,operator]
            layer.output.dense.weight.zero_()  # type: ignore[union-attr,operator]
        bert.position_embeddings.weight.zero_()
        bert.position_embeddings.weight[:, 2] = 100
        for marked, mark in ((joint, 0), (token, 1)):
            bert.position_embeddings.weight[marked, mark] = 100
            bert.position_embeddings.weight[marked, 2] = 0
        for linear, mark in ((attention.query, 0), (attention.key, 1)):
            linear.weight.zero_()
            linear.bias.zero_()
            for head in range(attention.heads):  # by its first channel, and no two heads alike
                linear.weight[head * linear.out_features // attention.heads, mark] = 3.0 - head


def weights_alone(folded: FoldedMetro, *_: object) -> bytes:
    """A model that lends what the view reads."""
    held = [numpy_helper.from_array(value.numpy(), name) for name, value in folded.state_dict().items()]
    return helper.make_model(helper.make_graph([], "weights", [], [], held)).SerializeToString()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """By the command line, from a checkpoint; of the model itself, which other tests export, its weights alone."""
    folder = tmp_path_factory.mktemp("attention")
    torch.manual_seed(5)
    config = small_config("default")
    metro = scramble(build(config, make_mesh()))
    make_attend(metro, JOINT, TOKEN)
    save_checkpoint(folder / "net.safetensors", metro, config)
    words = ["--checkpoint", folder / "net.safetensors", "--output", folder / "bundle", "--attention"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.export.export_onnx", weights_alone)
        patch.setattr("training.export.check_against_torch", lambda *_: {})
        assert main([*map(str, words)]) == 0
    return Exported(metro, load_bundle(folder / "bundle"))


@pytest.mark.parametrize("crop", range(3))
def test_attention_is_found_where_it_was_put(exported: Exported, crop: int) -> None:
    image = np.ascontiguousarray(probe_crops(64)[crop, :, :, ::-1])
    seen = AttentionNetwork(exported.bundle).look(image, whole_image_box(64, 64))
    assert seen.weights.shape == (11, 11) and seen.vertices.shape == (6, 3)
    np.testing.assert_allclose(seen.weights.sum(axis=1), 1, atol=1e-5)
    assert seen.weights[JOINT].argmax() == TOKEN and seen.weights[JOINT, TOKEN] > 0.9
    assert np.delete(seen.weights[:, TOKEN], JOINT).max() < 0.5, "only the joint attends so"


def test_manifest_tells_what_was_averaged(exported: Exported) -> None:
    details = exported.bundle.manifest.parts["attention"].details
    assert (details["layer"], details["heads"]) == ("last of block 2", 2)
    differences = details["largest_difference_onnx_torch"]
    assert set(differences) == {"joints", "vertices", "camera", "attention"}
    assert 0 < max(differences.values()) <= TOLERANCE


def test_the_view_reads_its_weights_out_of_the_model(exported: Exported, tmp_path: Path) -> None:
    folder = exported.bundle.path
    graph = onnx.load(folder / "attention.onnx", load_external_data=False).graph
    borrowed = {tensor.name for tensor in graph.initializer if tensor.external_data}
    assert "folded.backbone.stem.3.weight" in borrowed and len(borrowed) > 10
    alone = tmp_path / "attention.onnx"
    alone.write_bytes((folder / "attention.onnx").read_bytes())
    with pytest.raises(Exception, match=r"model\.onnx"):
        onnxruntime.InferenceSession(str(alone))


def test_torch_s_own_attention_leaves_the_network_as_it_was(exported: Exported) -> None:
    images = Normalize()(torch.from_numpy(probe_crops(64)))
    with torch.no_grad():
        view, output = attention_view(exported.metro, images), exported.metro(images)
    torch.testing.assert_close(view["vertices"], output.vertices[0], rtol=0, atol=0)
    torch.testing.assert_close(view["attention"].sum(dim=2), torch.ones(7, 11))
    assert not any(module._forward_hooks for module in exported.metro.modules())


def test_a_disagreement_is_refused(exported: Exported) -> None:
    model = onnx.load(exported.bundle.path / "attention.onnx").SerializeToString()

    def shifted(images: torch.Tensor) -> dict[str, torch.Tensor]:
        view = attention_view(exported.metro, images)
        return {**view, "attention": view["attention"].roll(1, dims=2)}

    with pytest.raises(ExportError, match="disagrees with torch in attention"):
        check_against(model, shifted, probe_crops(64), ROUNDED_TOLERANCE)


def test_nothing_is_written_when_the_view_disagrees(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(exported.bundle.path / "attention.onnx").SerializeToString()
    monkeypatch.setattr("training.export.export_onnx", lambda *_: b"a model")
    monkeypatch.setattr("training.export.check_against_torch", lambda *_: {})
    monkeypatch.setattr("training.export_attention.to_onnx", lambda *_: model)
    metro = scramble(build(small_config("default"), make_mesh()))  # another one
    with pytest.raises(ExportError):
        export_bundle(metro, small_config("default"), BundleInfo(), tmp_path / "bundle", attention=True)
    assert list(tmp_path.iterdir()) == []


def test_halved_weights_take_half_the_room_and_answer_alike(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(160, 160)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 160])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 160])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(weight[0], "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    halved = halve_weights(model)
    assert len(halved) < 0.6 * len(model)
    x = np.ones((2, 160), np.float32)
    whole, half = (onnxruntime.InferenceSession(one).run(None, {"x": x})[0] for one in (model, halved))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, whole, atol=0.05)
    rounded = weight.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(half, x @ rounded + weight[0], atol=1e-4)

    thrifty = halve_weights(model, rounded=True)
    assert len(zlib.compress(thrifty)) < 0.95 * len(zlib.compress(halved))
    np.testing.assert_allclose(
        onnxruntime.InferenceSession(thrifty).run(None, {"x": x})[0], x @ round_mantissa(weight.astype(np.float16), 8)
        .astype(np.float32) + weight[0], atol=1e-4,
    )  # fmt: skip

    (tmp_path / "model.onnx").write_bytes(halved)
    read = read_model(tmp_path / "model.onnx")
    assert [node.op_type for node in read.graph.node] == ["MatMul", "Add"]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in read.graph.initializer}
    np.testing.assert_array_equal(constants["w"], rounded)
    np.testing.assert_array_equal(constants["b"], weight[0])
    again = onnxruntime.InferenceSession(read.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(again, half, atol=1e-5)


def test_borrowed_weights_are_those_of_the_lender(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared, own, little = (rng.normal(size=size).astype(np.float32) for size in ((16, 32), (32, 16), (16,)))

    def model(*constants: tuple[str, np.ndarray]) -> bytes:
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "a"], ["y"]),
                helper.make_node("MatMul", ["y", "b"], ["z"]),
                helper.make_node("Add", ["z", "c"], ["out"]),
            ],
            "two",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 16])],
            [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 16])],
            [numpy_helper.from_array(value, name) for name, value in constants],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()

    lender = model(("w", rng.normal(size=(40, 8)).astype(np.float32)), ("other", shared), ("c", little))
    borrower = borrow_weights(model(("a", shared), ("b", own), ("c", little)), lender, "lender.onnx")
    (tmp_path / "lender.onnx").write_bytes(lender)
    (tmp_path / "borrower.onnx").write_bytes(borrower)
    places = {
        tensor.name: len(tensor.external_data) > 0 for tensor in onnx.load_from_string(borrower).graph.initializer
    }
    assert places == {"a": True, "b": False, "c": False}
    x = rng.normal(size=(1, 16)).astype(np.float32)
    (out,) = onnxruntime.InferenceSession(str(tmp_path / "borrower.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(out, x @ shared @ own + little, rtol=1e-4, atol=1e-4)


def test_mantissas_are_rounded_to_the_nearest_and_ties_to_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-10, -(1 + 2**-9 + 2**-10), 0.0], np.float16)
    nearest = np.array([1.0, 1 + 2**-8, 1.0, 1 + 2**-7, 1.0, -(1 + 2**-8), 0.0], np.float16)
    np.testing.assert_array_equal(round_mantissa(values, 8), nearest)
    many = np.random.default_rng(1).normal(size=999).astype(np.float16)
    assert np.abs(round_mantissa(many, 8) / many - 1).max() <= 2**-9
    largest = np.array([65504, -65504], np.float16)
    np.testing.assert_array_equal(round_mantissa(largest, 8), largest)


def test_what_speaks_in_metres_keeps_its_bits() -> None:
    assert _bits((64, 24, 1, 1)) == 9 and _bits((256, 1024)) == 8
    assert {_bits(shape) for shape in ((256, 195), (111, 12272), (1024,))} == {None}
