"""The written bytes are those that rclpy would have written, but for the undefined ones between fields."""

import numpy as np
import pytest
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from metro_ros.core.errors import ConfigError
from metro_ros.ros.cdr import content_mask, field_offsets, same_message
from metro_ros.ros.mesh_writer import MeshWriter, mesh_marker

LIFETIME = Duration(sec=1, nanosec=250_000_000)


def by_objects(faces, vertices, header, marker_id, color):
    marker = mesh_marker(len(faces), header, LIFETIME)
    marker.id = marker_id
    marker.color = ColorRGBA(r=color[0], g=color[1], b=color[2], a=1.0)
    corners = vertices[faces.ravel()].astype(np.float64)
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in corners.tolist()]
    return serialize_message(marker)


def random_mesh(vertex_count, face_count, seed=0):
    random = np.random.default_rng(seed)
    vertices = random.normal(size=(vertex_count, 3)).astype(np.float32)
    return random.integers(0, vertex_count, (face_count, 3)).astype(np.int32), vertices


def header(frame_id="camera_optical_frame", sec=1_700_000_000, nanosec=999_999_999):
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)


@pytest.mark.parametrize("face_count", [1, 2, 7, 2454])
@pytest.mark.parametrize("frame_id", ["c", "cam", "camera_optical_frame", "kamera_ä/optisch"])
def test_bytes_are_those_of_rclpy(face_count, frame_id):
    faces, vertices = random_mesh(max(3, face_count // 2), face_count)
    written = MeshWriter(faces, LIFETIME).write(vertices, header(frame_id), 3, (0.25, 0.1, 1.0))
    assert isinstance(written, bytes)
    expected = by_objects(faces, vertices, header(frame_id), 3, (0.25, 0.1, 1.0))
    assert same_message(written, expected, Marker)
    points = field_offsets(expected, Marker)["points[0].x"]
    assert written[points : points + 72 * face_count] == expected[points : points + 72 * face_count]


def test_the_finest_mesh_too():
    faces, vertices = random_mesh(12_272, 24_540)
    arguments = (vertices, header(), 1, (1.0, 0.5, 0.0))
    assert same_message(MeshWriter(faces, LIFETIME).write(*arguments), by_objects(faces, *arguments), Marker)


def test_bytes_between_fields_are_zero_and_repeat():
    faces, vertices = random_mesh(10, 8)
    first = MeshWriter(faces, LIFETIME).write(vertices, header("odd"), 3, (0.25, 0.1, 1.0))
    again = MeshWriter(faces, LIFETIME).write(vertices, header("odd"), 3, (0.25, 0.1, 1.0))
    assert first == again
    between = np.frombuffer(first, np.uint8)[~content_mask(first, Marker)]
    assert between.size and not between.any()


def test_one_writer_follows_changing_frames_ids_and_colours():
    faces, _ = random_mesh(50, 96)
    writer = MeshWriter(faces, LIFETIME)
    for step, frame_id in enumerate(["left", "left", "a_longer_frame", "left", "x"]):
        _, vertices = random_mesh(50, 96, seed=step)
        arguments = (vertices, header(frame_id, step, step * 1000), 2**31 - 1 - step, (step / 5, 0.3, 0.7))
        assert same_message(writer.write(*arguments), by_objects(faces, *arguments), Marker)


def test_bytes_read_back_as_the_mesh():
    faces, vertices = random_mesh(258, 512)
    marker = deserialize_message(MeshWriter(faces, LIFETIME).write(vertices, header(), 7, (1.0, 0.0, 0.0)), Marker)
    points = np.array([(p.x, p.y, p.z) for p in marker.points])
    assert np.array_equal(points, vertices[faces.ravel()])
    assert (marker.id, marker.type, marker.action) == (7, Marker.TRIANGLE_LIST, Marker.ADD)
    assert marker.header == header() and marker.lifetime == LIFETIME and not marker.colors


@pytest.mark.parametrize("shape", [(0, 3), (4, 4), (3,)])
def test_faces_of_another_shape_are_refused(shape):
    with pytest.raises(ConfigError, match="faces"):
        MeshWriter(np.zeros(shape, np.int32), LIFETIME)
