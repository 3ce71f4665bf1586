"""Everything the node publishes about people; what no one subscribes to is not made."""

from builtin_interfaces.msg import Duration as DurationMessage
from metro_msgs.msg import MeshTopology, PersonArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from metro_ros.core.bundle import Bundle
from metro_ros.core.estimator import Person
from metro_ros.ros.conversions import people_to_message, topology_to_message
from metro_ros.ros.joint_writer import JointWriter
from metro_ros.ros.markers import color_rgb, delete_marker, joint_markers
from metro_ros.ros.mesh_writer import NAMESPACE as MESH
from metro_ros.ros.mesh_writer import MeshWriter
from metro_ros.ros.params import NodeConfig

JOINT_OF_EXTENT, BONE_OF_EXTENT = 0.027, 0.011
"""Sizes of joints and bones where no one sets them, of the template's extent: 5 and 2 cm for a body of 1.84 m."""
RELIABLE_DEPTH = 10
MESHES_PER_PERSON = 2
"""A new mesh and the removal of an old one, while nothing is sent. Best effort would lose nearly all."""


def reliable(depth: int) -> QoSProfile:
    """Reliable, volatile, the latest `depth` messages."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def overridable() -> QoSOverridingOptions:
    """History, depth and reliability of a topic can be set by parameters, qos_overrides.<topic>.…"""
    return QoSOverridingOptions.with_default_policies()


def publish_topology(node: LifecycleNode, bundle: Bundle) -> Publisher:
    """Publish ~/topology, once, for everyone who comes; it stays as long as the publisher."""
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = node.create_publisher(MeshTopology, "~/topology", latched, qos_overriding_options=overridable())
    publisher.publish(topology_to_message(bundle))
    return publisher


class Outputs:
    """The publishers people, joints and mesh of one camera: in ~/, or in ~/CAMERA/. Not for several threads."""

    def __init__(self, node: LifecycleNode, bundle: Bundle, max_people: int, camera: str = "") -> None:
        """Create the publishers. max_people: in one image, at most."""
        self._node = node
        self._bundle = bundle
        self._shown: set[int] = set()
        self._last_header = Header()
        self._joint_writer: JointWriter | None = None
        self._joints_written_as: tuple[DurationMessage, float, float] | None = None
        self._mesh_writer: MeshWriter | None = None
        self._mesh_written_as: tuple[int, DurationMessage] | None = None

        def create(kind: type, topic: str, depth: int) -> LifecyclePublisher:
            name = f"~/{camera}/{topic}" if camera else f"~/{topic}"
            return node.create_lifecycle_publisher(kind, name, reliable(depth), qos_overriding_options=overridable())

        self._people = create(PersonArray, "people", RELIABLE_DEPTH)
        self._joints = create(MarkerArray, "joints", RELIABLE_DEPTH)
        self._mesh = create(Marker, "mesh", MESHES_PER_PERSON * max_people)

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
            self._publish_joints(people, gone, header, config, lifetime)
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
        for publisher in (self._mesh, self._joints, self._people):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publish_joints(
        self, people: list[Person], gone: set[int], header: Header, config: NodeConfig, lifetime: DurationMessage
    ) -> None:
        style = (
            lifetime,
            config.joint_diameter_m or JOINT_OF_EXTENT * self._bundle.extent_m,
            config.bone_width_m or BONE_OF_EXTENT * self._bundle.extent_m,
        )
        if gone:  # seldom, so objects will do
            self._joints.publish(joint_markers(people, gone, header, self._bundle.skeleton, *style))
            return
        if self._joint_writer is None or self._joints_written_as != style:
            self._joint_writer, self._joints_written_as = JointWriter(self._bundle.skeleton, *style), style
        self._joints.publish(self._joint_writer.write(people, header))

    def _publish_meshes(
        self, people: list[Person], gone: set[int], header: Header, level: int, lifetime: DurationMessage
    ) -> None:
        if not len(self._bundle.faces[level]):
            return  # imported without faces: there is no surface to show
        if self._mesh_writer is None or self._mesh_written_as != (level, lifetime):
            self._mesh_writer = MeshWriter(self._bundle.faces[level], lifetime)
            self._mesh_written_as = (level, lifetime)
        for person_id in gone:
            self._mesh.publish(delete_marker(header, MESH, person_id))
        for person in people:
            vertices = person.vertices[self._bundle.rows[level]]
            self._mesh.publish(self._mesh_writer.write(vertices, header, person.id, color_rgb(person.id)))


def mesh_level(config: NodeConfig, bundle: Bundle) -> int:
    """Index of the level to show. Raises ConfigError when the bundle has none with so many vertices."""
    return bundle.level(config.mesh_level) if config.mesh_level else len(bundle.levels) // 2
