"""ImageNet backbones in the formats they come in, of a size that fits a test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_network import make_mesh, small_config
from torch import Tensor

from metro_ros.core.errors import ConfigError, SourceError
from training.build import build
from training.hrnet import HRNet
from training.network import Metro
from training.network_config import HRNetConfig
from training.pretrained import load_backbone_weights


@pytest.fixture
def metro() -> Metro:
    torch.manual_seed(0)
    return build(small_config("paper_body"), make_mesh())


@pytest.fixture
def published() -> dict[str, Tensor]:
    """All of a trained HRNet of width 4, and the classifier that METRO leaves out."""
    torch.manual_seed(1)
    weights = HRNet(width=4, pooled=False).state_dict()
    weights["bn1.running_mean"] += 0.5
    return {**weights, "classifier.weight": torch.randn(10, 2048), "classifier.bias": torch.randn(10)}


def write_pth(weights: dict[str, Tensor], path: Path) -> Path:
    torch.save(weights, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def write_old_pth(weights: dict[str, Tensor], path: Path) -> Path:
    torch.save(weights, path.with_suffix(".pth"), _use_new_zipfile_serialization=False)
    return path.with_suffix(".pth")


def write_nested(weights: dict[str, Tensor], path: Path) -> Path:
    renamed = {f"module.{name}": value for name, value in weights.items()}
    torch.save({"epoch": 3, "state_dict": renamed}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def write_safetensors(weights: dict[str, Tensor], path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in weights.items()}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.mark.parametrize("write", [write_pth, write_old_pth, write_nested, write_safetensors])
def test_every_format_fills_the_backbone(
    metro: Metro, published: dict[str, Tensor], tmp_path: Path, write: Callable[[dict[str, Tensor], Path], Path]
) -> None:
    head = metro.cam_param_fc.weight.clone()
    report = load_backbone_weights(metro, write(published, tmp_path / "hrnet"))
    own = metro.backbone.state_dict()
    assert all(torch.equal(value, published[name]) for name, value in own.items())
    assert sorted(report.loaded) == sorted(own)
    assert sorted(report.ignored) == ["classifier.bias", "classifier.weight"]
    assert report.missing == ()
    assert torch.equal(metro.cam_param_fc.weight, head), "nothing but the backbone"
    assert str(report) == f"{len(own)} weights loaded, 2 ignored, 0 missing"


def test_other_shapes_are_ignored_and_lost_names_reported(
    metro: Metro, published: dict[str, Tensor], tmp_path: Path
) -> None:
    published["final_layer.0.weight"] = torch.randn(3, 1024, 1, 1)
    del published["conv1.weight"]
    before = metro.backbone.conv1.weight.clone()
    report = load_backbone_weights(metro, write_pth(published, tmp_path / "hrnet"))
    assert report.missing == ("conv1.weight", "final_layer.0.weight")
    assert "final_layer.0.weight" in report.ignored
    assert torch.equal(metro.backbone.conv1.weight, before)


def test_another_network_is_refused_and_nothing_changes(metro: Metro, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in metro.state_dict().items()}
    stem = {name: value for name, value in HRNet(width=4, pooled=False).state_dict().items() if name.startswith("conv")}
    with pytest.raises(ConfigError, match="at least half"):
        load_backbone_weights(metro, write_pth(stem, tmp_path / "stem"))
    small = build(small_config("default"), make_mesh())
    whole = write_pth(HRNet(width=4, pooled=False).state_dict(), tmp_path / "whole")
    with pytest.raises(ConfigError, match="SmallNet"):
        load_backbone_weights(small, whole)
    assert all(torch.equal(before[name], value) for name, value in metro.state_dict().items())


def test_nan_is_refused(metro: Metro, published: dict[str, Tensor], tmp_path: Path) -> None:
    published["conv2.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"conv2\.weight"):
        load_backbone_weights(metro, write_safetensors(published, tmp_path / "hrnet"))
    assert torch.isfinite(metro.backbone.conv2.weight).all()


def test_a_width_of_its_own_is_asked_for(published: dict[str, Tensor], tmp_path: Path) -> None:
    """Stem and head are alike at all widths, and less than half of the whole."""
    wider = build(replace(small_config("paper_body"), backbone=HRNetConfig(width=8)), make_mesh())
    with pytest.raises(ConfigError, match="as wide"):
        load_backbone_weights(wider, write_pth(published, tmp_path / "hrnet"))


@pytest.mark.parametrize("content", [None, b"", b"junk that is no file of weights", b"PK\x03\x04 broken"])
def test_no_file_and_damaged_files_are_refused(metro: Metro, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError):
        load_backbone_weights(metro, path)


def test_a_file_that_would_run_code_is_refused(metro: Metro, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": Path("anything")}, path)
    with pytest.raises(SourceError, match="pathlib"):
        load_backbone_weights(metro, path)
