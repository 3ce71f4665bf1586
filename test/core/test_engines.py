import dataclasses
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import RED_BGR, make_tiny_bundle, person_image

from metro_ros.core.bundle import Bundle, add_variant
from metro_ros.core.crop import crop_image, whole_image_box
from metro_ros.core.engines import available_engines, open_engine, openvino
from metro_ros.core.engines.base import concatenate
from metro_ros.core.errors import BundleError, EngineError

ENGINES = ["openvino", "onnxruntime"]
CLOSE = {"mean_vertex_mm": 0.2, "max_vertex_mm": 2.0, "joints_mm": 0.2}


def crops(count: int = 1) -> np.ndarray:
    """Persons at different places, 64 px."""
    images = [person_image(640, 480, (200 + 60 * index, 240), 200) for index in range(count)]
    return np.stack([crop_image(image, whole_image_box(640, 480), 64) for image in images])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_answers_in_the_shapes_of_the_manifest(tiny_bundle: Bundle, name: str) -> None:
    engine = open_engine(tiny_bundle, name, threads=1)
    for count in (1, 3, 1):  # one crop, several, and back: both ways of running
        output = engine.infer(crops(count))
        assert output.joints.shape == (count, 17, 3)
        assert output.vertices.shape == (count, 258, 3)
        assert output.camera.shape == (count, 3)
        assert output.confidence is not None and output.confidence.shape == (count, 17)
        assert all(array.dtype == np.float32 for array in output[:4])
        assert output.visibility is None
        np.testing.assert_allclose(output.vertices[-1], tiny_bundle.template, atol=1e-6)
    assert (engine.name, engine.precision) == (name, "fp32")


def test_engines_agree_and_batches_agree_with_single_crops(tiny_bundle: Bundle) -> None:
    a, b = (open_engine(tiny_bundle, name, threads=1) for name in ENGINES)
    together = a.infer(crops(3))
    np.testing.assert_allclose(b.infer(crops(3)).camera, together.camera, atol=1e-5)
    for index in range(3):
        alone = a.infer(crops(3)[index : index + 1])
        np.testing.assert_allclose(alone.camera[0], together.camera[index], atol=1e-5)
    assert np.ptp(together.camera[:, 1]) > 0.1  # they are different persons


@pytest.mark.parametrize("name", ENGINES)
def test_an_answer_is_not_overwritten_by_the_next(tiny_bundle: Bundle, name: str) -> None:
    engine = open_engine(tiny_bundle, name, threads=1)
    first = engine.infer(crops(1))
    before = first.camera.copy()
    engine.infer(crops(2)[1:])
    np.testing.assert_array_equal(first.camera, before)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_has_answered_rests(tiny_bundle: Bundle, name: str) -> None:
    """The cores are the next network's, and other processes'."""
    engine = open_engine(tiny_bundle, name, threads=4)
    used_s = []
    for _ in range(3):
        engine.infer(crops(4))
        before = time.process_time()
        time.sleep(0.05)
        used_s.append(time.process_time() - before)
    assert min(used_s) < 0.02


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_without_confidence(tmp_path: Path, name: str) -> None:
    engine = open_engine(make_tiny_bundle(tmp_path / "tiny", confidence=False), name, threads=1)
    assert engine.infer(crops(1)).confidence is None


@pytest.mark.parametrize("name", ENGINES)
def test_visibility_and_a_calibrated_confidence_are_told_apart(calibrated_bundle: Bundle, name: str) -> None:
    engine = open_engine(calibrated_bundle, name, threads=1)
    for count in (1, 3):
        output = engine.infer(crops(count))
        np.testing.assert_allclose(output.visibility, np.ones((count, 17)), atol=1e-6)
        np.testing.assert_allclose(output.confidence, np.full((count, 17), 0.5), atol=1e-6)


def test_a_confidence_that_is_not_what_the_manifest_says(tiny_bundle: Bundle, calibrated_bundle: Bundle) -> None:
    def stated(bundle: Bundle, confidence_mm: float | None) -> Bundle:
        return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, confidence_mm=confidence_mm))

    with pytest.raises(BundleError, match="expected outputs confidence and visibility, got confidence"):
        open_engine(stated(tiny_bundle, 50.0), "onnxruntime", threads=1)
    with pytest.raises(BundleError, match="no output visibility, by the manifest, got confidence and visibility"):
        open_engine(stated(calibrated_bundle, None), "onnxruntime", threads=1)


