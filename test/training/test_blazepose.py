"""BlazePose as a backbone: its file's weights land where they belong, and a Metro trains, folds and exports with it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tflite_file import write_pose_network, write_tflite
from tiny_network import make_mesh, scramble, small_config
from torch import nn

from metro_ros.core.errors import ConfigError, SourceError
from training.adopt import adopt_tokens
from training.blazepose import LANDMARKS, NO_REFINEMENT, BlazePose, pad_same
from training.build import build
from training.folding import FoldedMetro
from training.mediapipe_weights import load_mediapipe_weights
from training.network import Metro
from training.network_config import BlazePoseConfig, config_from_dict, config_to_dict
from training.normalize import Normalize
from training.stages import TOKEN_WEIGHTS, freeze

THIN = 0.125
PUBLISHED = os.environ.get("METRO_ROS_POSE_TFLITE", "")


@pytest.fixture
def published(tmp_path: Path) -> tuple[BlazePose, nn.Conv2d, nn.Conv2d, Path]:
    """A thin network that knows something, its two regressions, and their file."""
    torch.manual_seed(3)
    network = BlazePose(joints=5, width=THIN)
    channels = network.landmarks.in_channels
    in_pixels, in_metres = nn.Conv2d(channels, 5 * LANDMARKS, 2), nn.Conv2d(channels, 3 * LANDMARKS, 2)
    for parameter in (*network.parameters(), *in_pixels.parameters(), *in_metres.parameters()):
        parameter.data = parameter.data.add(0.02 * torch.randn_like(parameter)).half().float()
    path = tmp_path / "pose_landmark_full.tflite"
    path.write_bytes(write_pose_network(network, in_pixels, in_metres))
    return network, in_pixels, in_metres, path


def test_a_file_fills_all_but_the_dense_head(published: tuple[BlazePose, nn.Conv2d, nn.Conv2d, Path]) -> None:
    network, in_pixels, in_metres, path = published
    torch.manual_seed(4)
    own = BlazePose(joints=5, width=THIN)
    head = own.dense_head.weight.clone()
    load_mediapipe_weights(own, path)
    torch.testing.assert_close(own.dense_head.weight, head)
    for name, value in network.state_dict().items():
        if not name.startswith(("dense_head", "landmarks")):
            torch.testing.assert_close(own.get_parameter(name).data, value, msg=name)
    torch.testing.assert_close(own.landmarks.weight[: 3 * LANDMARKS], in_metres.weight)
    torch.testing.assert_close(own.landmarks.bias[3 * LANDMARKS :], in_pixels.bias[3::5])


def test_another_network_s_file_changes_nothing(
    published: tuple[BlazePose, nn.Conv2d, nn.Conv2d, Path], tmp_path: Path
) -> None:
    *_, path = published
    wider = BlazePose(joints=5, width=2 * THIN)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(ConfigError, match="pose_landmark_full"):
        load_mediapipe_weights(wider, path)
    for name, value in wider.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)
    (tmp_path / "few.tflite").write_bytes(write_tflite([nn.Conv2d(3, 4, 3)]))
    with pytest.raises(ConfigError, match="1 convolutions"):
        load_mediapipe_weights(wider, tmp_path / "few.tflite")
    with pytest.raises(ConfigError, match="--architecture blazepose"):
        load_mediapipe_weights(build(small_config("default"), make_mesh()).backbone, path)


@pytest.mark.parametrize("cut", [0, 7, 60, 5000, "noise"])
def test_a_damaged_file_is_refused_in_one_line(
    published: tuple[BlazePose, nn.Conv2d, nn.Conv2d, Path], cut: int | str
) -> None:
    network, *_, path = published
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(len(content) - 64)
    path.write_bytes(content[:64] + noise if cut == "noise" else content[: int(cut)])
    with pytest.raises((SourceError, ConfigError)) as caught:
        load_mediapipe_weights(network, path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        load_mediapipe_weights(BlazePose(joints=5, width=THIN), tmp_path / "none.tflite")


def test_padding_is_tensorflow_s() -> None:
    """Of 6 cells halved by a kernel of 3, all that is missing lies behind; of 3 cells, on both sides; of 2, none."""
    for size, before, after in ((6, 0, 1), (3, 1, 1), (4, 0, 1)):
        padded = pad_same(torch.ones(1, 1, size, size), 3, 2)[0, 0, size // 2]
        assert padded.tolist() == [0.0] * before + [1.0] * size + [0.0] * after
    assert pad_same(torch.ones(1, 1, 6, 6), 2, 2).shape == (1, 1, 6, 6)
    assert pad_same(torch.ones(1, 1, 5, 5), 3, 1).shape == (1, 1, 7, 7)


@pytest.mark.skipif(not PUBLISHED, reason="needs MediaPipe's pose_landmark_full.tflite in METRO_ROS_POSE_TFLITE")
def test_the_published_network_answers_as_tensorflow_lite_does() -> None:
    """By TensorFlow Lite's own interpreter, of a picture that anybody can make."""
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    from ai_edge_litert.interpreter import Interpreter

    across, down = np.meshgrid(np.linspace(0, 1, 256), np.linspace(0, 1, 256))
    picture = np.stack([across, down, np.hypot(across - 0.5, down - 0.4)], axis=2).astype(np.float32)
    pixels = (255 * picture).round().astype(np.uint8)
    interpreter = Interpreter(PUBLISHED, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], (pixels[None] / 255).astype(np.float32))
    interpreter.invoke()
    answers = {tuple(one["shape"]): interpreter.get_tensor(one["index"]) for one in interpreter.get_output_details()}
    backbone = BlazePose(joints=5).eval()
    load_mediapipe_weights(backbone, Path(PUBLISHED))
    with torch.no_grad():
        landmarks = backbone(Normalize()(torch.from_numpy(pixels[None]))).image[0, -4 * LANDMARKS :, 0, 0].numpy()
    np.testing.assert_allclose(landmarks[: 3 * LANDMARKS], answers[1, 3 * LANDMARKS][0], atol=1e-3)
    visibility = answers[1, 5 * LANDMARKS][0].reshape(LANDMARKS, 5)[:, 3]
    np.testing.assert_allclose(landmarks[3 * LANDMARKS :], 1 / (1 + np.exp(-visibility)), atol=1e-3)


