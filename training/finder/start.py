"""A finder that begins with what another knows: YOLOX-Nano as it was published, or a bundle's own finder."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from metro_ros.core.bundle import load_bundle
from metro_ros.core.errors import ConfigError
from metro_ros.core.finder import PART
from training.finder.network import FinderConfig, FinderNet
from training.onnx_graph import read_model

PERSON = 0
"""Of the classes of COCO, which published weights know."""
_EXPECTED = "yolox_nano.onnx of YOLOX's releases, and a finder of its size"


def read_start(path: Path, config: FinderConfig) -> FinderNet:
    """A network with all weights of YOLOX's ONNX file, or of the finder of the bundle that `path` is.

    Raises:
        ConfigError: they are of another network.
        BundleError: the folder is no bundle.
    """
    net = FinderNet(config)
    if not path.is_dir():
        load_published(net, path)
        return net
    part = load_bundle(path).part_file(PART)
    if part is None:
        raise ConfigError(f"{path}", expected="a bundle with a finder", got="one without")
    _set_named(net, read_model(part), path)
    return net


@torch.no_grad()
def load_published(net: FinderNet, path: Path) -> None:
    """Set every convolution to that of YOLOX's own export to ONNX, in the order in which either calls them.

    Of its classes, people alone are taken over. Raises ConfigError when the file is another; `net` is then unchanged.
    """
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # onnx raises protobuf's types, and the system's
        raise ConfigError(f"weights {path}", expected=_EXPECTED, got=error) from error
    constants = {tensor.name: tensor for tensor in graph.initializer}
    stored = [
        [torch.from_numpy(numpy_helper.to_array(constants[name]).copy()) for name in node.input[1:]]
        for node in graph.node
        if node.op_type == "Conv" and set(node.input[1:]) <= set(constants)
    ]
    order = called_order(net)
    if len(stored) != len(order):
        raise ConfigError(f"weights {path}", expected=_EXPECTED, got=f"{len(stored)} convolutions, not {len(order)}")
    kinds = {id(head.is_person) for head in net.heads}
    chosen = []
    for module, values in zip(order, stored, strict=True):
        if id(module) in kinds:
            values = [value[PERSON : PERSON + 1] for value in values]
        if [value.shape for value in values] != [parameter.shape for parameter in module.parameters()]:
            got = f"a convolution of shape {tuple(values[0].shape)}, not {tuple(module.weight.shape)}"
            raise ConfigError(f"weights {path}", expected=_EXPECTED, got=got)
        chosen.append(values)
    for module, values in zip(order, chosen, strict=True):
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)


def called_order(net: FinderNet) -> list[nn.Conv2d]:
    """Its convolutions in the order in which they are called."""
    order: list[nn.Conv2d] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        order.append(module)

    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, nn.Conv2d)]
    try:
        with torch.no_grad():
            net(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _set_named(net: FinderNet, model: onnx.ModelProto, path: Path) -> None:
    """Set all weights to the constants of the same name of a finder as `training.finder.export` writes it."""
    constants = {tensor.name.removeprefix("net."): tensor for tensor in model.graph.initializer}
    wanted = net.state_dict()
    missing = [name for name in wanted if name not in constants]
    if missing:
        expected, got = "one by training.finder.export", f"nothing named {missing[0]}"
        raise ConfigError(f"the finder of {path}", expected=expected, got=got)
    values = {name: torch.from_numpy(numpy_helper.to_array(constants[name]).copy()) for name in wanted}
    if any(values[name].shape != value.shape for name, value in wanted.items()):
        raise ConfigError(f"the finder of {path}", expected="one of its size", got="another")
    net.load_state_dict(values)
