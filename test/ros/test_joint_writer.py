"""The written bytes are those that rclpy would have written, but for the undefined ones between fields."""

import numpy as np
import pytest
from builtin_interfaces.msg import Duration, Time
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from tiny_bundle import HAND_21
from visualization_msgs.msg import MarkerArray

from metro_ros.core.crop import Box
from metro_ros.core.estimator import Person
from metro_ros.core.skeleton import BODY_17, Skeleton
from metro_ros.ros.cdr import content_mask, same_message
from metro_ros.ros.joint_writer import JointWriter
from metro_ros.ros.markers import joint_markers

STYLE = (Duration(sec=1, nanosec=250_000_000), 0.05, 0.02)


def someone(person_id: int, skeleton: Skeleton) -> Person:
    joints = np.random.default_rng(person_id).normal(size=(len(skeleton), 3)).astype(np.float32)
    return Person(person_id, 1.0, Box(0, 0, 1.0), joints, joints, joints[0], "camera", None)


def header(frame_id: str = "lens", sec: int = 1_700_000_000, nanosec: int = 999_999_999) -> Header:
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)


@pytest.mark.parametrize("skeleton", [BODY_17, HAND_21, Skeleton(("A",), (-1,))])
@pytest.mark.parametrize("frame_id", ["c", "cam", "camera_optical_frame", "kamera_ä/optisch"])
def test_bytes_are_those_of_rclpy_for_any_number_of_people(skeleton, frame_id):
    writer = JointWriter(skeleton, *STYLE)
    for count in (1, 0, 3, 2, 1):
        people = [someone(10 * count + index, skeleton) for index in range(count)]
        written = writer.write(people, header(frame_id, sec=count))
        expected = serialize_message(joint_markers(people, (), header(frame_id, sec=count), skeleton, *STYLE))
        assert same_message(written, expected, MarkerArray)
        padding = ~content_mask(written, MarkerArray)
        assert not np.frombuffer(written, np.uint8)[padding].any()


def test_nothing_of_an_earlier_image_stays():
    writer = JointWriter(BODY_17, *STYLE)
    first = writer.write([someone(1, BODY_17)], header("first", 5, 6))
    kept = bytes(first)
    second = writer.write([someone(2, BODY_17)], header("second lens", 7, 8))
    assert first == kept
    spheres, bones = deserialize_message(second, MarkerArray).markers
    assert spheres.header == bones.header == header("second lens", 7, 8)
    assert (spheres.id, bones.id) == (2, 2)
