"""Plans built by TensorRT-RTX itself, which needs no GPU for that, and the files in which they are kept."""

import dataclasses
import errno
import json
import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from metro_ros.core.bundle import Bundle, add_variant, default_bundle_path, load_bundle
from metro_ros.core.engines import tensorrt, tensorrt_build
from metro_ros.core.engines.base import Precision
from metro_ros.core.engines.tensorrt_library import Library, find_library
from metro_ros.core.engines.tensorrt_plan import BatchProfile, Plan, PlanKey, PlanUnusable, read_plan, write_plan
from metro_ros.core.errors import BundleError, EngineError

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
PROFILE = BatchProfile()
CLOSE = {"mean_vertex_mm": 0.2, "max_vertex_mm": 2.0, "joints_mm": 0.2}
KEY = PlanKey("5" * 64, "fp32", "tensorrt", "10.3.0", "NVIDIA GeForce RTX 3090", "8.6")


@pytest.fixture
def library() -> Library:
    return find_library("tensorrt_rtx")


def build(library: Library, bundle: Bundle, precision: Precision = "fp32", profile: BatchProfile = PROFILE) -> Any:
    return tensorrt_build.build_plan(library, bundle, precision, profile, "8.6", None)


class Seen:
    """What the library's builder was asked for, next to what it then builds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
        self.network: dict[str, tuple[str, tuple[int, ...]]] = {}
        build_plan = library.module.Builder.build_serialized_network

        def build_serialized_network(builder: Any, network: Any, config: Any) -> Any:
            tensors = [network.get_input(index) for index in range(network.num_inputs)]
            tensors += [network.get_output(index) for index in range(network.num_outputs)]
            self.network = {tensor.name: (tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors}
            self.tf32 = config.get_flag(library.module.BuilderFlag.TF32)
            self.profiles = config.num_optimization_profiles
            self.capabilities = [config.get_compute_capability(i).name for i in range(config.num_compute_capabilities)]
            return build_plan(builder, network, config)

        monkeypatch.setattr(library.module.Builder, "build_serialized_network", build_serialized_network)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, library: Library) -> Seen:
    return Seen(monkeypatch, library)


def test_inputs_outputs_and_settings(tiny_bundle: Bundle, library: Library, seen: Seen) -> None:
    plan = build(library, tiny_bundle)
    assert seen.network == {
        "image": ("UINT8", (-1, 64, 64, 3)),
        "joints": ("FLOAT", (-1, 17, 3)),
        "vertices": ("FLOAT", (-1, 258, 3)),
        "camera": ("FLOAT", (-1, 3)),
        "confidence": ("FLOAT", (-1, 17)),
    }
    assert not seen.tf32, "fp32 means fp32"
    assert seen.profiles == 1 and seen.capabilities == ["SM86"]
    assert plan.profile == PROFILE and memoryview(plan.content).nbytes > 10_000


@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
def test_the_default_model_builds_for_gpus_that_are_not_here(
    seen: Seen, library: Library, tmp_path: Path, capability: str
) -> None:
    bundle = load_bundle(default_bundle_path())
    path, built = tensorrt.build_ahead(bundle, "fp32", PROFILE, capability, tmp_path)
    assert built and seen.capabilities == [f"SM{capability.replace('.', '')}"]
    assert seen.network["vertices"] == ("FLOAT", (-1, 12272, 3))
    key = tensorrt.plan_key(library, bundle, "fp32", capability, None)
    plan = read_plan(path, key, PROFILE)
    assert plan is not None and len(plan.content) > 14e6
    assert tensorrt.build_ahead(bundle, "fp32", PROFILE, capability, tmp_path) == (path, False)


def test_precision_chooses_the_file(tiny_bundle: Bundle, library: Library, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    model = onnx.load(tiny_bundle.model_path)
    model.producer_name = "another file"
    bundle = add_variant(load_bundle(tmp_path / "bundle"), "fp16", model.SerializeToString(), **CLOSE)
    keys = [tensorrt.plan_key(library, bundle, precision, "8.6", None) for precision in ("fp32", "fp16")]
    assert keys[0].model != keys[1].model and keys[1].model == bundle.manifest.sha256["model.fp16.onnx"]
    assert len({key.file_name for key in keys}) == 2
    assert build(library, bundle, "fp16").content
    with pytest.raises(EngineError, match="int8"):
        build(library, bundle, "int8")


@pytest.mark.parametrize("change", ["broken", "input", "output", "names"])
def test_a_model_that_is_none_of_a_bundle(library: Library, tiny_bundle: Bundle, tmp_path: Path, change: str) -> None:
    model = onnx.load(tiny_bundle.model_path)
    if change == "broken":
        content = b"no ONNX"
    else:
        if change == "input":
            model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
        elif change == "output":
            model.graph.node.append(helper.make_node("Cast", ["camera"], ["half"], to=TensorProto.FLOAT16))
            (camera,) = [output for output in model.graph.output if output.name == "camera"]
            for node in model.graph.node:
                node.output[:] = ["camera_fp32" if name == "camera" else name for name in node.output]
                node.input[:] = ["camera_fp32" if name == "camera" else name for name in node.input]
            model.graph.node[-1].output[0] = "camera"
            camera.type.tensor_type.elem_type = TensorProto.FLOAT16
        else:
            del model.graph.output[0]
        content = model.SerializeToString()
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    bundle = add_variant(load_bundle(tmp_path / "bundle"), "fp16", content, **CLOSE)
    expected = {"broken": (EngineError, "cannot read"), "input": (BundleError, "inputs of .*uint8")}
    expected |= {"output": (BundleError, "output camera .*float32"), "names": (BundleError, "outputs of .*joints")}
    kind, text = expected[change]
    with pytest.raises(kind, match=text) as caught:
        build(library, bundle, "fp16")
    assert "\n" not in str(caught.value)


def test_a_failed_build_says_why(tiny_bundle: Bundle, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(builder: Any, network: Any, config: Any) -> None:
        library.messages.log(library.module.ILogger.ERROR, "no implementation\nfor a layer")

    monkeypatch.setattr(library.module.Builder, "build_serialized_network", fail)
    with pytest.raises(EngineError, match=r"^tensorrt_rtx .* cannot build .*: got no implementation for a layer$"):
        build(library, tiny_bundle)


def test_a_long_build_says_how_far_it_is(
    tiny_bundle: Bundle, library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorrt_build, "FIRST_REPORT_S", 0.002)
    monkeypatch.setattr(tensorrt_build, "REPORT_S", 0.002)
    with caplog.at_level(logging.WARNING, logger="metro_ros"):
        build(library, tiny_bundle)
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("building a plan for compute capability 8.6, once: 0 s") for line in lines)
    assert any(re.search(r"Building engine \d of 6", line) for line in lines)


def test_interrupted_it_stops(tiny_bundle: Bundle, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the waiting thread only; the builder is told at its next step."""
    answers: list[bool] = []
    monitor = tensorrt_build._monitor

    def listen(trt: Any, progress: tensorrt_build.Progress) -> Any:
        watched = monitor(trt, progress)
        step = watched.step_complete
        watched.step_complete = lambda *arguments: answers.append(step(*arguments)) or answers[-1]
        return watched

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensorrt_build, "_monitor", listen)
    monkeypatch.setattr(tensorrt_build, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(library, tiny_bundle)
    assert answers and not all(answers)


@pytest.mark.parametrize(
    ("flags", "builder_flags", "precision", "network", "allowed"),
    [
        (["EXPLICIT_BATCH"], ["FP16", "INT8", "TF32"], "fp16", 0b1, ["FP16"]),  # 8.6
        (["EXPLICIT_BATCH"], ["FP16", "INT8", "TF32"], "fp32", 0b1, []),
        (["EXPLICIT_BATCH"], ["FP16", "INT8", "TF32"], "bf16", 0b1, []),
        (["EXPLICIT_BATCH", "STRONGLY_TYPED"], ["FP16", "BF16", "TF32"], "fp16", 0b11, []),  # 10
        (["STRONGLY_TYPED"], ["TF32"], "int8", 0b1, []),  # 11
        ([], [], "fp16", 0, []),
    ],
)
def test_each_version_is_asked_for_what_it_has(
    flags: list[str], builder_flags: list[str], precision: Precision, network: int, allowed: list[str]
) -> None:
    members = {name: index for index, name in enumerate(flags)}
    trt = SimpleNamespace(
        NetworkDefinitionCreationFlag=SimpleNamespace(__members__=members),
        BuilderFlag=SimpleNamespace(__members__={name: name for name in builder_flags}),
    )
    changed: dict[str, list[str]] = {"set": [], "cleared": []}
    config = SimpleNamespace(set_flag=changed["set"].append, clear_flag=changed["cleared"].append)
    assert tensorrt_build._network_flags(trt) == network
    tensorrt_build._restrict_types(trt, config, precision)
    assert changed == {"set": allowed, "cleared": [name for name in builder_flags if name == "TF32"]}


def test_a_plan_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / KEY.file_name
    assert read_plan(path, KEY) is None
    write_plan(path, KEY, Plan(memoryview(b"the plan"), BatchProfile(8, 2)))
    assert read_plan(path, KEY) == Plan(b"the plan", BatchProfile(8, 2))
    assert read_plan(path, KEY, BatchProfile(8, 2)) is not None
    assert [entry.name for entry in path.parent.iterdir()] == [
        "5555555555555555.fp32.tensorrt.nvidia-geforce-rtx-3090.sm8.6.plan"
    ]
    with pytest.raises(PlanUnusable, match=r"^was built for 1 to 8 crops, best 2$"):
        read_plan(path, KEY, BatchProfile())


OTHERS = {
    "model": "6" * 64,
    "precision": "fp16",
    "library": "tensorrt_rtx",
    "version": "10.4.0",
    "gpu": "NVIDIA GeForce RTX 3080",
    "compute_capability": "8.9",
}


@pytest.mark.parametrize("field", OTHERS)
def test_a_plan_of_something_else_is_told(tmp_path: Path, field: str) -> None:
    path = tmp_path / "x.plan"
    write_plan(path, KEY, Plan(b"the plan", PROFILE))
    with pytest.raises(PlanUnusable) as caught:
        read_plan(path, dataclasses.replace(KEY, **{field: OTHERS[field]}))
    name = field.replace("_", " ")
    assert str(caught.value) == f"is of {name} {getattr(KEY, field)}, not {OTHERS[field]}"


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    write_plan(path, KEY, Plan(b"the plan", PROFILE))
    content = path.read_bytes()
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 0x10]) + content[index + 1 :])
        with pytest.raises(PlanUnusable):
            read_plan(path, KEY, PROFILE)
        path.write_bytes(content[:index])
        with pytest.raises(PlanUnusable):
            read_plan(path, KEY, PROFILE)


