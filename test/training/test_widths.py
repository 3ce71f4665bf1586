"""Blocks of constant width: as much arithmetic as the narrowing ones, and counted as torch counts it."""

import numpy as np
import pytest
import torch
from tiny_network import make_mesh, small_config
from torch.utils.flop_counter import FlopCounterMode

from metro_ros.core.errors import ConfigError
from training.build import build, default, paper_body, paper_hand, token_features
from training.mesh_spec import MeshSpec, body_431, hand_195
from training.network_config import MetroConfig
from training.widths import constant_width, transformer_macs


def paper_mesh(kind: str) -> MeshSpec:
    if kind == "paper_body":
        return body_431(np.zeros((445, 3), np.float32))
    return hand_195(np.zeros((216, 3), np.float32))


@pytest.mark.parametrize("kind", ["default", "paper_body", "paper_hand"])
def test_macs_are_what_torch_counts(kind: str) -> None:
    config, mesh = small_config(kind, (16, 8, 24)), make_mesh()
    metro = build(config, mesh).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        metro.attend(torch.zeros(1, mesh.token_count, token_features(config, mesh)))
    assert transformer_macs(config, mesh) == counter.get_total_flops() // 2


def test_the_papers_transformer_costs_what_is_published() -> None:
    """56.4 GMAC in all, of which the backbone's are 28.9."""
    assert transformer_macs(paper_body(), paper_mesh("paper_body")) / 1e9 == pytest.approx(56.4 - 28.9, abs=0.1)


@pytest.mark.parametrize(
    ("config", "mesh"),
    [
        (default(), make_mesh((111, 300, 400), 17)),
        (paper_body(), paper_mesh("paper_body")),
        (paper_hand(), paper_mesh("paper_hand")),
    ],
    ids=["default", "paper_body", "paper_hand"],
)
def test_constant_width_costs_as_much(config: MetroConfig, mesh: MeshSpec) -> None:
    made = constant_width(config, mesh)
    assert len({block.hidden for block in made.blocks}) == 1
    hidden = made.blocks[0].hidden
    assert min(block.hidden for block in config.blocks) < hidden < config.blocks[0].hidden
    assert [block.out_features for block in made.blocks] == [hidden] * (len(config.blocks) - 1) + [3]
    assert [block.layers for block in made.blocks] == [block.layers for block in config.blocks]
    ratio = config.blocks[0].feed_forward / config.blocks[0].hidden
    assert {block.feed_forward / hidden for block in made.blocks} == {ratio}
    assert transformer_macs(made, mesh) == pytest.approx(transformer_macs(config, mesh), rel=0.05)


def test_a_constant_width_runs_at_the_width_asked_for() -> None:
    config, mesh = small_config("paper_body", (16, 8)), make_mesh()
    metro = build(constant_width(config, mesh, 12), mesh).eval()
    assert [block.bert.img_embedding.out_features for block in metro.blocks()] == [12, 12]
    assert metro(torch.zeros(1, 3, 64, 64)).joints.shape == (1, 5, 3)


@pytest.mark.parametrize("hidden", [0, 7, -4])
def test_a_width_that_heads_cannot_share_is_refused(hidden: int) -> None:
    with pytest.raises(ConfigError, match="heads"):
        constant_width(small_config("default"), make_mesh(), hidden)
