"""The original body network's outputs, for weights and images that follow from their names (test/data/body_a.npz).

The two images differ by 0.025 in the mean, so the bounds notice a wrong image path.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from training.build import build, paper_body
from training.checkpoint import load_original_weights
from training.export import export_onnx
from training.folding import FoldedMetro
from training.mesh_spec import body_431
from training.normalize import Normalize

DATA = Path(__file__).resolve().parents[1] / "data"
SALT, GAIN = "a", 0.7
UNUSED = ("bert.embeddings.", "bert.pooler.", "backbone.classifier.")


def reference_weight(key: str, shape: list[int]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if any(part in key for part in UNUSED):
        return torch.zeros(shape)  # 45 M numbers that nothing reads
    random = np.random.RandomState(zlib.crc32((SALT + key).encode()) & 0x7FFFFFFF)
    x = random.standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        x = 1 + 0.1 * np.abs(x)
    elif key.endswith("running_mean"):
        x = 0.1 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x if key.endswith("weight") else 0.05 * x
    else:
        x = x * GAIN / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(DATA / "body_a.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.RandomState(101).randint(0, 256, (2, 224, 224, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def computed(expected: dict[str, np.ndarray], images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The eager and the folded ONNX outputs; each of the two large networks is dropped as soon as it has spoken."""
    shapes = json.loads((DATA / "body_keys.json").read_text())
    config = paper_body()
    metro = build(config, body_431(expected["template"])).eval()
    load_original_weights(metro, {key: reference_weight(key, shape) for key, shape in shapes.items()})
    with torch.no_grad():
        output = metro(Normalize()(torch.from_numpy(images)))
    names = ("camera", "joints", "coarse", "mid", "full")
    tensors = (output.camera, output.joints, *output.vertices)
    eager = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    folded = FoldedMetro(metro)
    del metro
    model = export_onnx(folded, config.image_size)
    del folded
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    del model
    joints, full, camera = session.run(["joints", "vertices", "camera"], {"image": images})
    return {"eager": eager, "onnx": {"joints": joints, "full": full, "camera": camera}}


@pytest.mark.parametrize("name", ["camera", "joints", "coarse", "mid", "full"])
def test_eager_network_meets_the_reference(computed, expected, name: str) -> None:
    assert computed["eager"][name].shape == expected[name].shape
    np.testing.assert_allclose(computed["eager"][name], expected[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["camera", "joints", "full"])
def test_folded_onnx_meets_the_reference(computed, expected, name: str) -> None:
    assert computed["onnx"][name].shape == expected[name].shape
    np.testing.assert_allclose(computed["onnx"][name], expected[name], rtol=0, atol=1e-4)
