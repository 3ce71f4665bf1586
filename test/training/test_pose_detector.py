"""MediaPipe's pose detector: its file's weights land where they belong, and as a bundle's part it answers alike."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tflite_file import write_pose_network, write_tflite
from tiny_bundle import make_tiny_bundle

from metro_ros.core.bundle import load_bundle
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.prominent import ProminentPeople
from training import pose_detector
from training.blazepose import BlazePose
from training.onnx_graph import ExportError
from training.pose_detector import PoseDetector, export_onnx, file_order, load_detector_weights, main

THIN = 0.125
PUBLISHED = os.environ.get("METRO_ROS_DETECTOR_TFLITE", "")


@pytest.fixture
def published(tmp_path: Path) -> tuple[PoseDetector, Path]:
    """A thin network that knows something, a third of its pointwise weights zeros, and its file."""
    torch.manual_seed(3)
    network = PoseDetector(THIN).eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.add(0.02 * torch.randn_like(parameter)).half().float()
        if parameter.shape[2:] == (1, 1):
            parameter.data *= torch.rand_like(parameter) > 1 / 3
    path = tmp_path / "pose_detection.tflite"
    path.write_bytes(write_tflite(file_order(network), sparse=True))
    return network, path


def test_a_file_fills_every_weight(published: tuple[PoseDetector, Path]) -> None:
    network, path = published
    own = PoseDetector(THIN)
    load_detector_weights(own, path)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(own.get_parameter(name).data, value, msg=name)


def test_another_network_s_file_changes_nothing(published: tuple[PoseDetector, Path], tmp_path: Path) -> None:
    _, path = published
    wider = PoseDetector(2 * THIN)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    other = tmp_path / "pose_landmark_full.tflite"
    other.write_bytes(write_pose_network(BlazePose(joints=1, width=THIN)))
    for file in (path, other):
        with pytest.raises(ConfigError, match="pose_detection"):
            load_detector_weights(wider, file)
    for name, value in wider.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)


@pytest.mark.parametrize("cut", [0, 7, 5000, "noise"])
def test_a_damaged_file_is_refused_in_one_line(published: tuple[PoseDetector, Path], cut: int | str) -> None:
    network, path = published
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(len(content) - 64)
    path.write_bytes(content[:64] + noise if cut == "noise" else content[: int(cut)])
    with pytest.raises((SourceError, ConfigError)) as caught:
        load_detector_weights(network, path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


def test_it_comes_along_with_a_bundle(
    published: tuple[PoseDetector, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    network, path = published
    monkeypatch.setattr(pose_detector, "SIZE", 64)
    monkeypatch.setattr(pose_detector, "export_onnx", lambda net: export_onnx(net, 64))
    bundle = make_tiny_bundle(tmp_path / "b")
    words = ["--bundle", str(bundle.path), "--width", str(THIN), "--weights"]
    assert main([*words, str(tmp_path / "none.tflite")]) == 2 and "No such file" in capsys.readouterr().err
    assert main([*words, str(path)]) == 0
    people = ProminentPeople(load_bundle(bundle.path), threads=1)
    people.min_score = 0.0
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    found, heads = people.find(image)
    with torch.no_grad():
        scores, places = network(torch.from_numpy(np.ascontiguousarray(image[None, :, :, ::-1])))
    best = int(scores.argmax())
    index = int(np.argmin(np.abs(found.scores - float(scores[0, best]))))
    np.testing.assert_allclose(heads[index], places[0, best, :2].numpy() - 0.5, atol=0.1)


def test_another_network_s_answers_are_refused(
    published: tuple[PoseDetector, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = published
    torch.manual_seed(8)
    other, export = pose_detector.Best(PoseDetector(THIN)), pose_detector.to_onnx
    monkeypatch.setattr(pose_detector, "to_onnx", lambda _, *words: export(other, *words))
    with pytest.raises(ExportError, match="disagrees with torch"):
        export_onnx(network, 64)


def test_a_cell_s_four_quarters_come_before_its_channels() -> None:
    x = torch.arange(2 * 8 * 2 * 3, dtype=torch.float32).view(2, 8, 2, 3)
    finer = pose_detector.depth_to_space(x)
    assert finer.shape == (2, 2, 4, 6)
    for channel, down, across, i, j in itertools.product(range(2), range(2), range(3), range(2), range(2)):
        assert finer[1, channel, 2 * down + i, 2 * across + j] == x[1, (2 * i + j) * 2 + channel, down, across]


def test_boxes_lie_along_the_body() -> None:
    """Upright, lying and aslant: hips, a point of the circle, and shoulders decide."""
    place = torch.zeros(1, 3, 12)
    place[..., 4:6] = 100.0
    place[..., 6:8] = torch.tensor([[[100.0, 20.0], [180.0, 100.0], [20.0, 100.0]]])  # 80 px from the hips
    place[..., 8:10] = torch.tensor([[[100.0, 60.0], [60.0, 100.0], [130.0, 70.0]]])
    boxes = pose_detector._body_boxes(place)[0]
    torch.testing.assert_close(boxes[0], torch.tensor([68.0, 20.0, 132.0, 180.0]))
    torch.testing.assert_close(boxes[1], torch.tensor([20.0, 68.0, 180.0, 132.0]))
    half = 80 * (0.5 + 0.5 * 0.4**2) ** 0.5
    torch.testing.assert_close(boxes[2], torch.tensor([100 - half, 100 - half, 100 + half, 100 + half]))


@pytest.mark.skipif(not PUBLISHED, reason="needs MediaPipe's pose_detection.tflite in METRO_ROS_DETECTOR_TFLITE")
def test_the_published_detector_answers_as_tensorflow_lite_does() -> None:
    """By TensorFlow Lite's own interpreter, of a picture that anybody can make."""
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    from ai_edge_litert.interpreter import Interpreter

    across, down = np.meshgrid(np.linspace(0, 1, 224), np.linspace(0, 1, 224))
    picture = np.stack([across, down, np.hypot(across - 0.5, down - 0.4)], axis=2)
    pixels = (255 * picture.clip(0, 1)).round().astype(np.uint8)
    interpreter = Interpreter(PUBLISHED, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], (pixels[None] / 127.5 - 1).astype(np.float32))
    interpreter.invoke()
    answers = {one["shape"][2]: interpreter.get_tensor(one["index"])[0] for one in interpreter.get_output_details()}
    detector = PoseDetector().eval()
    load_detector_weights(detector, Path(PUBLISHED))
    with torch.no_grad():
        scores, places = (values[0].numpy() for values in detector(torch.from_numpy(pixels[None])))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-answers[1][:, 0].clip(-80, 80))), atol=1e-4)
    np.testing.assert_allclose(places[:, 2:4], answers[12][:, 2:4], atol=1e-2)
    cells = places[:, :2] - answers[12][:, :2]
    np.testing.assert_allclose(cells[0], [4, 4], atol=1e-2)
    np.testing.assert_allclose(places[:, 4:] - np.tile(cells, 4), answers[12][:, 4:], atol=1e-2)
