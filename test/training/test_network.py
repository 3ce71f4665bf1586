"""METRO by mesh spec: names, sizes, shapes, and what flows where."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_network import small_config

from metro_ros.core.errors import ConfigError
from training.build import build, default, paper_body, paper_hand
from training.heads import MIN_SCALE, KeypointHead, features_at_joints, fit_camera, project
from training.masking import MASKED_VALUE
from training.mesh_spec import MeshSpec, body_431, hand_195
from training.network import Metro
from training.network_config import HRNetConfig, config_from_dict, config_to_dict
from training.transformer import TransformerBlock

DATA = Path(__file__).resolve().parents[1] / "data"
WORDS, POSITIONS, TYPES = 30522, 512, 2


def meta_network(kind: str) -> Metro:
    """A paper-sized network without memory: names and shapes only."""
    zeros = np.zeros((445 if kind == "paper_body" else 216, 3), np.float32)
    with torch.device("meta"):
        if kind == "paper_body":
            return build(paper_body(), body_431(zeros)).eval()
        return build(paper_hand(), hand_195(zeros)).eval()


def dead_parameters(block: TransformerBlock) -> int:
    """Word, position and type tables with their LayerNorm, and the pooler, as the original carries them."""
    hidden = block.bert.img_embedding.out_features
    return (WORDS + POSITIONS + TYPES + 2) * hidden + hidden * hidden + hidden


def test_body_has_the_original_names_and_shapes() -> None:
    shapes = json.loads((DATA / "body_keys.json").read_text())
    assert len(shapes) == 2202
    own = {key: list(value.shape) for key, value in meta_network("paper_body").state_dict().items()}
    assert {key: shapes.get(key) for key in own} == own
    unused = [key for key in shapes if key not in own]
    assert len(unused) == 23
    assert all(
        any(part in key for part in ("bert.embeddings.", "bert.pooler.", "backbone.classifier.")) for key in unused
    )


def test_hand_has_as_many_entries_as_the_original_without_the_unused() -> None:
    state = meta_network("paper_hand").state_dict()
    assert len(state) == 2198 - 23
    assert list(state["upsampling.weight"].shape) == [778, 195]
    assert list(state["cam_param_fc2.weight"].shape) == [150, 216]
    assert "conv_learn_tokens.weight" not in state


@pytest.mark.parametrize(
    ("kind", "blocks", "total"),
    [
        ("paper_body", [79_025_664, 15_734_016, 7_496_966], 102_256_646),
        ("paper_hand", [87_418_368, 11_531_520, 2_232_134], 101_182_022),
    ],
)
def test_block_parameters_meet_the_official_totals(kind: str, blocks: list[int], total: int) -> None:
    counts = [
        sum(parameter.numel() for parameter in block.parameters()) + dead_parameters(block)
        for block in meta_network(kind).trans_encoder
    ]
    assert counts == blocks
    assert sum(counts) == total


def test_body_parameters_outside_the_blocks_meet_the_official_totals() -> None:
    metro = meta_network("paper_body")
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in metro.named_children()}
    assert counts.pop("backbone") + 1000 * 2048 + 1000 == 128_059_944
    del counts["trans_encoder"]
    assert sum(counts.values()) == 12_753_703


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("paper_body", [(2, 14, 3), (2, 431, 3), (2, 1723, 3), (2, 6890, 3)]),
        ("paper_hand", [(2, 21, 3), (2, 195, 3), (2, 778, 3)]),
    ],
)
def test_paper_networks_give_these_shapes(kind: str, shapes: list[tuple[int, ...]]) -> None:
    metro = meta_network(kind).to("meta")
    output = metro(torch.zeros(2, 3, 224, 224, device="meta"))
    assert [tuple(tensor.shape) for tensor in (output.joints, *output.vertices)] == shapes
    assert tuple(output.camera.shape) == (2, 3)


def test_default_network_gives_every_output(small_network, mesh: MeshSpec) -> None:
    metro, _ = small_network("default")
    output = metro(torch.randn(3, 3, 64, 64))
    assert [tuple(level.shape) for level in output.vertices] == [(3, 6, 3), (3, 10, 3), (3, 20, 3)]
    assert output.joints.shape == (3, mesh.joint_count, 3)
    assert output.keypoints.shape == (3, mesh.joint_count, 2)
    assert output.confidence.shape == (3, mesh.joint_count)
    assert output.heatmaps.shape == (3, mesh.joint_count, 16, 16)
    assert output.mask.shape == (3, 1, 16, 16)
    assert output.surface.shape == (3, 3, 16, 16)


def test_levels_that_nobody_asked_for_are_none(small_network) -> None:
    metro, _ = small_network("default")
    images = torch.randn(2, 3, 64, 64)
    some, everything = metro(images, levels=2), metro(images)
    assert some.vertices[2] is None
    torch.testing.assert_close(some.vertices[1], everything.vertices[1])


def test_every_learned_parameter_gets_a_gradient(small_network) -> None:
    metro, config = small_network("default")
    metro.train()
    output = metro(torch.randn(4, 3, 64, 64))
    loss = sum(
        value.square().mean()
        for value in (output.camera, *output.vertices, output.confidence, output.heatmaps, output.mask, output.surface)
    )
    loss.backward()
    for name, parameter in metro.named_parameters():
        frozen = name.startswith("upsampling2") and not config.train_upsampling[1]
        assert parameter.requires_grad != frozen, name
        assert frozen or (parameter.grad is not None and parameter.grad.abs().sum() > 0), name


def test_upsampling_starts_from_the_mesh(mesh: MeshSpec) -> None:
    metro = build(small_config("default"), mesh)
    coarse = torch.randn(1, 6, 3)
    _, middle, _ = metro.upsample(coarse)
    torch.testing.assert_close(middle[0], torch.from_numpy(mesh.upsampling[0]) @ coarse[0])


def test_tokens_are_template_then_image_then_keypoints(small_network, mesh: MeshSpec) -> None:
    metro, _ = small_network("default")
    image, keypoints, confidence = torch.randn(2, 16, 4, 4), torch.randn(2, 5, 2), torch.randn(2, 5)
    at_joints = torch.randn(2, mesh.joint_count, 12)
    tokens = metro.tokens(image, keypoints, confidence, at_joints)
    assert tokens.shape == (2, mesh.token_count, 3 + 16 + 15 + 12)
    torch.testing.assert_close(tokens[1, :, :3], torch.from_numpy(mesh.template_tokens))
    mix, bias = metro.conv_learn_tokens.weight[4, :, 0], metro.conv_learn_tokens.bias[4]
    torch.testing.assert_close(tokens[1, 4, 3:19], mix @ image[1].flatten(1).T + bias)
    torch.testing.assert_close(tokens[1, 4, 19:29], keypoints[1].flatten())
    torch.testing.assert_close(tokens[1, 4, 29:34], confidence[1].sigmoid())
    torch.testing.assert_close(tokens[:, : mesh.joint_count, 34:], at_joints)
    assert (tokens[:, mesh.joint_count :, 34:] == 0).all()
    torch.testing.assert_close(metro.tokens(image, keypoints, confidence, None)[..., :34], tokens[..., :34])
    assert (metro.tokens(image, keypoints, confidence, None)[..., 34:] == 0).all()


def test_features_at_joints_are_the_map_where_the_heatmap_is() -> None:
    fine = torch.randn(1, 3, 4, 5)
    heatmaps = torch.zeros(1, 2, 4, 5)
    heatmaps[0, 0, 1, 3] = 50.0  # sure of one cell
    found = features_at_joints(heatmaps, fine)
    torch.testing.assert_close(found[0, 0], fine[0, :, 1, 3])
    torch.testing.assert_close(found[0, 1], fine[0].mean(dim=(1, 2)))  # no idea: the mean


def test_hidden_tokens_keep_nothing_of_the_image(small_network, mesh: MeshSpec) -> None:
    """With every token hidden, the joints can't depend on the picture."""
    metro, _ = small_network("default")
    mask = torch.zeros(2, mesh.token_count, 1)
    joints = metro(torch.randn(2, 3, 64, 64), mask).joints
    torch.testing.assert_close(joints[0], joints[1])
    seen = []
    handle = metro.trans_encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    metro(torch.randn(2, 3, 64, 64), mask)
    handle.remove()
    assert torch.all(seen[0] == MASKED_VALUE)


