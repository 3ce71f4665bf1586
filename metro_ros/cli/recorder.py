"""Records topics into an MCAP bag without slowing down who publishes: raw bytes, a queue, one writing thread."""

import queue
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from metro_ros.cli.bags import installed_types, latched_qos, open_bag, reliable_qos
from metro_ros.core.errors import SourceError

DEPTH = 200
"""Messages kept by the middleware while this process is busy: more than a second of the fastest topic."""
STAMP = struct.Struct("<iI")
STAMP_OFFSET = 4  # behind the encapsulation, in every message that starts with a header


class Topic(NamedTuple):
    """What to record: the message class, and whether it is published once for everyone who comes."""

    message_type: Any
    latched: bool = False


class Recorder:
    """Subscribes to topics of any publisher and writes what comes, with the time of receipt, until it is closed."""

    def __init__(self, node: Node, path: Path, topics: Mapping[str, Topic]) -> None:
        """Open the bag at `path` and subscribe. Raises SourceError when the bag cannot be written."""
        self.counts: Counter[str] = Counter()
        self.last_stamp: dict[str, tuple[int, int]] = {}
        self._queue: queue.SimpleQueue[tuple[Any, int, bytes] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        names = {topic: _ros_name(entry.message_type) for topic, entry in topics.items()}
        store = installed_types(list(names.values()))
        self._path = path
        self._writer = open_bag(path)
        self._thread = threading.Thread(target=self._write, name="bag-writer")
        for topic, entry in topics.items():
            offered = latched_qos(1) if entry.latched else reliable_qos(10)
            connection = self._writer.add_connection(
                topic, names[topic], typestore=store, offered_qos_profiles=[offered]
            )
            durability = DurabilityPolicy.TRANSIENT_LOCAL if entry.latched else DurabilityPolicy.VOLATILE
            qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
            node.create_subscription(entry.message_type, topic, self._taker(topic, connection), qos, raw=True)
        self._thread.start()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and finish the bag. Raises SourceError when something could not be written."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        if self._writer.storage is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._error = self._error or error
        if self._error is not None:
            raise SourceError(f"the bag {self._path} is not whole", got=self._error, remedy="is the disk full?")

    def _taker(self, topic: str, connection: Any) -> Any:
        def take(data: bytes) -> None:
            self._queue.put((connection, time.time_ns(), data))
            self.counts[topic] += 1
            self.last_stamp[topic] = STAMP.unpack_from(data, STAMP_OFFSET)

        return take

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._writer.write(*item)
                except Exception as error:  # told at the end; until then the queue must not fill the memory
                    self._error = error


def _ros_name(message_type: Any) -> str:
    package = message_type.__module__.partition(".")[0]
    return f"{package}/msg/{message_type.__name__}"
