"""`make bench`: publishing a mesh by objects and by bytes, the engines, every step of the node. Writes bench.json."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rclpy
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from onnx import numpy_helper
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.camera import solve_translation
from metro_ros.core.clip import load_clip
from metro_ros.core.crop import crop_image
from metro_ros.core.engines import available_engines, open_engine
from metro_ros.core.errors import EngineError
from metro_ros.core.estimator import Estimator, decode
from metro_ros.ros.conversions import image_from_message, people_to_message
from metro_ros.ros.markers import joint_markers
from metro_ros.ros.mesh_writer import MeshWriter, mesh_marker

OUTPUT = Path("bench.json")
MESH_FACES, MESH_VERTICES = 13776, 6890
"""SMPL's sizes: what the paper's body publishes."""
RED = (1.0, 0.0, 0.0)


def median_ms(work: Callable[[], object], repetitions: int) -> float:
    """Median milliseconds of `work` after one warm-up."""
    work()
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def bench_mesh(repetitions: int = 5) -> dict[str, Any]:
    """Build and publish one marker by objects and by bytes; raises SystemExit when the bytes differ."""
    rng = np.random.default_rng(0)
    faces = rng.integers(0, MESH_VERTICES, (MESH_FACES, 3)).astype(np.int32)
    vertices = rng.normal(size=(MESH_VERTICES, 3)).astype(np.float32)
    header = Header(stamp=Time(sec=1, nanosec=2), frame_id="camera")
    lifetime = Duration(sec=1)
    writer = MeshWriter(faces, lifetime)

    def objects() -> Marker:
        marker = mesh_marker(0, header, lifetime)
        marker.id = 1
        marker.color.r, marker.color.g, marker.color.b, marker.color.a = (*RED, 1.0)
        marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in vertices[faces].reshape(-1, 3)]
        return marker

    written = bytes(writer.write(vertices, header, 1, RED))
    if written != bytes(serialize_message(objects())):
        raise SystemExit("bench: the bytes differ from serialize_message's")
    node = rclpy.create_node("metro_bench")
    publisher = node.create_publisher(Marker, "mesh", 10)
    by_objects = median_ms(lambda: publisher.publish(objects()), repetitions)
    by_bytes = median_ms(lambda: publisher.publish(bytes(writer.write(vertices, header, 1, RED))), 20 * repetitions)
    node.destroy_node()
    return {"objects_ms": by_objects, "bytes_ms": by_bytes, "ratio": by_objects / by_bytes, "bytes_identical": True}


def bench_engines(bundle: Bundle, repetitions: int = 40) -> dict[str, Any]:
    """Milliseconds of one crop by every engine and precision, or why it cannot run."""
    crop = np.random.default_rng(0).integers(0, 256, (1, bundle.manifest.crop.size, bundle.manifest.crop.size, 3))
    rows: dict[str, Any] = {}
    for info in available_engines():
        if info.problem:
            rows[info.name] = info.problem
        for precision in info.precisions:
            try:
                engine = open_engine(bundle, engine=info.name, precision=precision)
            except EngineError as error:
                rows[f"{info.name} {precision}"] = str(error)
                continue
            rows[f"{info.name} {precision}"] = median_ms(lambda e=engine: e.infer(crop.astype(np.uint8)), repetitions)
            engine.close()
    return rows


def bench_stages(bundle: Bundle, frames: int = 60) -> dict[str, float]:
    """Median milliseconds of each step from an image message to messages out, following the demo clip's person."""
    clip = load_clip(default_bundle_path().parent / "demo_clip")
    images = [image for image, _ in zip(clip.frames(), range(frames), strict=False)]
    header = Header(stamp=Time(sec=1), frame_id="camera")
    message = Image(header=header, height=images[0].shape[0], width=images[0].shape[1], encoding="bgr8")
    message.step = 3 * message.width
    message.data = images[0].tobytes()
    engine = open_engine(bundle)
    estimator, whole = Estimator(bundle, engine), []
    for index, image in enumerate(images):
        began = time.perf_counter()
        people = estimator(image, clip.camera, index / clip.fps)
        whole.append(1e3 * (time.perf_counter() - began))
    if not people:
        raise SystemExit("bench: the model lost the demo's person")
    person, size = people[0], bundle.manifest.crop.size
    crops = crop_image(images[-1], person.box, size)[None]
    output, anchors = engine.infer(crops), bundle.rows[len(bundle.levels) // 2]

    def place() -> None:
        body = decode(output, 0, person.box, clip.camera, bundle, anchors)
        solve_translation(body.anchors, body.anchors_px, clip.camera)

    lifetime = Duration(sec=1)
    level = len(bundle.levels) // 2
    writer, shown = MeshWriter(bundle.faces[level], lifetime), person.vertices[bundle.rows[level]]
    steps: dict[str, Callable[[], object]] = {
        "decode the image message": lambda: image_from_message(message),
        "crop": lambda: crop_image(images[-1], person.box, size),
        f"infer ({engine.name} {engine.precision})": lambda: engine.infer(crops),
        "place in the camera frame": place,
        "people message, serialised": lambda: serialize_message(people_to_message(people, header, "bench")),
        "joint markers, serialised": lambda: serialize_message(
            joint_markers(people, (), header, bundle.skeleton, lifetime, 0.05, 0.02)
        ),
        f"mesh bytes, {len(bundle.faces[level])} triangles": lambda: writer.write(shown, header, 1, RED),
    }
    times = {name: median_ms(work, 40) for name, work in steps.items()}
    times["estimator, image to people"] = statistics.median(whole[5:])
    engine.close()
    return times


def count_gmac(bundle: Bundle) -> float:
    """Multiply-accumulates of one person in 1e9: every Conv, MatMul and Gemm of the model, for N = 1."""
    model = onnx.load(str(bundle.model_path))
    for axis in model.graph.input[0].type.tensor_type.shape.dim[:1]:
        axis.dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    shapes |= {tensor.name: list(numpy_helper.to_array(tensor).shape) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        outputs = [max(1, size) for size in shapes[node.output[0]]]
        weights = shapes[node.input[1]]
        inner = int(np.prod(weights[1:])) if node.op_type == "Conv" else max(1, shapes[node.input[0]][-1])
        total += int(np.prod(outputs)) * inner
    return total / 1e9


def main() -> int:
    """Run all benchmarks."""
    bundle = load_bundle(default_bundle_path())
    rclpy.init()
    try:
        mesh = bench_mesh()
    finally:
        rclpy.shutdown()
    report = {
        "mesh": mesh,
        "engines_ms": bench_engines(bundle),
        "stages_ms": bench_stages(bundle),
        "person_gmac": count_gmac(bundle),
    }
    print(f"mesh of {MESH_FACES} faces: {mesh['objects_ms']:.1f} ms by objects, {mesh['bytes_ms']:.2f} ms by bytes")
    print(f"  ratio {mesh['ratio']:.0f}, bytes identical to serialize_message")
    for name, value in report["engines_ms"].items():
        print(f"engine {name}: {value if isinstance(value, str) else f'{value:.1f} ms a crop'}")
    for name, value in report["stages_ms"].items():
        print(f"stage {name}: {value:.2f} ms")
    print(f"one person: {report['person_gmac']:.2f} GMAC")
    OUTPUT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