def test_block_is_post_norm_attention_with_a_residual_from_its_input() -> None:
    """Against the same arithmetic written out for one layer and one token, where attention is the identity."""
    torch.manual_seed(0)
    block = TransformerBlock(
        in_features=5, hidden=8, feed_forward=12, out_features=3, layers=1, heads=2, position_rows=4,
        dropout=0.0, layer_norm_eps=1e-12, init_std=0.5,
    )  # fmt: skip
    x = torch.randn(1, 1, 5)
    layer = block.bert.encoder.layer[0]
    e = block.bert.img_embedding(x) + block.bert.position_embeddings.weight[:1]
    attended = layer.attention.output.dense(layer.attention.self.value(e)) + e
    attended = (attended - attended.mean()) / attended.std(correction=0)
    feed = layer.intermediate.dense(attended)
    feed = 0.5 * feed * (1 + torch.erf(feed / 2**0.5))
    out = layer.output.dense(feed) + attended
    out = (out - out.mean()) / out.std(correction=0)
    torch.testing.assert_close(block(x), block.cls_head(out) + block.residual(x))


def make_block(neighbours: torch.Tensor | None = None, **changes: float) -> TransformerBlock:
    torch.manual_seed(0)
    sizes = dict(in_features=5, hidden=8, feed_forward=12, out_features=3, layers=1, heads=2, position_rows=6)
    numbers = dict(dropout=0.0, layer_norm_eps=1e-12, init_std=0.5) | changes
    return TransformerBlock(**sizes, **numbers, neighbours=neighbours)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_local_attention_sees_neighbours_and_nothing_else(dtype: torch.dtype) -> None:
    """One layer of a path of six tokens: what token 2 becomes depends on 1, 2 and 3 alone."""
    apart = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    block = make_block(apart <= 1).to(dtype)
    tokens = torch.randn(1, 6, 5).to(dtype)
    out = block(tokens)[0, 2]
    assert torch.isfinite(out).all()
    for other in range(6):
        moved = tokens.clone()
        moved[0, other] += 1
        assert torch.equal(block(moved)[0, 2], out) == (abs(other - 2) > 1), other


