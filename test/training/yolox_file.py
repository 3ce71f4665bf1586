"""A file with a finder's weights as YOLOX's export to ONNX has them: convolutions in the order of calls, 80 classes."""

import numpy as np
import onnx
from onnx import numpy_helper

from training.finder.network import FinderNet
from training.finder.start import called_order

CLASSES = 80


def write_yolox(net: FinderNet) -> bytes:
    """The convolutions alone, with their constants; of the other classes than the first, noise."""
    rng = np.random.default_rng(0)
    kinds = {id(head.is_person) for head in net.heads}
    nodes, constants = [], []
    for number, module in enumerate(called_order(net)):
        values = [parameter.detach().numpy() for parameter in (module.weight, module.bias)]
        if id(module) in kinds:
            others = [rng.normal(size=(CLASSES - 1, *value.shape[1:])).astype(np.float32) for value in values]
            values = [np.concatenate(pair) for pair in zip(values, others, strict=True)]
        names = [f"{number}.{kind}" for kind in ("weight", "bias")]
        constants += [numpy_helper.from_array(value, name) for value, name in zip(values, names, strict=True)]
        nodes.append(onnx.helper.make_node("Conv", [f"map{number}", *names], [f"map{number + 1}"]))
    graph = onnx.helper.make_graph(nodes, "yolox", [], [], constants)
    return onnx.helper.make_model(graph).SerializeToString()
