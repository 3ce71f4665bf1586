"""Markers for RViz: spheres and bones per person, and the removal of who is gone."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from metro_ros.core.draw import person_color
from metro_ros.core.estimator import Person
from metro_ros.core.skeleton import Skeleton

JOINTS, BONES = "joints", "bones"
"""Marker namespaces; a marker's id is the person's."""


def color_rgb(person_id: int) -> tuple[float, float, float]:
    """The person's colour, 0 to 1: the same as in the pictures that metro_ros draws."""
    blue, green, red = person_color(person_id)
    return red / 255, green / 255, blue / 255


def joint_markers(
    people: Iterable[Person],
    gone: Iterable[int],
    header: Header,
    skeleton: Skeleton,
    lifetime: Duration,
    joint_diameter_m: float,
    bone_width_m: float,
) -> MarkerArray:
    """Two markers a person, spheres and bones, in the header's frame; deletes those with the ids in `gone`."""
    style = (skeleton, header, lifetime, joint_diameter_m, bone_width_m)
    markers = [delete_marker(header, namespace, person_id) for person_id in gone for namespace in (JOINTS, BONES)]
    for person in people:
        markers += person_markers(person.id, person.joints, *style)
    return MarkerArray(markers=markers)


def person_markers(
    person_id: int,
    joints: npt.NDArray[np.floating],
    skeleton: Skeleton,
    header: Header,
    lifetime: Duration,
    joint_diameter_m: float,
    bone_width_m: float,
) -> list[Marker]:
    """Spheres and bones of one person; joints: (J, 3), metres, in the header's frame."""
    red, green, blue = color_rgb(person_id)
    color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    common = {"header": header, "id": person_id, "action": Marker.ADD, "color": color, "lifetime": lifetime}
    diameter = Vector3(x=joint_diameter_m, y=joint_diameter_m, z=joint_diameter_m)
    return [
        Marker(ns=JOINTS, type=Marker.SPHERE_LIST, scale=diameter, points=_points(joints), **common),
        Marker(
            ns=BONES,
            type=Marker.LINE_LIST,
            scale=Vector3(x=bone_width_m),
            points=_points(joints[bone_ends(skeleton)]),
            **common,
        ),
    ]


def bone_ends(skeleton: Skeleton) -> npt.NDArray[np.intp]:
    """Joints at the two ends of each bone, one after another."""
    return np.array(skeleton.bones(), np.intp).reshape(-1)


def delete_marker(header: Header, namespace: str, marker_id: int) -> Marker:
    """Removes one marker from the display; never everyone's."""
    return Marker(header=header, ns=namespace, id=marker_id, action=Marker.DELETE)


def _points(xyz: npt.NDArray[np.floating]) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y, z in xyz.tolist()]
