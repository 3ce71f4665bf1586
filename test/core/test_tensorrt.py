"""The TensorRT engine over a stand-in GPU: what it runs, how it keeps plans, and what it says when things go wrong."""

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import stand_in_gpu
from tiny_bundle import RED_BGR, make_tiny_bundle, person_image

from metro_ros.core.bundle import Bundle
from metro_ros.core.crop import Box, crop_image, whole_image_box
from metro_ros.core.engines import available_engines, open_engine, tensorrt, tensorrt_crop, tensorrt_gpu
from metro_ros.core.engines.tensorrt_plan import BatchProfile, Plan
from metro_ros.core.errors import BundleError, EngineError, ImageError


def crops(count: int) -> np.ndarray:
    """Persons at different places, 64 px."""
    images = [person_image(640, 480, (60 + 520 / count * index, 240), 200) for index in range(count)]
    return np.stack([crop_image(image, whole_image_box(640, 480), 64) for image in images])


@pytest.fixture(params=["10.3"])
def gpu(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[stand_in_gpu.Gpu]:
    """A stand-in GPU, and a cache of its own."""
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.WARNING, logger="metro_ros")
    yield stand_in_gpu.install(monkeypatch, request.param)
    tensorrt_gpu.first_gpu.cache_clear()


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Build the plans that the stand-in takes; what was built, by compute capability."""
    made: list[str] = []

    def build_plan(library, bundle, precision, profile, compute_capability, gpu):  # type: ignore[no-untyped-def]
        made.append(compute_capability)
        return Plan(bundle.model_file(precision).read_bytes(), profile)

    monkeypatch.setattr(tensorrt, "build_plan", build_plan)
    return made


def plan_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "tensorrt").glob("*.plan")
    return path


every_generation = pytest.mark.parametrize("gpu", ["8.6", "10.3", "rtx"], indirect=True)


@every_generation
def test_it_answers_as_onnx_runtime_does(gpu: stand_in_gpu.Gpu, calibrated_bundle: Bundle) -> None:
    engine, reference = (
        open_engine(calibrated_bundle, "tensorrt"),
        open_engine(calibrated_bundle, "onnxruntime", threads=1),
    )
    for count in (1, 3, 16, 5, 1, 2, 3, 37):  # by a graph or not, and more than go at once
        for got, want in zip(engine.infer(crops(count)), reference.infer(crops(count)), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    assert gpu.runs == [1, 1, 3, 16, 5, 1, 2, 3, 16, 16, 5], "the first is the check of the model"
    engine.close()
    reference.close()


@every_generation
def test_everything_is_given_back(gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle) -> None:
    engine = open_engine(tiny_bundle, "tensorrt")
    engine.infer(crops(2))
    assert gpu.memory and gpu.graphs and not gpu.contexts, "the context must not stay current"
    engine.close()
    assert not gpu.memory and not gpu.graphs and not gpu.contexts
    assert engine._session.__dict__.keys().isdisjoint({"_network", "_stream"}), "destructors wait for a context"


def test_outputs_belong_to_the_caller(gpu: stand_in_gpu.Gpu, calibrated_bundle: Bundle) -> None:
    engine = open_engine(calibrated_bundle, "tensorrt")
    first, second = crops(2)[:1], crops(2)[1:]
    output = engine.infer(first)
    kept = output.camera.copy()
    engine.infer(second)
    np.testing.assert_array_equal(output.camera, kept)
    assert all(array is not None and array.flags.owndata and array.flags.writeable for array in output)


def test_a_graph_is_captured_at_first_use_and_replayed(gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle) -> None:
    engine = open_engine(tiny_bundle, "tensorrt")
    captured = {1: crops(1)}  # by the check of the model
    for count in (1, 2, 4, 8, 16):
        launches = gpu.launches
        if count not in captured:
            engine.infer(crops(count))
            assert gpu.launches == launches, "the first run warms up"
        engine.infer(crops(count))
        assert gpu.launches == launches + 1
    launches = gpu.launches
    for _ in range(2):
        engine.infer(crops(3))
    assert gpu.launches == launches, "three at once are too rare for a graph"
    assert gpu.runs.count(3) == 2


@pytest.mark.parametrize("gpu", ["rtx"], indirect=True)
@pytest.mark.parametrize("switch", [{"fail_capture": True}, {"capturable": False}])
def test_without_graphs_it_goes_on(
    gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture, switch: dict[str, bool]
) -> None:
    vars(gpu).update(switch)
    engine = open_engine(tiny_bundle, "tensorrt")
    for count in (1, 2, 1, 4):
        assert len(engine.infer(crops(count)).joints) == count
    assert not gpu.launches
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("TensorRT goes on without CUDA graphs")


def test_what_is_not_finite_is_refused_and_it_stays_usable(gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle) -> None:
    engine = open_engine(tiny_bundle, "tensorrt")
    red = np.zeros((1, 64, 64, 3), np.uint8)
    red[:, 20:40, 20:40] = RED_BGR[::-1]
    with pytest.raises(EngineError, match="not finite"):
        engine.infer(red)
    assert np.isfinite(engine.infer(crops(1)).camera).all()


def test_threads_take_turns(gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node opens its engine in one thread and runs it in another."""
    engine = open_engine(tiny_bundle, "tensorrt")
    said: list[object] = []

    def use() -> None:
        try:
            said.append(engine.infer(crops(1)))
        except EngineError as error:
            said.append(str(error))

    def from_another_thread() -> None:
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(timeout=10)

    from_another_thread()
    assert isinstance(said.pop(), tuple)
    run = engine._session.run

    def run_while_another_wants_to(batch: np.ndarray) -> dict[str, np.ndarray]:
        monkeypatch.setattr(engine._session, "run", run)
        from_another_thread()
        return run(batch)

    monkeypatch.setattr(engine._session, "run", run_while_another_wants_to)
    use()
    assert said[0] == "tensorrt is in use by another thread. Let threads take turns, or give each an engine"
    assert isinstance(said[1], tuple)


