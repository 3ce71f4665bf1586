"""Original checkpoints, imported from the command line, meet the original networks' figures.

Of the body these are the reference's (test/data/body_a.npz; its two images differ by 0.025 in the mean, so the bounds
notice a wrong image path). Of the hand there is none, so its forward pass is written out here once more, plainly.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from reference_weights import DATA, body_shapes, hand_shapes, parameter_count, reference_state, reference_weight

from metro_ros.core.bundle import Bundle, load_bundle
from training import import_checkpoint
from training.network import Metro
from training.normalize import Normalize

Figures = dict[str, np.ndarray]
BLOCKS, LAYERS, HEADS, TOKENS, JOINTS = 3, 4, 4, 216, 21


class Imported(NamedTuple):
    """The bundle that the command line made, and what torch, unfolded, and ONNX Runtime say of the images."""

    bundle: Bundle
    eager: Figures
    onnx: Figures


def images() -> np.ndarray:
    return np.random.RandomState(101).randint(0, 256, (2, 224, 224, 3)).astype(np.uint8)


def import_and_run(
    kind: str, state: dict[str, torch.Tensor], template: np.ndarray, folder: Path, old: bool
) -> Imported:
    """One large network at a time: it speaks on its way from the command line to the exporter."""
    torch.save(state, folder / "state_dict.bin", _use_new_zipfile_serialization=not old)
    np.savez(folder / "template.npz", template=template)
    eager: Figures = {}

    def listen(metro: Metro, *others: Any, **named: Any) -> Bundle:
        eager.update(eager_figures(metro))
        return export(metro, *others, **named)

    export = import_checkpoint.export_bundle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_checkpoint, "export_bundle", listen)
        patch.setattr("training.export.probe_crops", lambda size: images())  # its seven crops take ten seconds
        words = ["--kind", kind, "--checkpoint", folder / "state_dict.bin", "--template", folder / "template.npz"]
        assert import_checkpoint.main([*map(str, words), "--output", str(folder / "bundle")]) == 0
    (folder / "state_dict.bin").unlink()
    bundle = load_bundle(folder / "bundle")
    session = onnxruntime.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])
    names = ["joints", "vertices", "camera"]
    return Imported(bundle, eager, dict(zip(names, session.run(names, {"image": images()}), strict=True)))


@torch.no_grad()
def eager_figures(metro: Metro) -> Figures:
    crops = Normalize()(torch.from_numpy(images()))
    output = metro(crops)
    named = {"camera": output.camera, "joints": output.joints, "coarse": output.vertices[0]}
    named |= {"mid": output.vertices[-2], "vertices": output.vertices[-1]}
    if metro.conv_learn_tokens is None:
        named["pooled"] = metro.backbone(crops).image
    return {name: tensor.numpy() for name, tensor in named.items()}


@pytest.fixture(scope="module")
def expected() -> Figures:
    with np.load(DATA / "body_a.npz") as file:
        figures = {key: file[key] for key in file.files}
    return figures | {"vertices": figures["full"]}


def import_body(folder: Path) -> Imported:
    with np.load(DATA / "body_a.npz") as file:
        template = file["template"]
    # Before torch 1.6, when the original weights were made, files were written in another way.
    return import_and_run("body", reference_state(body_shapes()), template, folder, old=True)


@pytest.mark.parametrize("name", ["camera", "joints", "coarse", "mid", "vertices"])
def test_eager_body_meets_the_reference(body: Imported, expected: Figures, name: str) -> None:
    assert body.eager[name].shape == expected[name].shape
    np.testing.assert_allclose(body.eager[name], expected[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["camera", "joints", "vertices"])
def test_imported_body_meets_the_reference(body: Imported, expected: Figures, name: str) -> None:
    assert body.onnx[name].shape == expected[name].shape
    np.testing.assert_allclose(body.onnx[name], expected[name], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def hand_template() -> np.ndarray:
    return np.random.RandomState(7).normal(0, 0.05, (TOKENS, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def hand(hand_template: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    state = reference_state(hand_shapes())
    return import_and_run("hand", state, hand_template, tmp_path_factory.mktemp("hand"), old=False)


@pytest.mark.parametrize("name", ["camera", "joints", "vertices"])
def test_imported_hand_meets_the_eager_network(hand: Imported, name: str) -> None:
    np.testing.assert_allclose(hand.onnx[name], hand.eager[name], rtol=0, atol=1e-4)


def test_eager_hand_meets_its_plain_forward_pass(hand: Imported, hand_template: np.ndarray) -> None:
    expected = hand_forward(torch.from_numpy(hand.eager["pooled"]), torch.from_numpy(hand_template))
    for name, want in expected.items():
        assert hand.eager[name].shape == want.shape
        np.testing.assert_allclose(hand.eager[name], want, rtol=0, atol=2e-5)


def test_hand_s_pooled_vector_sees_the_image(hand: Imported) -> None:
    assert hand.eager["pooled"].shape == (2, 2048)
    assert np.abs(hand.eager["vertices"][0] - hand.eager["vertices"][1]).mean() > 1e-3


def test_keys_and_totals_are_the_original_s() -> None:
    for shapes, keys, transformer in ((body_shapes(), 2202, 102_256_646), (hand_shapes(), 2198, 101_182_022)):
        assert len(shapes) == keys
        for part, total in (("trans_encoder.", transformer), ("backbone.", 128_059_944)):
            assert parameter_count({key: shape for key, shape in shapes.items() if key.startswith(part)}) == total


def test_body_s_blocks_have_the_keys_that_the_hand_s_are_made_from() -> None:
    first = [key for key in body_shapes() if key.startswith("trans_encoder.")]
    assert [key for key in hand_shapes() if key.startswith("trans_encoder.")] == first


def hand_forward(pooled: torch.Tensor, template: torch.Tensor) -> Figures:
    """The original hand behind its backbone, in float64: one vector (N, 2048) for all tokens, the template first."""
    shapes = hand_shapes()

    def weight(key: str) -> torch.Tensor:
        return reference_weight(key, shapes[key]).double()

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weight(f"{name}.weight").T + weight(f"{name}.bias")

    def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weight(f"{name}.weight"), weight(f"{name}.bias"), eps=1e-12)

    count = len(pooled)
    tokens = torch.cat([template.expand(count, -1, -1), pooled[:, None].expand(-1, TOKENS, -1)], dim=2).double()
    for block in range(BLOCKS):
        bert = f"trans_encoder.{block}.bert"
        x = linear(tokens, f"{bert}.img_embedding") + weight(f"{bert}.position_embeddings.weight")[:TOKENS]
        for layer in range(LAYERS):
            name = f"{bert}.encoder.layer.{layer}"
            query, key, value = (
                linear(x, f"{name}.attention.self.{part}").reshape(count, TOKENS, HEADS, -1).permute(0, 2, 1, 3)
                for part in ("query", "key", "value")
            )
            attention = torch.softmax(query @ key.transpose(2, 3) / query.shape[3] ** 0.5, dim=3)
            mixed = (attention @ value).permute(0, 2, 1, 3).reshape(count, TOKENS, -1)
            x = normalised(linear(mixed, f"{name}.attention.output.dense") + x, f"{name}.attention.output.LayerNorm")
            wide = F.gelu(linear(x, f"{name}.intermediate.dense"))
            x = normalised(linear(wide, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
        tokens = linear(x, f"trans_encoder.{block}.cls_head") + linear(tokens, f"trans_encoder.{block}.residual")
    joints, coarse = tokens[:, :JOINTS], tokens[:, JOINTS:]
    vertices = weight("upsampling.weight") @ coarse + weight("upsampling.bias")[:, None]
    camera = linear(linear(linear(tokens, "cam_param_fc")[:, :, 0], "cam_param_fc2"), "cam_param_fc3")
    named = {"camera": camera, "joints": joints, "coarse": coarse, "vertices": vertices}
    return {name: tensor.numpy() for name, tensor in named.items()}
