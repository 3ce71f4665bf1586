"""Field offsets in serialised messages, against rclpy's own serialisation."""

import struct

import pytest
from metro_msgs.msg import Person, PersonArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from metro_ros.core.errors import ConfigError
from metro_ros.ros.cdr import content_mask, field_offsets, same_message


def person_array():
    message = PersonArray(model="odd")
    message.header.frame_id = "ab"
    for number in (1, 2):
        person = Person(id=number, score=0.5, joints=[1.0, 2.0, 3.0], joint_confidence=[0.25] * number)
        person.translation.z = 4.5
        message.persons.append(person)
    return message


def test_offsets_lead_to_the_values():
    data = serialize_message(person_array())
    offsets = field_offsets(data, PersonArray)
    assert struct.unpack_from("<I", data, offsets["persons.size"]) == (2,)
    assert struct.unpack_from("<I", data, offsets["persons[1].id"]) == (2,)
    assert struct.unpack_from("<d", data, offsets["persons[1].translation.z"]) == (4.5,)
    assert struct.unpack_from("<3f", data, offsets["persons[0].joints"]) == (1.0, 2.0, 3.0)
    assert struct.unpack_from("<2f", data, offsets["persons[1].joint_confidence"]) == (0.25, 0.25)


@pytest.mark.parametrize("message", [Marker(ns="x"), MarkerArray(markers=[Marker(), Marker()]), CameraInfo(), Image()])
def test_the_walk_ends_where_the_data_ends(message):
    data = serialize_message(message)
    mask = content_mask(data, type(message))
    assert mask[-1] or mask[-4:].any(), "nothing but alignment may follow the last field"
    offsets = list(field_offsets(data, type(message)).values())
    assert offsets == sorted(offsets) and offsets[-1] < len(data)


def test_same_message_ignores_only_what_lies_between_fields():
    data = serialize_message(person_array())
    mask = content_mask(data, PersonArray)
    assert not mask.all()
    for index, means_something in enumerate(mask):
        changed = bytearray(data)
        changed[index] ^= 0xFF
        assert same_message(data, bytes(changed), PersonArray) != means_something
    assert not same_message(data, data + b"\0", PersonArray)


def test_another_encapsulation_is_refused():
    data = serialize_message(Image())
    with pytest.raises(ConfigError, match="CDR"):
        field_offsets(b"\x00\x00" + data[2:], Image)
