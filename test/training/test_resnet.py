"""ResNet against the published sizes, and as the backbone of a network that is folded."""

from dataclasses import replace

import pytest
import torch
from tiny_network import make_mesh, scramble, small_config
from torch.utils.flop_counter import FlopCounterMode

from metro_ros.core.errors import ConfigError
from training.build import build, default, paper_body, paper_hand, with_architecture
from training.folding import FoldedMetro
from training.network_config import HRNetConfig, ResNetConfig, config_from_dict, config_to_dict
from training.resnet import ResNet

CLASSIFIER = 2048 * 1000 + 1000


@pytest.mark.parametrize(
    ("depth", "parameters", "giga_macs"), [(50, 25_557_032, 4.09), (101, 44_549_160, 7.80), (152, 60_192_808, 11.51)]
)
def test_sizes_meet_the_published_ones(depth: int, parameters: int, giga_macs: float) -> None:
    with torch.device("meta"):
        backbone = ResNet(depth=depth, pooled=False).eval()
    with FlopCounterMode(display=False) as counter:
        image = backbone(torch.zeros(1, 3, 224, 224, device="meta")).image
    assert tuple(image.shape) == (1, 2048, 7, 7)
    assert sum(p.numel() for p in backbone.parameters()) + CLASSIFIER == parameters
    assert (counter.get_total_flops() / 2 + CLASSIFIER) / 1e9 == pytest.approx(giga_macs, abs=0.006)


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        state = ResNet(depth=50, pooled=False).state_dict()
    assert len(state) == 320 - 2
    assert tuple(state["layer2.0.downsample.0.weight"].shape) == (512, 256, 1, 1)
    assert tuple(state["layer4.2.conv3.weight"].shape) == (2048, 512, 1, 1)
    assert "layer3.5.bn3.running_var" in state


@pytest.mark.parametrize("kind", ["paper_body", "paper_hand"])
def test_a_network_with_it_runs_and_folds(kind: str) -> None:
    torch.manual_seed(0)
    config = with_architecture(small_config(kind), "resnet50")
    metro = scramble(build(config, make_mesh())).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        whole, folded = metro(images), FoldedMetro(metro)(images)
    torch.testing.assert_close(folded.vertices, whole.vertices[-1], rtol=1e-9, atol=1e-9)
    assert (metro.conv_learn_tokens is None) == (kind == "paper_hand")


def test_architectures_keep_the_rest_of_a_preset() -> None:
    assert with_architecture(paper_body(), "hrnet-w64") == paper_body()
    assert with_architecture(paper_hand(), "hrnet-w64") == paper_hand()
    assert with_architecture(paper_body(), "hrnet").backbone == HRNetConfig(width=40)
    body = with_architecture(paper_body(), "resnet50")
    assert body == replace(paper_body(), backbone=ResNetConfig(depth=50))
    assert config_from_dict(config_to_dict(body)) == body


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="resnet50"):
        with_architecture(paper_body(), "resnet51")
    with pytest.raises(ConfigError, match="heatmaps"):
        with_architecture(default(), "resnet50")
    with pytest.raises(ConfigError, match="depth"):
        ResNetConfig(depth=49)
