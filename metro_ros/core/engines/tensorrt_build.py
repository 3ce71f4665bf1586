"""From an ONNX file to a TensorRT plan, by the one way that TensorRT 8.6 to 11 and TensorRT-RTX share."""

import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines.base import OPTIONAL_NAMES, OUTPUT_NAMES, Precision, missing_output
from metro_ros.core.engines.tensorrt_gpu import Gpu
from metro_ros.core.engines.tensorrt_library import Library
from metro_ros.core.engines.tensorrt_plan import BatchProfile, Plan
from metro_ros.core.errors import BundleError, EngineError

INPUT_NAME = "image"
FIRST_REPORT_S, REPORT_S = 2.0, 10.0
FLAGS: dict[Precision, str] = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""What lets the builder use a narrower type, in versions that do not take the file's word for it."""

log = logging.getLogger(__name__)


def build_plan(
    library: Library,
    bundle: Bundle,
    precision: Precision,
    profile: BatchProfile,
    compute_capability: str,
    gpu: Gpu | None,
) -> Plan:
    """Build the network for a GPU, or, where the library can do that, without one for all of a compute capability.

    While it takes long, the log says how far it is; Ctrl-C stops it. Raises EngineError when it cannot be built,
    BundleError when its inputs or outputs are not those of a bundle.
    """
    target = gpu.name if gpu else f"compute capability {compute_capability}"
    progress = Progress()

    def build() -> Any:
        with gpu.current("building a plan") if gpu else contextlib.nullcontext():
            return _build(library, bundle, precision, profile, compute_capability, progress)

    started = time.monotonic()
    with ThreadPoolExecutor(1, "tensorrt-build") as pool:  # so that this thread can tell, and be interrupted
        future = pool.submit(build)
        try:
            pause_s = FIRST_REPORT_S
            while not wait([future], timeout=pause_s).done:
                pause_s = REPORT_S
                elapsed_s = time.monotonic() - started
                log.warning("building a plan for %s, once: %.0f s%s", target, elapsed_s, str(progress))
        except BaseException:
            progress.cancelled = True
            raise
        content = future.result()
    size_mb = memoryview(content).nbytes / 1e6
    log.info("built a plan for %s: %.0f MB in %.1f s", target, size_mb, time.monotonic() - started)
    return Plan(content, profile)


@dataclass
class Progress:
    """How far the builder is, told from its own threads; `cancelled` is what it is told.

    phases: those that are open, the outer before the inner, with the steps done and to do.
    """

    phases: dict[str, tuple[int, int]] = field(default_factory=dict)
    cancelled: bool = False

    def __str__(self) -> str:
        told = [f"{name} {done} of {steps}" for name, (done, steps) in list(self.phases.items()) if steps > 1]
        return ", " + ", ".join(told) if told else ""


def _build(
    library: Library,
    bundle: Bundle,
    precision: Precision,
    profile: BatchProfile,
    compute_capability: str,
    progress: Progress,
) -> Any:
    trt = library.module
    builder = trt.Builder(library.messages)
    path = bundle.model_file(precision)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, library.messages)
    if not parser.parse_from_file(str(path)):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(f"{library.name} {library.version} cannot read {path}", got="; ".join(reasons[:2]))
    _check_tensors(trt, network, bundle)
    config = builder.create_builder_config()
    _restrict_types(trt, config, precision)
    size = bundle.manifest.crop.size
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT_NAME, *((count, size, size, 3) for count in (1, profile.best, profile.largest)))
    config.add_optimization_profile(shapes)
    if library.builds_ahead:
        config.num_compute_capabilities = 1
        config.set_compute_capability(library.capability(compute_capability), 0)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = monitor = _monitor(trt, progress)  # noqa: F841  the library does not keep it alive
    library.messages.take_error()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{library.name} {library.version} cannot build {path}", got=library.messages.take_error())
    return plan


def _network_flags(trt: Any) -> int:
    """Networks with a batch axis of their own, computed in the types that the file says, as far as a version has to be
    asked for that."""
    known = trt.NetworkDefinitionCreationFlag.__members__
    return sum(1 << int(known[name]) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if name in known)


def _restrict_types(trt: Any, config: Any, precision: Precision) -> None:
    """fp32 without TF32, and what is narrower only where the file is; before TensorRT 10, where the builder likes."""
    known = trt.BuilderFlag.__members__
    if "TF32" in known:
        config.clear_flag(known["TF32"])
    flag = FLAGS.get(precision)
    if flag in known and "STRONGLY_TYPED" not in trt.NetworkDefinitionCreationFlag.__members__:
        config.set_flag(known[flag])


def _check_tensors(trt: Any, network: Any, bundle: Bundle) -> None:
    """Raises BundleError unless the network has the inputs and outputs of a bundle."""
    size = bundle.manifest.crop.size
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    names = [tensor.name for tensor in outputs]
    if not set(OUTPUT_NAMES) <= set(names):
        raise missing_output(bundle, names)
    expected = [(INPUT_NAME, trt.DataType.UINT8, (-1, size, size, 3))]
    if [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in inputs] != expected:
        raise BundleError(
            f"inputs of {bundle.model_path}",
            expected=f"{INPUT_NAME}, uint8 (N, {size}, {size}, 3)",
            got=", ".join(f"{tensor.name}, {tensor.dtype} {tuple(tensor.shape)}" for tensor in inputs),
        )
    for tensor in outputs:
        if tensor.name in (*OUTPUT_NAMES, *OPTIONAL_NAMES) and tensor.dtype != trt.DataType.FLOAT:
            raise BundleError(f"output {tensor.name} of {bundle.model_path}", expected="float32", got=tensor.dtype)


def _monitor(trt: Any, progress: Progress) -> Any:
    """A progress monitor of the library that keeps `progress` up to date."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress.phases[name] = (0, steps)

        def step_complete(self, name: str, step: int) -> bool:
            if name in progress.phases:
                progress.phases[name] = (step + 1, progress.phases[name][1])
            return not progress.cancelled

        def phase_finish(self, name: str) -> None:
            progress.phases.pop(name, None)

    return Monitor()
