"""A network read back out of the graph that it was exported into."""

from dataclasses import replace

import onnx
import pytest
import torch
from tiny_network import make_mesh, scramble, small_config

from metro_ros.core.errors import ConfigError
from training.build import build
from training.export import export_onnx
from training.folding import FoldedMetro
from training.network import Metro
from training.warm_start import FoldedWeights, unfold


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