def test_a_plan_is_built_once_for_a_gpu(
    gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, hand_bundle: Bundle, built: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        open_engine(tiny_bundle, "tensorrt").close()
    assert built == ["8.6"]
    model = tiny_bundle.manifest.sha256["model.onnx"][:16]
    assert plan_file(tmp_path).name == f"{model}.fp32.tensorrt.stand-in-rtx-3090.sm8.6.plan"
    open_engine(hand_bundle, "tensorrt").close()
    assert built == ["8.6", "8.6"], "another model is another plan"


def test_a_plan_built_ahead_counts_whatever_its_batches(
    gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, built: list[str]
) -> None:
    path, new = tensorrt.build_ahead(tiny_bundle, "fp32", BatchProfile(4, 2))
    assert new and path.is_file()
    engine = open_engine(tiny_bundle, "tensorrt")
    assert len(engine.infer(crops(9)).joints) == 9
    assert built == ["8.6"] and gpu.runs == [1, 4, 4, 1]
    assert tensorrt.build_ahead(tiny_bundle, "fp32", BatchProfile(4, 2)) == (path, False)
    assert tensorrt.build_ahead(tiny_bundle, "fp32", BatchProfile(8, 2)) == (path, True)


@pytest.mark.parametrize("gpu", ["rtx"], indirect=True)
def test_rtx_takes_a_plan_of_its_compute_capability(
    gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, built: list[str], tmp_path: Path
) -> None:
    for capability in ("12.0", "8.6"):
        path, _ = tensorrt.build_ahead(tiny_bundle, "fp32", BatchProfile(), capability)
        assert f".any.sm{capability}." in path.name
    engine = open_engine(tiny_bundle, "tensorrt")
    assert built == ["12.0", "8.6"]
    assert engine.version == "RTX 1.7.1"
    kernels = path.with_suffix(".kernels")
    assert kernels.read_bytes().endswith(b"kernels"), "what it compiles while running is kept too"


def test_a_plan_that_the_library_refuses_is_built_again(
    gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, built: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    open_engine(tiny_bundle, "tensorrt").close()
    gpu.refuse = "Serialization assertion failed"
    with pytest.raises(EngineError, match=r"^tensorrt 10.3.0 refuses the plan: got Serialization assertion failed$"):
        open_engine(tiny_bundle, "tensorrt")
    assert built == ["8.6", "8.6"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(
        "cannot be loaded; building it again: " + "tensorrt 10.3.0 refuses the plan: got " + gpu.refuse
    )
    assert not gpu.memory, "what a failed start took is given back"


@pytest.mark.parametrize("harm", ["stale", "corrupt", "truncated"])
def test_a_plan_that_does_not_fit_is_built_again(
    gpu: stand_in_gpu.Gpu,
    tiny_bundle: Bundle,
    built: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: str,
) -> None:
    open_engine(tiny_bundle, "tensorrt").close()
    path = plan_file(tmp_path)
    content = bytearray(path.read_bytes())
    if harm == "stale":
        monkeypatch.setattr(sys.modules["tensorrt"], "__version__", "10.4.0")
    elif harm == "corrupt":
        content[-100] ^= 1
    else:
        del content[-100:]
    path.write_bytes(content)
    open_engine(tiny_bundle, "tensorrt").close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(path) in line and line.endswith("; building it again")
    assert {"stale": "version 10.3.0, not 10.4.0", "corrupt": "SHA-256", "truncated": "truncated"}[harm] in line
    open_engine(tiny_bundle, "tensorrt").close()
    assert len(built) == 2 and len(caplog.records) == 1, "the new one is good"


def test_without_room_on_the_disk_it_runs_all_the_same(
    gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_bytes(b"no folder")
    assert len(open_engine(tiny_bundle, "tensorrt").infer(crops(1)).joints) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert "is not kept, and will be built again next time" in line
    with pytest.raises(EngineError, match=r"^cannot write .*: got "):
        tensorrt.build_ahead(tiny_bundle, "fp32", BatchProfile())


def test_a_full_gpu_is_one_line_and_gives_back_what_it_had(gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle) -> None:
    gpu.capacity = 300_000
    with pytest.raises(EngineError, match=r"too little memory loading the network: got cuMemAlloc failed") as caught:
        open_engine(tiny_bundle, "tensorrt")
    assert "\n" not in str(caught.value) and "Close what else runs" in str(caught.value)
    assert not gpu.memory and not gpu.contexts
    gpu.refuse = "Requested amount of GPU memory (1 bytes) could not be allocated"
    with pytest.raises(EngineError, match="too little memory for the network"):
        open_engine(tiny_bundle, "tensorrt")


def test_auto_goes_on_with_another_engine(gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle) -> None:
    gpu.refuse = "no"
    assert open_engine(tiny_bundle, threads=1).name in ("openvino", "onnxruntime")


def test_a_model_whose_outputs_are_others(gpu: stand_in_gpu.Gpu, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="output joints"):
        open_engine(make_tiny_bundle(tmp_path / "odd", joint_count_in_graph=5), "tensorrt")


def problem() -> str | None:
    (info,) = [info for info in available_engines() if info.name == "tensorrt"]
    return info.problem


def test_what_is_missing_is_named(gpu: stand_in_gpu.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem() is None
    monkeypatch.setattr(sys.modules["pycuda.driver"], "init", failing("cuInit failed: no CUDA-capable device"))
    tensorrt_gpu.first_gpu.cache_clear()
    said = "CUDA finds no GPU that it can use: got cuInit failed: no CUDA-capable device. Check nvidia-smi"
    assert problem() == f"installed, but fails: {said}"
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert "pycuda" in str(problem()) and str(problem()).startswith("not installed")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "tensorrt" in str(problem()) and "tensorrt_rtx" in str(problem())


def test_a_missing_driver_is_told_from_a_missing_pycuda(
    gpu: stand_in_gpu.Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name)
    assert str(problem()).startswith("installed, but fails: no NVIDIA driver for pycuda: got libcuda.so.1: cannot open")


def failing(text: str):  # type: ignore[no-untyped-def]
    def fail() -> None:
        raise stand_in_gpu.DriverError(text)

    return fail


@pytest.mark.parametrize("gpu", ["rtx"], indirect=True)
def test_a_gpu_that_rtx_does_not_know(gpu: stand_in_gpu.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt.first_gpu(), "compute_capability", "9.0")
    assert str(problem()).endswith("no such compute capability: expected 8.6 or 12.0, got 9.0")


def test_bf16_wants_a_gpu_that_has_it(gpu: stand_in_gpu.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensorrt.precisions() == ("fp32", "fp16", "int8", "bf16")
    monkeypatch.setattr(tensorrt.first_gpu(), "compute_capability", "7.5")
    assert tensorrt.precisions() == ("fp32", "fp16", "int8")
    monkeypatch.setattr(tensorrt.first_gpu(), "compute_capability", "12.0")
    assert "bf16" in tensorrt.precisions()


def test_an_image_on_the_gpu_is_cropped_there(
    gpu: stand_in_gpu.Gpu, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is tested in test_tensorrt_crop.py; here it is crop_image, which it equals."""
    image = person_image(640, 480, (300, 240), 300)
    boxes = [Box(300 + 5 * index, 240, 400) for index in range(18)]

    class Kernel:
        def __init__(self, driver: ModuleType) -> None:
            pass

        def enqueue(self, device_image, box, size, crop, stream) -> None:  # type: ignore[no-untyped-def]
            assert device_image.pointer == image.ctypes.data and device_image.pitch == 640 * 3
            pixels = np.ascontiguousarray(crop_image(image, box, size)).reshape(-1)
            start = next(address for address in gpu.memory if 0 <= crop - address < gpu.memory[address].nbytes)
            memory = gpu.memory[start][crop - start :]
            stream.put(lambda: np.copyto(memory[: pixels.size], pixels))

    monkeypatch.setattr("metro_ros.core.engines.tensorrt_session.CropKernel", Kernel)
    engine = open_engine(tiny_bundle, "tensorrt")
    interface = {"shape": (480, 640, 3), "typestr": "|u1", "data": (image.ctypes.data, True), "version": 3}
    output = engine.infer_image(SimpleNamespace(__cuda_array_interface__=interface), boxes)
    expected = engine.infer(np.stack([crop_image(image, box, 64) for box in boxes]))
    np.testing.assert_array_equal(output.camera, expected.camera)
    with pytest.raises(EngineError, match="one at least"):
        engine.infer_image(SimpleNamespace(__cuda_array_interface__=interface), [])


@pytest.mark.parametrize(
    "change",
    [
        {"typestr": "<f4"},
        {"shape": (480, 640)},
        {"shape": (0, 640, 3)},
        {"strides": (1920, 1, 640)},
        {"strides": (9, 3, 1)},
    ],
)
def test_what_is_no_image_on_the_gpu(change: dict[str, object]) -> None:
    interface = {"shape": (480, 640, 3), "typestr": "|u1", "data": (1, True), "version": 3, "strides": (2048, 3, 1)}
    assert tensorrt_crop.DeviceImage.of(SimpleNamespace(__cuda_array_interface__=interface)).pitch == 2048
    for bad in (SimpleNamespace(__cuda_array_interface__=interface | change), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(ImageError):
            tensorrt_crop.DeviceImage.of(bad)
