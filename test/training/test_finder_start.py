"""What a finder begins with, and weights that bear being rounded."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from yolox_file import write_yolox

from metro_ros.core.errors import ConfigError
from training.finder.network import FinderConfig, FinderNet
from training.finder.start import load_published, read_start
from training.onnx_graph import halve_weights, pack_weights, read_model
from training.rounding import round_channels, rounded_weights

TINY = FinderConfig(64, 64, stem=4, blocks=(1, 1, 1))


def test_published_weights_are_taken_over_for_people_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, path = FinderNet(TINY), tmp_path / "yolox.onnx"
    path.write_bytes(write_yolox(net))
    torch.manual_seed(1)
    for name, value in read_start(path, TINY).state_dict().items():
        assert torch.equal(value, net.state_dict()[name])


def test_weights_of_another_network_are_refused_whole(tmp_path: Path) -> None:
    net, path = FinderNet(TINY), tmp_path / "yolox.onnx"
    before = {name: value.clone() for name, value in net.state_dict().items()}
    path.write_bytes(write_yolox(FinderNet(FinderConfig(64, 64, stem=8, blocks=(1, 1, 1)))))
    with pytest.raises(ConfigError, match="a convolution of shape"):
        load_published(net, path)
    path.write_bytes(write_yolox(FinderNet(FinderConfig(64, 64, stem=4, blocks=(1, 2, 1)))))
    with pytest.raises(ConfigError, match=r"\d+ convolutions, not \d+"):
        load_published(net, path)
    path.write_bytes(b"no graph at all")
    with pytest.raises(ConfigError, match=r"yolox_nano\.onnx of YOLOX's releases"):
        load_published(net, path)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_four_pixels_become_channels_as_published_weights_want_them() -> None:
    """Of every two by two: left top, left bottom, right top, right bottom, each blue, green, red."""
    seen: list[torch.Tensor] = []
    net = FinderNet(TINY)
    net.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        net(image)
    pixels = image[0, 6:8, 10:12].float()
    wanted = torch.cat([pixels[down, across].flip(0) for down, across in ((0, 0), (1, 0), (0, 1), (1, 1))])
    assert torch.equal(seen[0][0, :, 3, 5], wanted)


def test_whole_numbers_are_near_and_fit_their_bits() -> None:
    kernels = torch.randn(6, 3, 3, 3) * torch.logspace(-6, 2, 6)[:, None, None, None]
    kernels[2] = 0
    for bits in (4, 6, 8):
        numbers, scale = round_channels(kernels, bits)
        assert numbers.dtype == torch.int8 and numbers.abs().max() == 2 ** (bits - 1) - 1
        assert scale.shape == (6, 1, 1, 1)
        assert ((numbers * scale - kernels).abs() <= scale / 2 * 1.001).all()


def test_steps_are_taken_from_exact_weights_by_gradients_at_the_rounded_ones() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(2, 3, 3)
    exact, image = net.weight.detach().clone(), torch.randn(1, 2, 5, 5)
    with rounded_weights(net):
        assert not torch.equal(net.weight, exact)
        net(image).square().sum().backward()
    assert torch.equal(net.weight, exact)
    got = net.weight.grad.clone()
    numbers, scale = round_channels(exact)
    net.weight.data, net.weight.grad = numbers * scale, None
    net(image).square().sum().backward()
    assert torch.equal(got, net.weight.grad)


def test_exact_weights_come_back_after_a_failure() -> None:
    net = nn.Conv2d(2, 3, 3)
    exact = net.weight.detach().clone()
    with pytest.raises(RuntimeError), rounded_weights(net):
        raise RuntimeError
    assert torch.equal(net.weight, exact)


def _graph(kernel: np.ndarray, bias: np.ndarray) -> bytes:
    node = onnx.helper.make_node("Conv", ["x", "kernel", "bias"], ["y"])
    entries = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, None, None])
        for name, channels in (("x", kernel.shape[1]), ("y", len(kernel)))
    ]
    constants = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")]
    graph = onnx.helper.make_graph([node], "one", entries[:1], entries[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def test_packed_weights_are_a_quarter_and_run_as_they_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((64, 32, 3, 3), (64,)))
    packed = pack_weights(_graph(kernel, bias), bits=6)
    assert len(packed) < 0.3 * kernel.nbytes < len(halve_weights(_graph(kernel, bias)))
    onnx.checker.check_model(packed)
    (tmp_path / "packed.onnx").write_bytes(packed)
    read = read_model(tmp_path / "packed.onnx")
    onnx.checker.check_model(read)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in read.graph.initializer}
    numbers, scale = round_channels(torch.from_numpy(kernel), bits=6)
    np.testing.assert_array_equal(constants["kernel"], (numbers * scale).numpy())
    np.testing.assert_array_equal(constants["bias"], bias.astype(np.float16).astype(np.float32))
    image = rng.normal(size=(1, 32, 9, 9)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": image})[0]
        for model in (packed, read.SerializeToString())
    ]
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)
