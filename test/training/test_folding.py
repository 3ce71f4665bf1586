"""Folding changes the arithmetic, not the function."""

from dataclasses import replace

import pytest
import torch
from tiny_network import make_mesh, scramble, small_config

from training.build import build, count_parameters
from training.export import check_against_torch, export_onnx, probe_crops
from training.folding import FoldedMetro
from training.network import Metro
from training.network_config import SmallNetConfig


@pytest.mark.parametrize("kind", ["default", "paper_body", "paper_hand"])
@pytest.mark.parametrize("hidden", [(8,), (16, 8), (32, 16, 24)])
def test_folded_network_is_the_same_function(small_network, kind: str, hidden: tuple[int, ...]) -> None:
    """In float64, where nothing but a mistake is larger than 1e-9."""
    metro = small_network(kind, hidden)[0].double()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        whole, folded = metro(images), FoldedMetro(metro)(images)
    assert (whole.joints[0] - whole.joints[1]).abs().max() > 1e-3, "the image must matter for this to mean anything"
    for ours, theirs in (
        (folded.joints, whole.joints),
        (folded.vertices, whole.vertices[-1]),
        (folded.camera, whole.camera),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    if kind == "default":
        torch.testing.assert_close(folded.confidence, whole.confidence.sigmoid(), rtol=1e-9, atol=1e-9)
    else:
        assert folded.confidence is None


def local_network(kind: str, hidden: tuple[int, ...] = (16, 8)) -> Metro:
    torch.manual_seed(3)
    return scramble(build(replace(small_config(kind, hidden), attention="local"), make_mesh((30, 40, 50))))


@pytest.mark.parametrize("kind", ["default", "paper_body", "paper_hand"])
def test_folded_network_attends_to_the_same_neighbours(kind: str) -> None:
    metro = local_network(kind).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        whole, folded = metro(images), FoldedMetro(metro)(images)
        for block in metro.blocks():
            block.attention_mask.zero_()
        free = metro(images)
    torch.testing.assert_close(folded.joints, whole.joints, rtol=1e-9, atol=1e-9)
    assert (free.joints - whole.joints).abs().max() > 1e-4, "the mask must matter for this to mean anything"


def test_local_attention_survives_the_export() -> None:
    metro = local_network("default", (8,))
    differences = check_against_torch(export_onnx(FoldedMetro(metro), 64), metro, probe_crops(64))
    assert set(differences) == {"joints", "vertices", "camera", "confidence"}


def test_free_attention_has_no_mask(small_network) -> None:
    metro, _ = small_network("default")
    assert FoldedMetro(metro).attention_mask is None
    assert all(block.attention_mask is None for block in metro.blocks())


@pytest.mark.parametrize("block", ["basic", "inverted", "wide_kernel"])
def test_every_kind_of_block_folds_and_starts_as_its_shortcut(block: str) -> None:
    torch.manual_seed(0)
    config = replace(small_config("default"), backbone=SmallNetConfig(8, (8, 12, 16), (1, 1, 2), 12, 1, block))
    metro = build(config, make_mesh())
    last = metro.backbone.stages[2][1]
    maps = torch.rand(1, 16, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(last.eval()(maps), maps)
    metro = scramble(metro).double()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    folded = FoldedMetro(metro)
    with torch.no_grad():
        torch.testing.assert_close(folded(images).vertices, metro(images).vertices[-1], rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_folded_network_has_no_batch_norm_left(small_network) -> None:
    metro, _ = small_network("paper_body")
    folded = FoldedMetro(metro)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in metro.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_folding_leaves_the_network_alone(small_network) -> None:
    metro, _ = small_network("default")
    before = {key: value.clone() for key, value in metro.state_dict().items()}
    folded = FoldedMetro(metro)
    assert count_parameters(folded) < count_parameters(metro)
    assert all(torch.equal(before[key], value) for key, value in metro.state_dict().items())


def test_a_network_in_training_is_refused(small_network) -> None:
    metro, _ = small_network("default")
    with pytest.raises(ValueError, match="eval"):
        FoldedMetro(metro.train())
