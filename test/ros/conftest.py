"""A stage for the real node on real DDS: each test has a domain of its own and waits for facts, with a deadline."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from metro_msgs.msg import MeshTopology, PersonArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tiny_bundle import person_image
from visualization_msgs.msg import Marker, MarkerArray

from metro_ros.core.bundle import Bundle
from metro_ros.ros.node import MetroNode

DEADLINE_S = 20.0
RESEND_S = 0.5
"""An image goes best effort and may be lost, so it is sent again, with the same stamp."""
WIDTH, HEIGHT = 160, 120
FRAME_ID = "camera_optical_frame"
MATRIX = np.array(((150.0, 0, 80), (0, 150, 60), (0, 0, 1)))
TOPICS: dict[str, tuple[type, QoSProfile]] = {
    "people": (PersonArray, QoSProfile(depth=50)),
    "joints": (MarkerArray, QoSProfile(depth=50)),
    "mesh": (Marker, QoSProfile(depth=50)),
    "topology": (MeshTopology, QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)),
    "diagnostics": (DiagnosticArray, QoSProfile(depth=50)),
}

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
_domains = itertools.count(os.getpid())


def fresh_domain() -> int:
    """A domain id that no other test of this run uses; 0 to 101 are safe on every platform."""
    return 1 + next(_domains) % 101


def image_message(pixels: np.ndarray, stamp_s: float = 1.0, frame_id: str = FRAME_ID, encoding: str = "bgr8") -> Image:
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding=encoding, step=pixels.nbytes // height)
    message.header = Header(stamp=stamp(stamp_s), frame_id=frame_id)
    message.data = pixels.tobytes()
    return message


def camera_info(width: int = WIDTH, height: int = HEIGHT, matrix: np.ndarray = MATRIX) -> CameraInfo:
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5, k=matrix.ravel())
    info.header.frame_id = FRAME_ID
    return info


def stamp(seconds: float) -> Time:
    return Time(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))


def person(height_px: float = 80, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return person_image(width, height, (width / 2, height / 2), height_px)


class Audience:
    """A camera and whoever listens, beside a node that may run in this process or in another one."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("audience")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.image = self.node.create_publisher(Image, "image", best_effort)
        self.camera_info = self.node.create_publisher(CameraInfo, "camera_info", best_effort)
        self.heard: dict[str, list[Any]] = {}

    def close(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown()

    def listen(self, *topics: str) -> None:
        """Subscribe; of one of several cameras as CAMERA/TOPIC."""
        for topic in topics:
            kind, qos = TOPICS[topic.rpartition("/")[2]]
            self.heard[topic] = []
            self.node.create_subscription(kind, full_name(topic), self.heard[topic].append, qos)

    def wait_for_inputs(self) -> None:
        """Until the camera's topics have found their subscriber."""
        self.wait(lambda: self.image.get_subscription_count() > 0, "a subscriber of the image")
        self.wait(lambda: self.camera_info.get_subscription_count() > 0, "a subscriber of camera_info")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Spin until `condition`, or fail naming `what` was waited for."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
            self._executor.spin_once(timeout_sec=0.02)

    def send_until(self, message: Any, condition: Callable[[], bool], publisher: Any = None) -> None:
        """Publish, by default as the image, until `condition`."""
        next_s = 0.0

        def sent_and_met() -> bool:
            nonlocal next_s
            if condition():
                return True
            if time.monotonic() >= next_s:
                (publisher or self.image).publish(message)
                next_s = time.monotonic() + RESEND_S
            return False

        self.wait(sent_and_met, f"an effect of a {type(message).__name__}")

    def answer(self, message: Any, topic: str = "people", publisher: Any = None) -> Any:
        """What the node publishes on `topic` under the stamp of this image."""

        def answers() -> list[Any]:
            return [heard for heard in self.heard[topic] if header_of(heard).stamp == message.header.stamp]

        self.send_until(message, lambda: bool(answers()), publisher)
        return answers()[0]

    def diagnosed(self, camera: str = "people") -> dict[str, str]:
        """The latest values on /diagnostics, by default of the only camera."""
        for report in self.heard["diagnostics"][-1:]:
            for status in report.status:
                if status.name.endswith(f"/metro: {camera}"):
                    return {entry.key: entry.value for entry in status.values}
        return {}


class Stage(Audience):
    """An audience, and the node under test in a thread of its own."""

    def __init__(self, parameters: dict[str, Any], arguments: tuple[str, ...] = ()) -> None:
        settings = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        rclpy.init(args=["--ros-args", *settings, *arguments], domain_id=fresh_domain())
        self.metro = MetroNode()
        super().__init__()
        self._metro_executor = SingleThreadedExecutor()
        self._metro_executor.add_node(self.metro)
        self._thread = Thread(target=self._metro_executor.spin)
        self._thread.start()

    def close(self) -> None:
        self._metro_executor.shutdown()
        self._thread.join()
        self.metro.stop()
        self.metro.destroy_node()
        super().close()

    def listen(self, *topics: str) -> None:
        """Subscribe, and wait until the node's publishers know of it."""
        super().listen(*topics)
        for topic in topics:
            self.wait(lambda topic=topic: self._matched(full_name(topic)), f"a match on {topic}")

    def _matched(self, name: str) -> bool:
        publishers = [publisher for publisher in self.metro.publishers if publisher.topic_name == name]
        return any(publisher.get_subscription_count() for publisher in publishers)

    def start(self, calibrated: bool = True) -> None:
        """Configure, activate, and wait until the camera's topics have found their subscriber."""
        assert self.metro.start()
        self.wait_for_inputs()
        if calibrated:
            self.calibrate(camera_info())

    def calibrate(self, info: CameraInfo) -> None:
        """Send the calibration until the node has taken it, which only the node itself can tell."""
        (feed,) = self.metro._feeds
        before = feed._camera_key
        self.send_until(info, lambda: feed._camera_key != before, self.camera_info)


def full_name(topic: str) -> str:
    return "/diagnostics" if topic == "diagnostics" else f"/metro/{topic}"


def header_of(message: Any) -> Header:
    if isinstance(message, MarkerArray):
        return message.markers[0].header if message.markers else Header()
    return message.header


@pytest.fixture
def stage(tiny_bundle: Bundle) -> Iterator[Callable[..., Stage]]:
    """Opens the stage: stage(parameter=value, ...), on the tiny model unless told otherwise."""
    opened: list[Stage] = []

    def open_stage(arguments: tuple[str, ...] = (), **parameters: Any) -> Stage:
        defaults = {"bundle": tiny_bundle.path, "engine": "onnxruntime", "threads": 1, "diagnostics_period_s": 0.1}
        opened.append(Stage({**defaults, **parameters}, arguments))
        return opened[0]

    yield open_stage
    for each in opened:
        each.close()


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]