def _metro(seed: int = 0, refine: tuple[int, ...] = NO_REFINEMENT) -> Metro:
    torch.manual_seed(seed)
    config = replace(small_config("default"), image_size=192, backbone=BlazePoseConfig(THIN, refine))
    assert config_from_dict(config_to_dict(config)) == config
    return build(config, make_mesh())


def test_refinement_begins_as_nothing_and_learns() -> None:
    torch.manual_seed(0)
    plain = BlazePose(joints=5, width=THIN).eval()
    refined = BlazePose(joints=5, width=THIN, refine=(1, 2, 1)).eval()
    missing, unexpected = refined.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and {name.split(".")[0] for name in missing} == {"refine"}
    images = torch.randn(2, 3, 192, 192)
    torch.testing.assert_close(refined(images).fine, plain(images).fine)
    refined(images).fine.square().mean().backward()
    assert all(block.project.weight.grad.abs().sum() > 0 for level in refined.refine for block in level)
    for wrong in ((1, 1), (1, -1, 1)):
        with pytest.raises(ConfigError, match="a number of blocks at strides 4, 8, 16"):
            BlazePoseConfig(THIN, wrong)


@pytest.mark.parametrize("refine", [(0, 0, 0), (1, 2, 1)])
def test_it_folds_into_the_same_network(refine: tuple[int, ...]) -> None:
    metro = scramble(_metro(refine=refine), size=192)
    images = torch.randn(2, 3, 192, 192)
    with torch.no_grad():
        output, folded = metro(images), FoldedMetro(metro)(images)
    assert output.heatmaps is not None and output.heatmaps.shape == (2, 5, 48, 48)
    torch.testing.assert_close(folded.joints, output.joints, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.vertices, output.vertices[-1], rtol=1e-4, atol=1e-4)


def test_a_crop_that_is_too_small_is_refused() -> None:
    config = replace(small_config("default"), image_size=128, backbone=BlazePoseConfig(THIN))
    with pytest.raises(ConfigError, match="160 to 256"):
        build(config, make_mesh())


def test_what_is_frozen_stays_and_the_rest_learns() -> None:
    metro = _metro()
    freeze(metro, ["backbone.trunk.stem.", "backbone.trunk.stages.0."])
    output = metro(torch.randn(2, 3, 192, 192), levels=1)
    assert output.mask is not None and output.surface is not None and output.heatmaps is not None
    sum(part.square().mean() for part in (output.joints, output.mask, output.surface, output.heatmaps)).backward()
    without = {name for name, parameter in metro.backbone.named_parameters() if parameter.grad is None}
    assert without and all(name.startswith(("trunk.stem.", "trunk.stages.0.")) for name in without)
    with pytest.raises(ConfigError, match=r"backbone\.branch"):
        freeze(metro, ["backbone.branch"])


def test_tokens_are_taken_over_from_another_backbone() -> None:
    """What they say of a template and of keypoints alone stays the same: that is all that both know."""
    torch.manual_seed(1)
    source = build(small_config("default"), make_mesh())
    metro = _metro()
    weights = {name: value for name, value in source.state_dict().items() if name.startswith(TOKEN_WEIGHTS)}
    metro.load_state_dict(adopt_tokens(metro, source, weights), strict=False)
    keypoints, confidence = torch.rand(2, 5, 2), torch.randn(2, 5)
    told = []
    for network in (source.eval(), metro.eval()):
        cells = network.conv_learn_tokens.in_channels
        image = torch.zeros(2, network.backbone.out_channels, round(cells**0.5), round(cells**0.5))
        with torch.no_grad():
            if network.conv_learn_tokens.bias is not None:
                network.conv_learn_tokens.bias.zero_()
            told.append(network.attend(network.tokens(image, keypoints, confidence, None)))
    torch.testing.assert_close(told[1], told[0], rtol=1e-4, atol=1e-5)


def test_its_learning_rate_is_its_own(tmp_path: Path) -> None:
    from training.module import MetroModule
    from training.presets import default
    from training.schedule import Length

    metro = _metro()
    module = MetroModule(metro, None, None, replace(default(), backbone_rate=0.25), Length(steps=3))  # type: ignore[arg-type]
    groups = module.configure_optimizers().param_groups
    assert [group["share"] for group in groups] == [1.0, 0.25]
    assert len(groups[1]["params"]) == len(list(metro.backbone.parameters()))
    with pytest.raises(ConfigError, match="backbone_rate"):
        replace(default(), backbone_rate=0.0)
