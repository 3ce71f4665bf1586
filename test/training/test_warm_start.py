"""A network read back out of the graph that it was exported into."""

from dataclasses import replace

import onnx
import pytest
import torch
from tiny_network import make_mesh, scramble, small_config

from metro_ros.core.bundle import Bundle
from metro_ros.core.errors import ConfigError
from training.build import build
from training.export import BundleInfo, export_bundle, export_onnx
from training.folding import FoldedMetro
from training.network import Metro
from training.network_config import BlazePoseConfig
from training.warm_start import FoldedWeights, load_bundle_backbone, unfold


@pytest.fixture(scope="module")
def exported() -> tuple[Metro, FoldedWeights]:
    torch.manual_seed(5)
    metro = scramble(build(small_config("default"), make_mesh()))
    torch.nn.init.zeros_(metro.upsamplings()[-1].bias)  # it is not trained, so it stays what the mesh says
    return metro, FoldedWeights(onnx.load_from_string(export_onnx(FoldedMetro(metro), 64)))


def test_the_unfolded_network_answers_as_the_exported_one(exported: tuple[Metro, FoldedWeights]) -> None:
    metro, folded = exported
    torch.manual_seed(6)
    images = torch.randn(12, 3, 64, 64)
    again = build(small_config("default"), make_mesh())
    unfold(again, folded, images)
    with torch.no_grad():
        ours, theirs = again.eval()(images), metro(images)
    for name in ("joints", "camera", "confidence", "keypoints"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.vertices[-1], theirs.vertices[-1], atol=2e-3, rtol=1e-3)
    with torch.no_grad():  # and its batch norms know the images: in training mode it answers alike
        trained = again.train()(images)
    torch.testing.assert_close(trained.keypoints, ours.keypoints, atol=1e-3, rtol=1e-3)


def test_another_network_is_refused(exported: tuple[Metro, FoldedWeights]) -> None:
    config = small_config("default")
    wider = replace(config, blocks=tuple(replace(block, feed_forward=24) for block in config.blocks))
    with pytest.raises(ConfigError, match="weights of the bundle: expected"):
        unfold(build(wider, make_mesh()), exported[1], torch.randn(4, 3, 64, 64))
    narrow = small_config("default", hidden=(16, 4))
    with pytest.raises(ConfigError, match=r"weights of the bundle|each as wide as the output"):
        unfold(build(narrow, make_mesh()), exported[1], torch.randn(4, 3, 64, 64))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Metro, Bundle]:
    """A network behind BlazePose, and its bundle."""
    torch.manual_seed(7)
    config = replace(small_config("default"), image_size=192, backbone=BlazePoseConfig(0.125))
    metro = scramble(build(config, make_mesh()), size=192)
    return metro, export_bundle(metro, config, BundleInfo(), tmp_path_factory.mktemp("warm") / "bundle")


def test_a_backbone_comes_out_of_a_bundle_into_a_network_with_more_layers(bundle: tuple[Metro, Bundle]) -> None:
    """Which at first sees the very same."""
    source, stored = bundle
    config = replace(small_config("default"), image_size=192, backbone=BlazePoseConfig(0.125, (1, 1, 1)))
    torch.manual_seed(8)
    metro = build(config, make_mesh()).eval()
    load_bundle_backbone(metro, stored)
    images = torch.randn(2, 3, 192, 192)
    with torch.no_grad():
        ours, theirs = metro(images), source(images)
    torch.testing.assert_close(ours.heatmaps, theirs.heatmaps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.confidence, theirs.confidence, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours.joints, theirs.joints)


def test_a_backbone_that_a_bundle_cannot_fill_is_one_line(bundle: tuple[Metro, Bundle]) -> None:
    with pytest.raises(ConfigError, match="a network without batch norms"):
        load_bundle_backbone(build(small_config("default"), make_mesh()), bundle[1])
    wider = replace(small_config("default"), image_size=192, backbone=BlazePoseConfig(0.25))
    with pytest.raises(ConfigError, match="layers of this network, got others"):
        load_bundle_backbone(build(wider, make_mesh()), bundle[1])