def test_local_attention_changes_no_name_and_no_start(mesh: MeshSpec) -> None:
    networks = []
    for attention in ("free", "local"):
        torch.manual_seed(0)
        networks.append(build(replace(small_config("default"), attention=attention), mesh))
    free, local = (network.state_dict() for network in networks)
    assert free.keys() == local.keys()
    assert all(torch.equal(free[name], local[name]) for name in free)


def test_local_attention_needs_a_mesh_with_faces(mesh: MeshSpec) -> None:
    with pytest.raises(ConfigError, match="faces"):
        build(replace(small_config("default"), attention="local"), replace(mesh, faces=()))
    with pytest.raises(ConfigError, match="attention"):
        replace(default(), attention="near")


PLACES = ("bert.dropout", "attention.self", "attention.output.dropout", "output.dropout")
"""Where a block drops: embeddings, attention probabilities, both sums before a LayerNorm."""


@pytest.mark.parametrize("place", PLACES)
def test_dropout_is_at_its_four_places_in_training_only(place: str) -> None:
    block = make_block(dropout=0.0)
    names = [name for name, _ in block.named_modules() if name.endswith(place)]
    module = block.get_submodule(min(names, key=len))
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.5
    else:
        module.dropout = 0.5
    tokens = torch.randn(1, 6, 5)
    assert not torch.equal(block(tokens), block(tokens)), "drawn anew every time"
    block.eval()
    assert torch.equal(block(tokens), block(tokens))


