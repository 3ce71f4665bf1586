"""A mesh of SMPL's size published by objects, as rclpy has it, and by bytes."""

from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from benchmarks.turns import median_ms
from metro_ros.ros.mesh_writer import MeshWriter, mesh_marker

FACES, VERTICES = 13776, 6890
RED = (1.0, 0.0, 0.0)


def bench_mesh(calls: int = 5) -> dict[str, Any]:
    """Build and publish one marker by objects and by bytes; raises SystemExit when the bytes differ."""
    rng = np.random.default_rng(0)
    faces = rng.integers(0, VERTICES, (FACES, 3)).astype(np.int32)
    vertices = rng.normal(size=(VERTICES, 3)).astype(np.float32)
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
    rclpy.init()
    try:
        node = rclpy.create_node("metro_bench")
        publisher = node.create_publisher(Marker, "mesh", 10)
        by_objects = median_ms(lambda: publisher.publish(objects()), calls)
        by_bytes = median_ms(lambda: publisher.publish(bytes(writer.write(vertices, header, 1, RED))), 20 * calls)
    finally:
        rclpy.try_shutdown()
    return {"objects_ms": by_objects, "bytes_ms": by_bytes, "ratio": by_objects / by_bytes, "bytes_identical": True}
