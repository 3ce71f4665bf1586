"""Everything the node publishes about people; what no one subscribes to is not made."""

from builtin_interfaces.msg import Duration as DurationMessage
from metro_msgs.msg import MeshTopology, PersonArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from metro_ros.core.bundle import Bundle
from metro_ros.core.estimator import Person
from metro_ros.ros.conversions import people_to_message, topology_to_message
from metro_ros.ros.markers import color_rgb, delete_marker, joint_markers
from metro_ros.ros.mesh_writer import NAMESPACE as MESH
from metro_ros.ros.mesh_writer import MeshWriter
from metro_ros.ros.params import NodeConfig

JOINT_OF_EXTENT, BONE_OF_EXTENT = 0.027, 0.011
"""Sizes of joints and bones where no one sets them, of the template's extent: 5 and 2 cm for a body of 1.84 m."""
RELIABLE_DEPTH = 10
MESH_DEPTH = 8
"""Twice as many as people at most: a new mesh and the removal of an old one each. Best effort would lose nearly all."""


def reliable(depth: int) -> QoSProfile:
    """Reliable, volatile, the latest `depth` messages."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def overridable() -> QoSOverridingOptions:
    """History, depth and reliability of a topic can be set by parameters, qos_overrides.<topic>.…"""
    return QoSOverridingOptions.with_default_policies()


class Outputs:
    """The publishers ~/people, ~/joints, ~/mesh and ~/topology of one configured node. Not for several threads."""

    def __init__(self, node: LifecycleNode, bundle: Bundle) -> None:
        """Create the publishers and publish the topology, once, for everyone who comes."""
        self._node = node
        self._bundle = bundle
        self._shown: set[int] = set()
        self._last_header = Header()
        self._writer: MeshWriter | None = None
        self._written_as: tuple[int, DurationMessage] | None = None

        create = node.create_lifecycle_publisher
        self._people = create(PersonArray, "~/people", reliable(RELIABLE_DEPTH), qos_overriding_options=overridable())
        self._joints = create(MarkerArray, "~/joints", reliable(RELIABLE_DEPTH), qos_overriding_options=overridable())
        self._mesh = create(Marker, "~/mesh", reliable(MESH_DEPTH), qos_overriding_options=overridable())
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._topology = node.create_publisher(
            MeshTopology, "~/topology", latched, qos_overriding_options=overridable()
        )
        self._topology.publish(topology_to_message(bundle))

    def watched(self) -> bool:
        """Whether anyone subscribes to anything that changes from frame to frame."""
        return any(topic.get_subscription_count() for topic in (self._people, self._joints, self._mesh))

    def publish(self, people: list[Person], header: Header, config: NodeConfig) -> None:
        """Send what is subscribed to, under the image's `header`, and take away the markers of who is gone."""
        ids = {person.id for person in people}
        gone = self._shown - ids
        lifetime = Duration(seconds=config.marker_lifetime_s).to_msg()
        if self._people.get_subscription_count():
            self._people.publish(people_to_message(people, header, self._bundle.manifest.name))
        if self._joints.get_subscription_count():
            sizes = (
                config.joint_diameter_m or JOINT_OF_EXTENT * self._bundle.extent_m,
                config.bone_width_m or BONE_OF_EXTENT * self._bundle.extent_m,
            )
            self._joints.publish(joint_markers(people, gone, header, self._bundle.skeleton, lifetime, *sizes))
        if self._mesh.get_subscription_count():
            self._publish_meshes(people, gone, header, mesh_level(config, self._bundle), lifetime)
        self._shown, self._last_header = ids, header

    def clear(self) -> None:
        """Take away the markers of everyone shown."""
        header, gone, self._shown = self._last_header, self._shown, set()
        if not gone or not self._node.context.ok():  # after Ctrl-C nothing can be published; markers time out
            return
        self._joints.publish(joint_markers([], gone, header, self._bundle.skeleton, DurationMessage(), 0.0, 0.0))
        for person_id in gone:
            self._mesh.publish(delete_marker(header, MESH, person_id))

    def destroy(self) -> None:
        """Remove the publishers, the last one first."""
        self._node.destroy_publisher(self._topology)
        for publisher in (self._mesh, self._joints, self._people):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publish_meshes(
        self, people: list[Person], gone: set[int], header: Header, level: int, lifetime: DurationMessage
    ) -> None:
        if not len(self._bundle.faces[level]):
            return  # imported without faces: there is no surface to show
        if self._writer is None or self._written_as != (level, lifetime):
            self._writer = MeshWriter(self._bundle.faces[level], lifetime)
            self._written_as = (level, lifetime)
        for person_id in gone:
            self._mesh.publish(delete_marker(header, MESH, person_id))
        for person in people:
            vertices = person.vertices[self._bundle.rows[level]]
            self._mesh.publish(self._writer.write(vertices, header, person.id, color_rgb(person.id)))


def mesh_level(config: NodeConfig, bundle: Bundle) -> int:
    """Index of the level to show. Raises ConfigError when the bundle has none with so many vertices."""
    return bundle.level(config.mesh_level) if config.mesh_level else len(bundle.levels) // 2