@pytest.mark.parametrize("preset", [paper_body, paper_hand])
def test_the_papers_networks_drop_a_tenth(preset) -> None:
    assert {block.dropout for block in preset().blocks} == {0.1}
    block = make_block(dropout=0.1)
    assert [m.p for m in block.modules() if isinstance(m, torch.nn.Dropout)] == [0.1] * 3
    assert block.bert.encoder.layer[0].attention.self.dropout == 0.1


def test_keypoints_are_where_the_heatmap_peaks() -> None:
    head = KeypointHead(joints=2, image_channels=4)
    heatmaps = torch.full((1, 2, 8, 16), -50.0)
    heatmaps[0, 0, 1, 12] = 50.0
    heatmaps[0, 1, 6, 0] = 50.0
    heatmaps[0, 1, 7, 0] = 50.0
    position, _ = head(heatmaps, torch.zeros(1, 4, 2, 2))
    expected = torch.tensor([[[25 / 16 - 1, 3 / 8 - 1], [1 / 16 - 1, 14 / 8 - 1]]])
    torch.testing.assert_close(position, expected)


def test_camera_fit_finds_the_camera_that_made_the_keypoints() -> None:
    generator = torch.Generator().manual_seed(1)
    joints = torch.randn(3, 17, 3, generator=generator)
    camera = torch.tensor([[0.9, 0.1, -0.2], [0.4, -0.3, 0.2], [1.5, 0.0, 0.3]])
    keypoints = project(joints, camera)
    confidence = torch.randn(3, 17, generator=generator)
    torch.testing.assert_close(fit_camera(joints, keypoints, confidence), camera, atol=1e-3, rtol=0)
    wrong = keypoints.clone()
    wrong[:, 4] += 3.0
    confidence[:, 4] = -30.0
    error = (fit_camera(joints, wrong, confidence) - camera).abs().max()
    assert error < 0.01, "a joint that is not believed must not move the camera"


def test_camera_fit_never_mirrors() -> None:
    joints = torch.randn(1, 5, 3)
    camera = fit_camera(joints, -joints[..., :2], torch.zeros(1, 5))
    assert camera[0, 0] == pytest.approx(MIN_SCALE)


def test_config_survives_a_round_trip() -> None:
    for config in (default(), paper_body(), paper_hand(), replace(default(), attention="local")):
        assert config_from_dict(config_to_dict(config)) == config
    older = config_to_dict(default())
    del older["attention"]
    assert config_from_dict(older) == default()
    with pytest.raises(ConfigError, match="network config"):
        config_from_dict({**config_to_dict(default()), "depth": 3})


@pytest.mark.parametrize(
    "change",
    [{"train_upsampling": (True,)}, {"image_size": 100}],
)
def test_build_refuses_what_does_not_fit(mesh: MeshSpec, change: dict) -> None:
    with pytest.raises(ConfigError):
        build(replace(default(), **change), mesh)


def test_config_refuses_keypoints_without_heatmaps() -> None:
    with pytest.raises(ConfigError, match="heatmaps"):
        replace(default(), backbone=HRNetConfig())


@pytest.mark.parametrize(
    "change",
    [
        {"joint_parents": (0, 0, 1, 2, 3)},
        {"root_joints": (5,)},
        {"template_tokens": np.zeros((3, 3), np.float32)},
        {"template": np.full((20, 3), np.nan, np.float32)},
        {"faces": (np.zeros((1, 3), np.int32),)},
        {"rows": tuple(np.full(size, 20, np.int32) for size in (6, 10, 20))},
        {"upsampling": (np.zeros((10, 6), np.float32), np.zeros((10, 20), np.float32))},
    ],
)
def test_mesh_spec_refuses_contradictions(mesh: MeshSpec, change: dict) -> None:
    with pytest.raises(ConfigError):
        replace(mesh, **change)


def test_regressed_joints_follow_the_mesh(small_network, mesh: MeshSpec) -> None:
    metro, _ = small_network("default")
    vertices = torch.randn(2, 20, 3)
    expected = np.einsum("jv,nvc->njc", mesh.joint_regressor, vertices.numpy())
    np.testing.assert_allclose(metro.regress_joints(vertices).numpy(), expected, atol=1e-5)