def test_answers_of_several_calls_are_joined_and_parted_with_all_they_have(calibrated_bundle: Bundle) -> None:
    output = open_engine(calibrated_bundle, "onnxruntime", threads=1).infer(crops(3))
    again = concatenate([output.rows(0, 1), output.rows(1, 3)])
    for ours, theirs in zip(again, output, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    without = output._replace(confidence=None, visibility=None)
    assert concatenate([without.rows(0, 2), without]).visibility is None


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((1, 128, 128, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
    ],
)
def test_wrong_crops(tiny_bundle: Bundle, name: str, wrong: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"uint8 \(N, 64, 64, 3\)"):
        open_engine(tiny_bundle, name, threads=1).infer(wrong)


@pytest.mark.parametrize("name", ENGINES)
def test_nan_from_the_network_is_an_error_of_that_call_alone(tiny_bundle: Bundle, name: str) -> None:
    engine = open_engine(tiny_bundle, name, threads=1)
    poisoned = crops(2)
    poisoned[1, :4, :4] = RED_BGR[::-1]
    with pytest.raises(EngineError, match="not finite"):
        engine.infer(poisoned)
    assert np.isfinite(engine.infer(crops(2)).camera).all()


@pytest.mark.parametrize("name", [*ENGINES, "auto"])
def test_nan_weights_are_refused_on_opening(tmp_path: Path, name: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", nan_weights=True)
    with pytest.raises(BundleError, match=r"model\.onnx is broken: expected finite vertices"):
        open_engine(bundle, name, threads=1)


@pytest.mark.parametrize("name", [*ENGINES, "auto"])
def test_a_graph_that_contradicts_its_manifest(tmp_path: Path, name: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", joint_count_in_graph=14)
    with pytest.raises(BundleError, match=r"joints.*expected float32 \(1, 17, 3\).*got float32 \(1, 14, 3\)"):
        open_engine(bundle, name, threads=1)


@pytest.mark.parametrize("name", [*ENGINES, "auto"])
def test_a_file_that_is_no_network(tmp_path: Path, name: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    bundle.model_path.write_bytes(b"no network")
    other = {**bundle.manifest.sha256, "model.onnx": "0" * 64}  # nothing was cached for that
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, sha256=other))
    with pytest.raises(EngineError, match="cannot load"):
        open_engine(bundle, name, threads=1)


def test_unknown_wishes(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="openvino or onnxruntime, got 'tensorflow'"):
        open_engine(tiny_bundle, "tensorflow")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="fp32 or bf16 or fp16 or int8, got 'int4'"):
        open_engine(tiny_bundle, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="threads"):
        open_engine(tiny_bundle, threads=0)


def test_bf16_is_refused_where_it_is_not(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"expected fp32 or int8, got bf16\. Ask for fp32"):
        open_engine(tiny_bundle, "onnxruntime", "bf16")


def test_bf16_is_computed_where_it_is_and_refused_where_not(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    bundle = add_variant(bundle, "bf16", bundle.model_path.read_bytes(), **CLOSE)
    if "bf16" not in openvino.precisions():
        with pytest.raises(EngineError, match=r"got bf16\. Ask for fp32"):
            open_engine(bundle, "openvino", "bf16")
        return
    engine = open_engine(bundle, "auto", "bf16", threads=1)
    assert (engine.name, engine.precision) == ("openvino", "bf16")
    engine.infer(crops(2))


def test_a_precision_that_the_bundle_lacks(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"expected fp32, got int8\. Make it with python -m training\.variants"):
        open_engine(tiny_bundle, "openvino", "int8")


def test_a_missing_library_is_named_and_auto_does_without(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="metro_ros.core.engines")
    monkeypatch.setitem(sys.modules, "openvino", None)  # what Python itself does for "not importable"
    with pytest.raises(EngineError, match=r"engine openvino is not installed.*pip install openvino"):
        open_engine(tiny_bundle, "openvino")
    assert open_engine(tiny_bundle, threads=1).name == "onnxruntime"
    assert "engine onnxruntime fp32: the only one here" in caplog.text
    infos = {info.name: info for info in available_engines()}
    assert infos["openvino"].version is None and "not installed" in (infos["openvino"].problem or "")
    assert infos["onnxruntime"].problem is None and "fp32" in infos["onnxruntime"].precisions
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="no engine can run this model in fp32"):
        open_engine(tiny_bundle)


SIGNAL_AFTER_CLOSING = """
import gc, signal, sys, threading
from metro_ros.core.bundle import load_bundle
from metro_ros.core.engines import open_engine
engines = [open_engine(load_bundle(sys.argv[1]), "openvino")]
def close():
    engines.pop().close()
    gc.collect()
thread = threading.Thread(target=close)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_survived_when_another_thread_closed_the_engine(tiny_bundle: Bundle) -> None:
    arguments = [sys.executable, "-X", "faulthandler", "-c", SIGNAL_AFTER_CLOSING, str(tiny_bundle.path)]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result.stderr
