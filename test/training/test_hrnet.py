"""HRNet at the widths that exist, against the published costs, and that it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.hrnet import HRNet

CLASSIFIER_ENTRIES = 2


def test_w64_has_the_original_number_of_entries() -> None:
    with torch.device("meta"):
        assert len(HRNet(width=64, pooled=False).state_dict()) == 1956 - CLASSIFIER_ENTRIES


@pytest.mark.parametrize(
    ("width", "giga_macs", "million_parameters"),
    [(18, 4.3, 19.3), (32, 8.9, 39.2), (40, 12.7, 55.5), (64, 28.9, 126.0)],
)
def test_costs_meet_the_published_ones(width: int, giga_macs: float, million_parameters: float) -> None:
    with torch.device("meta"):
        backbone = HRNet(width=width, pooled=False).eval()
    with FlopCounterMode(display=False) as counter:
        features = backbone(torch.zeros(1, 3, 224, 224, device="meta"))
    assert tuple(features.image.shape) == (1, 2048, 7, 7)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=0.051)
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(million_parameters, abs=0.051)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in backbone.modules()) == 325


@pytest.mark.parametrize("width", [4, 18])
def test_pooled_is_the_mean_of_the_map(width: int) -> None:
    torch.manual_seed(0)
    full, pooled = HRNet(width=width, pooled=False).eval(), HRNet(width=width, pooled=True).eval()
    pooled.load_state_dict(full.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        grid, vector = full(images).image, pooled(images).image
    assert grid.shape == (2, 2048, 2, 2)
    assert grid.std() > 0
    torch.testing.assert_close(vector, grid.mean(dim=(2, 3)))
