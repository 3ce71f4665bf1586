"""MCAP bags by `rosbags`: message definitions as this ROS 2 has them, and raw messages back as objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.interfaces.typing import Typesdict
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from metro_ros.core.errors import SourceError

FOREVER = QosTime(2147483647, 4294967295)


class Recorded(NamedTuple):
    """One message of a bag. received_ns: of the system clock, when the recorder got it."""

    topic: str
    received_ns: int
    message: Any


def installed_types(message_types: list[str]) -> Typestore:
    """Definitions of types such as ``sensor_msgs/msg/Image`` and all they contain, from the installed .msg files.

    Raises SourceError when a package, or one of its .msg files, is not there.
    """
    store = get_typestore(Stores.EMPTY)
    found: Typesdict = {}
    wanted = list(message_types)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        package, _, short = name.partition("/msg/")
        try:
            text = (Path(get_package_share_directory(package)) / "msg" / f"{short}.msg").read_text(encoding="utf-8")
        except (PackageNotFoundError, OSError) as error:
            raise SourceError(f"no definition of {name}", got=error, remedy=f"install the package {package}") from error
        types = get_types_from_msg(text, name)
        found.update(types)
        wanted += [inner for _, fields in types.values() for _, kind in fields for inner in _type_names(kind)]
    store.register(found)
    return store


def open_bag(path: Path) -> Writer:
    """A new bag in the folder `path`, open. Raises SourceError when it is there already, or cannot be written."""
    try:
        writer = Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP)
        writer.open()
    except Exception as error:  # OSError, or the library's own WriterError
        raise SourceError(f"cannot write the bag {path}", got=error) from error
    return writer


def read_bag(path: Path, topics: tuple[str, ...]) -> Iterator[Recorded]:
    """The messages of some topics in the order of their receipt, by the definitions that the bag itself holds."""
    with AnyReader([path]) as reader:
        connections = [connection for connection in reader.connections if connection.topic in topics]
        if not connections:
            return
        for connection, received_ns, data in reader.messages(connections):
            yield Recorded(connection.topic, received_ns, reader.deserialize(data, connection.msgtype))


def latched_qos(depth: int) -> Qos:
    """Reliable and transient local, for a player to offer the topic as it was."""
    return _qos(depth, QosDurability.TRANSIENT_LOCAL)


def reliable_qos(depth: int) -> Qos:
    """Reliable and volatile."""
    return _qos(depth, QosDurability.VOLATILE)


def _qos(depth: int, durability: QosDurability) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=durability,
        deadline=FOREVER,
        lifespan=FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def _type_names(kind: Any) -> Iterator[str]:
    """The message types inside of a field's description: (Nodetype, what), what being a name, or another pair."""
    if isinstance(kind, str) and "/msg/" in kind:
        yield kind
    elif isinstance(kind, tuple):
        for part in kind:
            yield from _type_names(part)