@pytest.mark.parametrize("header", [[], {}, {"key": 3}, {"key": {}}, {"profile": {"largest": 0}}, {"bytes": None}])
def test_what_is_no_header(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "x.plan"
    write_plan(path, KEY, Plan(b"the plan", PROFILE))
    content = path.read_bytes()
    start = content.index(b"{")
    if isinstance(header, dict) and header:
        header = json.loads(content[start:].partition(b"the plan")[0]) | header
    encoded = json.dumps(header).encode()
    path.write_bytes(content[: start - 4] + len(encoded).to_bytes(4, "little") + encoded + b"the plan")
    with pytest.raises(PlanUnusable, match=r"damaged header|truncated"):
        read_plan(path, KEY)


def test_a_full_disk_leaves_the_plan_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.plan"
    write_plan(path, KEY, Plan(b"the plan", PROFILE))

    class Full(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
        def __enter__(self) -> str:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Full)
    with pytest.raises(OSError, match="No space"):
        write_plan(path, KEY, Plan(b"another", PROFILE))
    monkeypatch.undo()
    assert read_plan(path, KEY) == Plan(b"the plan", PROFILE)


@pytest.mark.parametrize(("largest", "best"), [(0, 0), (4, 5), (4, 0), (2000, 1)])
def test_impossible_profiles(largest: int, best: int) -> None:
    with pytest.raises(EngineError, match="batch profile"):
        BatchProfile(largest, best)


def test_messages_keep_the_first_error(library: Library, caplog: pytest.LogCaptureFixture) -> None:
    severity = library.module.ILogger
    with caplog.at_level(logging.DEBUG, logger="metro_ros"):
        for level, text in ((severity.WARNING, "w"), (severity.ERROR, "cause"), (severity.ERROR, "effect")):
            library.messages.log(level, text)
        library.messages.log(severity.VERBOSE, "chatter")
    assert library.messages.take_error() == "cause"
    assert library.messages.take_error() == "no reason given"
    assert [record.getMessage() for record in caplog.records] == [
        f"tensorrt_rtx: {text}" for text in ("w", "cause", "effect")
    ]
    assert max(record.levelno for record in caplog.records) < logging.WARNING


def test_without_a_library_nothing_is_built(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match="nothing to build with"):
        tensorrt.build_ahead(tiny_bundle, "fp32", PROFILE, "8.6")
