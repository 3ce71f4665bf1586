"""TensorRT on a real GPU: numbers, graphs, plans and images there. Skipped where there is none."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.crop import Box, crop_image
from metro_ros.core.engines import open_engine, tensorrt
from metro_ros.core.engines.base import Engine, Output
from metro_ros.core.engines.tensorrt_plan import BatchProfile
from metro_ros.core.errors import EngineError

ATOL = 2e-4
"""Metres, and the camera's units: fp32 on both sides, summed in another order."""


@pytest.fixture(scope="module", autouse=True)
def real_gpu() -> None:
    try:
        tensorrt.precisions()
    except (ImportError, EngineError) as error:
        pytest.skip(f"needs an NVIDIA GPU, pycuda and TensorRT: {error}")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(default_bundle_path())


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Engine]:
    opened = open_engine(bundle, "tensorrt")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Iterator[Engine]:
    opened = open_engine(bundle, "onnxruntime")
    yield opened
    opened.close()


def crops(count: int, seed: int = 0) -> np.ndarray:
    """Noise over ramps, 128 px."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, 128)[None, :, None, None] * np.ones((1, 1, 128, 3))
    return (ramp + random.integers(0, 55, (count, 128, 128, 3))).astype(np.uint8)


def assert_close(got: Output, want: Output, atol: float = ATOL) -> None:
    for name in Output._fields:
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 16, 21])
def test_its_numbers_are_onnx_runtime_s(engine: Engine, reference: Engine, count: int) -> None:
    for seed in range(3):  # warm-up, capture, replay
        batch = crops(count, seed)
        assert_close(engine.infer(batch), reference.infer(batch))


def test_graphs_are_captured(engine: Engine) -> None:
    for count in (1, 2, 4, 8, 16):
        engine.infer(crops(count))
    assert sorted(engine._session._graphs) == [1, 2, 4, 8, 16]  # type: ignore[attr-defined]


def test_a_graph_answers_as_the_plain_call_does(engine: Engine, bundle: Bundle) -> None:
    plain = open_engine(bundle, "tensorrt")
    plain._session._use_graphs = False  # type: ignore[attr-defined]
    for count in (2, 1, 16, 2):
        engine.infer(crops(count))
        assert_close(engine.infer(crops(count, 5)), plain.infer(crops(count, 5)), atol=1e-6)
    assert sorted(plain._session._graphs) == [1]  # type: ignore[attr-defined]  # by the check of the model
    plain.close()


def test_it_may_change_threads(engine: Engine) -> None:
    want, got = engine.infer(crops(2)), []
    thread = threading.Thread(target=lambda: got.append(engine.infer(crops(2))))
    thread.start()
    thread.join()
    assert_close(got[0], want, atol=1e-6)


@pytest.mark.parametrize("harm", ["corrupt", "truncated"])
def test_a_damaged_plan_is_built_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path))
    path, _ = tensorrt.build_ahead(bundle, "fp32", BatchProfile(2, 1))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if harm == "corrupt" else content[:-1000])
    with caplog.at_level(logging.WARNING, logger="metro_ros.core.engines.tensorrt"):
        opened = open_engine(bundle, "tensorrt")
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.endswith("building it again")]) == 1
    assert_close(opened.infer(crops(1)), opened.infer(crops(1)), atol=0)
    opened.close()


def test_an_image_on_the_gpu_gives_what_one_here_does(engine: Engine) -> None:
    from pycuda import gpuarray

    image = np.repeat(crops(1)[0], 5, axis=1)
    boxes = [Box(300.0, 60.0, 100.0), Box(200.5, 70.2, 300.0), Box(610.0, 100.0, 90.0)]
    gpu = tensorrt.first_gpu()
    with gpu.current("in a test"):
        on_gpu = gpuarray.to_gpu(image)
    got = engine.infer_image(on_gpu, boxes)  # type: ignore[attr-defined]
    want = engine.infer(np.stack([crop_image(image, box, 128) for box in boxes]))
    assert_close(got, want, atol=5e-3)  # a crop's pixels may differ by one
    with gpu.current("in a test"):
        on_gpu.gpudata.free()
