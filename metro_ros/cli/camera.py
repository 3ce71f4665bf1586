"""`metro-ros camera`: images from a file or a webcam as a ROS 2 camera, image and calibration at a steady rate."""

import argparse
import array
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from metro_ros.cli.sources import Frame, Source, open_source
from metro_ros.core.camera import Camera
from metro_ros.core.errors import CameraError, ConfigError

DEPTH = 10
"""Images kept for a slow reliable subscriber: a third of a second."""
DISTORTION_LENGTH = {"none": 5, "plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
FAREWELL_S = 5.0
"""How long the end waits for reliable subscribers to take the last images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `metro-ros camera`."""
    parser.add_argument("source", help="video file, folder of images, image, /dev/videoN, or labelled clip")
    parser.add_argument("--rate", type=float, metavar="HZ", help="images a second (default: the source's own)")
    parser.add_argument("--calibration", type=Path, metavar="YAML", help="by ROS's camera_calibration")
    parser.add_argument("--loop", action="store_true", help="start over at the end")
    parser.add_argument("--topic", default="image", help="of the image; camera_info lies beside it (%(default)s)")
    parser.add_argument("--frame-id", default="camera", help="optical frame in the headers (%(default)s)")
    parser.add_argument(
        "--wait-for-subscribers", type=int, default=0, metavar="N", help="of each topic, before the first image"
    )


def run(arguments: argparse.Namespace) -> int:
    """Publish until the source ends, or until interrupted where it has no end."""
    if arguments.rate is not None and not 0.01 <= arguments.rate <= 1000:
        raise ConfigError("--rate", expected="0.01 to 1000 images a second", got=arguments.rate)
    if not arguments.frame_id:
        raise ConfigError("--frame-id", expected="the name of the camera's optical frame", got="an empty string")
    source = open_source(arguments.source)
    camera = Camera.from_calibration(arguments.calibration) if arguments.calibration else source.camera
    endless = arguments.loop or source.kind == "device"
    rclpy.init()
    published = 0
    try:
        node = CameraNode(arguments.topic, arguments.frame_id, camera)
        node.wait_for_subscribers(arguments.wait_for_subscribers)
        for frame in paced(source, arguments.rate or source.fps, endless):
            node.publish(frame)
            if published == 0 and arguments.wait_for_subscribers:
                node.wait_until_taken()  # discovery is not symmetric: who is seen here may not see us yet
            published += 1
        node.wait_until_taken()
    except (KeyboardInterrupt, ExternalShutdownException):
        if not endless:
            raise KeyboardInterrupt from None
    finally:
        with contextlib.suppress(RCLError):  # the interrupt's own handler may be at it
            rclpy.try_shutdown()
        print(f"{published} images published")
    return 0


class CameraNode(Node):
    """Publishes images and their calibration, reliably, so that best-effort and reliable subscribers both match."""

    def __init__(self, topic: str, frame_id: str, camera: Camera | None) -> None:
        super().__init__("metro_camera")
        qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        self._image = self.create_publisher(Image, topic, qos)
        # image_transport's convention: camera_info beside the image.
        beside = topic.rpartition("/")[0]
        self._info = self.create_publisher(CameraInfo, f"{beside}/camera_info" if "/" in topic else "camera_info", qos)
        self._frame_id = frame_id
        self._camera = camera
        self._message = Image(encoding="bgr8")

    def wait_for_subscribers(self, count: int) -> None:
        """Until both topics have `count` subscribers. Raises ExternalShutdownException when the process is to end."""
        while min(self._image.get_subscription_count(), self._info.get_subscription_count()) < count:
            rclpy.spin_once(self, timeout_sec=0.02)

    def publish(self, frame: Frame) -> None:
        """Send one image, stamped now, and its calibration just before it under the same header."""
        height, width = frame.image.shape[:2]
        if self._camera is not None and (self._camera.width, self._camera.height) != (width, height):
            raise CameraError(
                f"the calibration does not belong to {frame.name}",
                expected=f"{width}x{height}",
                got=f"{self._camera.width}x{self._camera.height}",
                remedy="calibrate at this resolution, or leave --calibration out",
            )
        message = self._message
        message.height, message.width, message.step = height, width, 3 * width
        data = array.array("B")  # rclpy copies an array as one block, but a list or bytes number by number
        data.frombytes(np.ascontiguousarray(frame.image).data.cast("B"))
        message.data = data
        message.header.frame_id = self._frame_id
        message.header.stamp = self.get_clock().now().to_msg()
        info = camera_info(self._camera, width, height)
        info.header = message.header
        self._info.publish(info)
        self._image.publish(message)

    def wait_until_taken(self) -> None:
        """Give reliable subscribers the time to fetch what was published."""
        for publisher in (self._info, self._image):
            publisher.wait_for_all_acked(Duration(seconds=FAREWELL_S))


def paced(source: Source, rate: float, endless: bool) -> Iterator[Frame]:
    """The frames of a source, each when its turn has come; a device sets its own pace.

    The schedule has no drift. When frames come late it moves on, rather than catch up in a burst.
    """
    due_s = None
    while True:
        for frame in source.frames():
            if source.kind != "device":
                now_s = time.monotonic()
                if due_s is None or now_s > due_s + 1 / rate:
                    due_s = now_s
                time.sleep(max(0.0, due_s - now_s))
                due_s += 1 / rate
            if not rclpy.ok():
                raise ExternalShutdownException
            yield frame
        if not endless:
            return


def camera_info(camera: Camera | None, width: int, height: int) -> CameraInfo:
    """The calibration as a message without header; all zero, as ROS has it, where there is none."""
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
    if camera is None:
        return info
    matrix = camera.matrix
    if camera.model != "none":
        info.distortion_model = camera.model
    distortion = np.zeros(DISTORTION_LENGTH[camera.model])
    distortion[: len(camera.distortion)] = camera.distortion
    info.d = distortion.tolist()
    info.k = matrix.ravel()
    info.r = np.eye(3).ravel()
    info.p = np.hstack((matrix, np.zeros((3, 1)))).ravel()
    return info
