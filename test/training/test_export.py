"""From a checkpoint to a bundle that the core loads, and never one that disagrees with torch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_network import make_mesh, scramble, small_config

from metro_ros.core.bundle import load_bundle
from metro_ros.core.errors import ConfigError
from training.build import build
from training.checkpoint import load_checkpoint, load_original_weights, save_checkpoint
from training.export import (
    BundleInfo,
    check_against_torch,
    export_bundle,
    export_onnx,
    main,
    mesh_arrays,
    probe_crops,
)
from training.folding import FoldedMetro
from training.mesh_spec import body_431
from training.network import Metro
from training.normalize import Normalize
from training.onnx_graph import ExportError


@pytest.fixture(scope="module")
def exported() -> tuple[Metro, bytes]:
    """A small default network and its ONNX model."""
    torch.manual_seed(5)
    metro = scramble(build(small_config("default"), make_mesh()))
    return metro, export_onnx(FoldedMetro(metro), 64)


def test_model_has_the_bundle_s_inputs_and_outputs(exported) -> None:
    model = onnx.load_from_string(exported[1])
    onnx.checker.check_model(model)

    def describe(values) -> dict[str, list]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    assert describe(model.graph.input) == {"image": ["N", 64, 64, 3]}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert describe(model.graph.output) == {
        "joints": ["N", 5, 3],
        "vertices": ["N", 20, 3],
        "camera": ["N", 3],
        "confidence": ["N", 5],
    }
    assert model.opset_import[0].version >= 17
    operators = {node.op_type for node in model.graph.node}
    assert "LayerNormalization" in operators
    assert "BatchNormalization" not in operators


def test_model_carries_no_paths_of_this_machine(exported) -> None:
    assert str(Path(__file__).resolve().parents[2]).encode() not in exported[1]


def test_model_agrees_with_torch(exported) -> None:
    metro, model = exported
    differences = check_against_torch(model, metro, probe_crops(64))
    assert set(differences) == {"joints", "vertices", "camera", "confidence"}
    assert max(differences.values()) < 1e-4


def test_probes_tell_images_apart(exported) -> None:
    metro, _ = exported
    with torch.no_grad():
        joints = metro(Normalize()(torch.from_numpy(probe_crops(64)))).joints
    distances = torch.cdist(joints.flatten(1), joints.flatten(1)) + torch.eye(len(joints))
    assert distances.min() > 1e-3


@pytest.mark.parametrize("layer", ["cls_head", "upsampling", "confidence"])
def test_a_disagreement_is_refused(exported, layer: str) -> None:
    metro, model = exported
    weight = {
        "cls_head": metro.trans_encoder[-1].cls_head.bias,
        "upsampling": metro.upsampling.bias,
        "confidence": metro.keypoint_head.confidence.bias,
    }[layer]
    with torch.no_grad():
        weight[0] += 0.01
        try:
            with pytest.raises(ExportError, match="disagrees with torch"):
                check_against_torch(model, metro, probe_crops(64))
        finally:
            weight[0] -= 0.01


def test_nothing_is_written_when_onnx_disagrees(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metro, model = exported
    monkeypatch.setattr("training.export.export_onnx", lambda *_: model)
    with torch.no_grad():
        metro.trans_encoder[0].cls_head.bias[0] += 0.05
        try:
            with pytest.raises(ExportError):
                export_bundle(metro, small_config("default"), BundleInfo(), tmp_path / "bundle")
        finally:
            metro.trans_encoder[0].cls_head.bias[0] -= 0.05
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_nan_is_refused(exported) -> None:
    metro, model = exported
    with torch.no_grad():
        bias = metro.upsampling2.bias[0].item()
        metro.upsampling2.bias[0] = float("nan")
        try:
            with pytest.raises(ExportError, match="nan"):
                check_against_torch(model, metro, probe_crops(64))
        finally:
            metro.upsampling2.bias[0] = bias


def test_command_line_makes_a_bundle_from_a_checkpoint(small_network, tmp_path: Path, capsys) -> None:
    metro, config = small_network("default")
    save_checkpoint(tmp_path / "last.safetensors", metro, config, {"name": "tiny-metro", "padding": 1.3})
    assert main(["--checkpoint", str(tmp_path / "last.safetensors"), "--output", str(tmp_path / "bundle")]) == 0
    assert "agrees with torch" in capsys.readouterr().out
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.manifest.name == "tiny-metro"
    assert (bundle.manifest.crop.size, bundle.manifest.crop.padding) == (64, 1.3)
    assert bundle.manifest.camera_frame == "crop_ray"
    assert bundle.levels == (6, 10, 20)
    np.testing.assert_array_equal(bundle.template, metro.mesh.template)
    assert bundle.part_file("attention") is None, "it comes only when asked for"


@pytest.mark.parametrize("content", [None, b"not a checkpoint"])
def test_command_line_explains_a_bad_checkpoint_in_one_line(tmp_path: Path, capsys, content: bytes | None) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert main(["--checkpoint", str(path), "--output", str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot read ")
    assert error.count("\n") == 1


def test_checkpoint_round_trip(small_network, tmp_path: Path) -> None:
    metro, config = small_network("paper_hand")
    save_checkpoint(tmp_path / "a.safetensors", metro, config, {"name": "x"})
    loaded, loaded_config, fields = load_checkpoint(tmp_path / "a.safetensors")
    assert (loaded_config, fields) == (config, {"name": "x"})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).vertices[-1], metro(images).vertices[-1], rtol=0, atol=0)


def test_original_weights_must_be_complete_and_known(small_network) -> None:
    metro, _ = small_network("paper_body")
    state = {key: torch.zeros_like(value) for key, value in metro.state_dict().items()}
    load_original_weights(metro, {**state, "trans_encoder.0.bert.pooler.dense.weight": torch.zeros(2, 2)})
    assert metro.conv_learn_tokens.weight.abs().max() == 0
    with pytest.raises(ConfigError, match=r"surprise\.weight"):
        load_original_weights(metro, {**state, "surprise.weight": torch.zeros(1)})
    del state["conv_learn_tokens.bias"]
    with pytest.raises(ConfigError, match=r"conv_learn_tokens\.bias"):
        load_original_weights(metro, state)


def test_a_mesh_without_faces_makes_no_bundle() -> None:
    with pytest.raises(ConfigError, match="body-431"):
        mesh_arrays(body_431(np.zeros((445, 3), np.float32)))


def test_unknown_bundle_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match="colour"):
        BundleInfo.from_dict({"colour": "blue"})


def test_the_command_line_fills_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    config = small_config("default")
    save_checkpoint(tmp_path / "net.safetensors", scramble(build(config, make_mesh())), config)
    (tmp_path / "info.json").write_text('{"name": "mine", "measured": {"limits": ["indoors"]}}')
    words = ["--checkpoint", tmp_path / "net.safetensors", "--output", tmp_path / "bundle"]
    words += ["--info", tmp_path / "info.json"]
    assert main([*map(str, words)]) == 0
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.name == "mine"
    assert manifest.measured == {"limits": ["indoors"]}

    for wrong in ("{", "[]", '{"unknown": 9}'):
        (tmp_path / "info.json").write_text(wrong)
        assert main([*map(str, words)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
