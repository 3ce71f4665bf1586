"""Eyes part of the way back: the ends of the line are the two networks, tokens stay, and others are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_network import make_mesh, scramble, small_config

from training.blend import main
from training.build import build
from training.checkpoint import load_checkpoint, save_checkpoint
from training.export import BundleInfo, export_bundle
from training.network import Metro
from training.network_config import BlazePoseConfig

THIN = 0.125
PLAIN = replace(small_config("default"), image_size=192, backbone=BlazePoseConfig(THIN))
REFINED = replace(PLAIN, backbone=BlazePoseConfig(THIN, (1, 1, 1)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with start.safetensors, its bundle, and trained.safetensors, which has more layers."""
    folder = tmp_path_factory.mktemp("blend")
    for name, config, seed in (("start", PLAIN, 1), ("trained", REFINED, 2)):
        torch.manual_seed(seed)
        metro = scramble(build(config, make_mesh()), size=192)
        save_checkpoint(folder / f"{name}.safetensors", metro, config)
        if name == "start":
            export_bundle(metro, config, BundleInfo(), folder / "bundle")
    return folder


def blended(place: Path, start: str, share: float) -> Metro:
    words = ["--checkpoint", str(place / "trained.safetensors"), "--start", str(place / start), "--share", str(share)]
    assert main([*words, "--out", str(place / "out.safetensors")]) == 0
    return load_checkpoint(place / "out.safetensors")[0]


def test_the_ends_of_the_line_are_the_networks(place: Path) -> None:
    start, trained = (load_checkpoint(place / f"{name}.safetensors")[0] for name in ("start", "trained"))
    same = blended(place, "start.safetensors", 1.0).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in trained.state_dict().items())
    images = torch.randn(2, 3, 192, 192)
    for form in ("start.safetensors", "bundle"):
        back = blended(place, form, 0.0)
        with torch.no_grad():
            torch.testing.assert_close(back(images).heatmaps, start(images).heatmaps, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(back(images).confidence, start(images).confidence, atol=1e-4, rtol=1e-4)
        for name, value in trained.trans_encoder.state_dict().items():
            assert torch.equal(back.trans_encoder.state_dict()[name], value), name


def test_between_them_weights_are_between_and_refinement_is_scaled(place: Path) -> None:
    start, trained = (load_checkpoint(place / f"{name}.safetensors")[0].state_dict() for name in ("start", "trained"))
    half = blended(place, "start.safetensors", 0.25).state_dict()
    name = "backbone.laterals.0.pointwise.weight"
    torch.testing.assert_close(half[name], 0.25 * trained[name] + 0.75 * start[name])
    name = "backbone.refine.0.0.project.weight"
    torch.testing.assert_close(half[name], 0.25 * trained[name])
    name = "backbone.refine.0.0.expand.weight"
    assert torch.equal(half[name], trained[name])


def test_what_cannot_be_blended_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wider = replace(PLAIN, backbone=BlazePoseConfig(2 * THIN))
    save_checkpoint(place / "wider.safetensors", build(wider, make_mesh()), wider)
    words = ["--checkpoint", str(place / "trained.safetensors"), "--out", str(place / "none.safetensors")]
    for start, share, said in (
        ("start.safetensors", "1.5", "blend: --share: expected 0 to 1, got 1.5"),
        ("wider.safetensors", "0.5", "blend: the network to blend with: expected backbone.trunk.stem.0.weight"),
        ("missing.safetensors", "0.5", "blend: cannot read"),
    ):
        assert main([*words, "--start", str(place / start), "--share", share]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(said), line
    assert not (place / "none.safetensors").exists()
