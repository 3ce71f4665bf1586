"""The paper's body, with all its 190 M parameters, becomes a TensorRT plan."""

from typing import Any

import pytest
from test_golden import Imported

from metro_ros.core.engines.tensorrt_build import build_plan
from metro_ros.core.engines.tensorrt_library import find_library
from metro_ros.core.engines.tensorrt_plan import BatchProfile

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")


def test_paper_s_body_becomes_a_plan(body: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    library = find_library("tensorrt_rtx")
    network: dict[str, tuple[str, tuple[int, ...]]] = {}
    build_serialized = library.module.Builder.build_serialized_network

    def look(builder: Any, definition: Any, config: Any) -> Any:
        tensors = [definition.get_input(0), *(definition.get_output(index) for index in range(definition.num_outputs))]
        network.update({tensor.name: (tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors})
        return build_serialized(builder, definition, config)

    monkeypatch.setattr(library.module.Builder, "build_serialized_network", look)
    plan = build_plan(library, body.bundle, "fp32", BatchProfile(8, 1), "8.6", None)
    assert network == {
        "image": ("UINT8", (-1, 224, 224, 3)),
        "joints": ("FLOAT", (-1, 14, 3)),
        "vertices": ("FLOAT", (-1, 6890, 3)),
        "camera": ("FLOAT", (-1, 3)),
    }
    weights = body.bundle.model_path.stat().st_size
    assert memoryview(plan.content).nbytes > 0.95 * weights, "its weights are in it, in fp32"
