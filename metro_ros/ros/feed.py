"""One camera of the node: its topics, its calibration, whom it shows, and what is counted of it."""

import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from metro_ros.core.camera import NOMINAL_FOV_DEG, Camera
from metro_ros.core.detect import Detections, no_detections
from metro_ros.core.errors import CameraError, ConfigError, MetroError
from metro_ros.core.estimator import Estimator, Person, Request
from metro_ros.ros.conversions import camera_from_message, image_from_message, stamp_seconds
from metro_ros.ros.detections import DetectionsBuffer, DetectionsTopic, detections_from_message
from metro_ros.ros.diagnostics import Statistics
from metro_ros.ros.outputs import Outputs, overridable
from metro_ros.ros.params import NodeConfig

LOG_PERIOD_S = 5.0
"""A complaint about the stream is repeated no more often; diagnostics count them all."""


class Frame(NamedTuple):
    """An image message and when it came, seconds of the monotonic clock."""

    message: Image | CompressedImage
    arrived_s: float


class Feed:
    """A camera's way through the node. The subscriptions run in the executor, `request` and `answer` in the worker."""

    def __init__(
        self, node: LifecycleNode, name: str, estimator: Estimator, config: NodeConfig, min_detection_score: float
    ) -> None:
        """Create the publishers. name: of the camera, before each of its topics; empty for the only one.

        min_detection_score: of who comes by the topic of detections. Raises ConfigError when its messages are not
        installed.
        """
        self.name = name
        self.estimator = estimator
        self.config = config
        self.statistics = Statistics()
        self.outputs = Outputs(node, estimator.bundle, name)
        self._prefix = f"{name}/" if name else ""
        self._detections_topic = None
        if config.detector == "topic":
            self._detections_topic = DetectionsTopic(node, f"{self._prefix}detections", config.detections_type)
        self._detections = DetectionsBuffer()
        self._min_detection_score = min_detection_score
        self._node = node
        self._log = node.get_logger().get_child(name) if name else node.get_logger()
        self._camera: Camera | None = None
        self._camera_key: tuple | None = None
        self._last_stamp_s = -math.inf
        self._complained_s: dict[str, float] = {}

    def subscribe(self, put: Callable[["Feed", Frame], bool]) -> list[Subscription]:
        """Subscribe to all inputs, the image last. put: hands a frame to the worker, see `Worker.put`."""

        def on_image(message: Image | CompressedImage) -> None:
            self.statistics.add("frames_received")
            if not self.outputs.watched():
                self.statistics.add("frames_unwatched")
            elif put(self, Frame(message, time.monotonic())):
                self.statistics.add("frames_dropped")

        topic, kind = f"{self._prefix}image", Image
        if self.config.transport == "compressed":  # beside the image topic wherever that was remapped to
            topic, kind = self._node.resolve_topic_name(topic) + "/compressed", CompressedImage
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        detections = [] if self._detections_topic is None else [self._detections_topic.subscribe(self._on_detections)]
        return detections + [
            self._node.create_subscription(kind, name, callback, qos, qos_overriding_options=overridable())
            for kind, name, callback in (
                (CameraInfo, f"{self._prefix}camera_info", self._on_camera_info),
                (kind, topic, on_image),
            )
        ]

    def request(self, frame: Frame) -> Request:
        """What to ask the estimator about a frame. Raises MetroError when the message is no good."""
        header = frame.message.header
        image = image_from_message(frame.message)
        stamp_s = stamp_seconds(header)
        if stamp_s < self._last_stamp_s:
            self.statistics.add("clock_jumps_back")
            if self._due("clock"):
                self._log.warning(f"the image clock went back by {self._last_stamp_s - stamp_s:.3f} s: starting over")
        self._last_stamp_s = stamp_s
        return Request(self.estimator, image, self._camera_for(image), stamp_s, self._detections_for(header))

    def answer(self, frame: Frame, people: list[Person]) -> None:
        """Publish who is in a frame."""
        self.outputs.publish(people, frame.message.header, self.config)
        self.statistics.add("frames_done")
        self.statistics.add_latency((time.monotonic() - frame.arrived_s) * 1e3)

    def watch_publishers(self) -> None:
        """Name those whose detections cannot arrive."""
        if self._detections_topic is not None:
            for problem in self._detections_topic.strangers():
                self.failed(problem)

    @contextmanager
    def spared(self) -> Iterator[None]:
        """A block in which whatever goes wrong costs one message of this camera, and is counted and named."""
        try:
            yield
        except Exception as error:
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Count and name what went wrong with a message; the stream goes on."""
        if not self._node.context.ok():  # nothing can be published while the process ends
            return
        self.statistics.add_error(error)
        if isinstance(error, MetroError):
            if self._due("refused"):
                self._log.warning(f"message refused: {error}")
        elif self._due("lost"):
            self._log.error("frame lost, please report: " + "".join(traceback.format_exception(error)))

    def _on_camera_info(self, info: CameraInfo) -> None:
        numbers = (*info.k, *info.p, *info.d, info.width, info.height, info.binning_x, info.binning_y)
        roi = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
        key = (info.distortion_model, numbers, roi, self.config.rectified)
        if key == self._camera_key:
            return
        self._camera_key = key
        try:
            self._camera = camera_from_message(info, self.config.rectified)
        except CameraError as error:
            self._camera = None
            self.failed(error)

    def _camera_for(self, image: npt.NDArray[np.uint8]) -> Camera | None:
        """The calibration, if it is for this image; else None, and distances are a guess that the messages name so."""
        camera, size = self._camera, image.shape[1::-1]
        if camera is None:
            problem = "no calibration in camera_info"
        elif (camera.width, camera.height) != size:
            problem = f"camera_info is for {camera.width}x{camera.height}, the image has {size[0]}x{size[1]}"
        else:
            return camera
        self.statistics.add("frames_uncalibrated")
        if self._due("uncalibrated"):
            self._log.warning(f"{problem}: assuming {NOMINAL_FOV_DEG:.0f} degrees of view, distances are a guess")
        return None

    def _on_detections(self, message: Any) -> None:
        self.statistics.add("detections_received")
        try:
            found = detections_from_message(message, self.config.detections_classes, self._min_detection_score)
        except ConfigError as error:
            self.failed(error)
        else:
            self._detections.put(message.header, found)

    def _detections_for(self, header: Header) -> Detections | None:
        """Who another node found in this image; no one new if nothing came for it, and None if it is not asked."""
        if self._detections_topic is None:
            return None
        for frame_id in self._detections.drop_others(header.frame_id):
            self.failed(
                ConfigError(
                    "frame_id of detections",
                    expected=f"the image's, {header.frame_id!r}",
                    got=repr(frame_id),
                    remedy="publish detections under the header of their image",
                )
            )
        found = self._detections.nearest(stamp_seconds(header), self.config.detections_slack_s)
        if found is None:
            self.statistics.add("frames_without_detections")
        return found if found is not None else no_detections()

    def _due(self, complaint: str) -> bool:
        """Whether it is time to make such a complaint again; rclpy's own throttle takes 0.1 ms to say no."""
        now_s = time.monotonic()
        if now_s < self._complained_s.get(complaint, -math.inf) + LOG_PERIOD_S:
            return False
        self._complained_s[complaint] = now_s
        return True
