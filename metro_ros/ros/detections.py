"""Boxes of people that another node found: from a topic's messages to the detections of an image."""

import importlib
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from metro_msgs.msg import DetectionArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_msgs.msg import Header

from metro_ros.core.detect import Detections
from metro_ros.core.errors import ConfigError
from metro_ros.ros.conversions import stamp_seconds
from metro_ros.ros.outputs import overridable

TYPES = {"vision_msgs": ("vision_msgs.msg", "Detection2DArray"), "metro_msgs": ("metro_msgs.msg", "DetectionArray")}
KEPT = 30
"""Messages of which an image finds its own: of a second at camera rate."""
SCORE_SLACK = 1e-3
"""How far past 0..1 a score may be by rounding."""


def message_type(choice: str) -> type:
    """The type of the topic by the name of its package; `auto`: vision_msgs where it is installed, else metro_msgs.

    Raises ConfigError when the package is not there.
    """
    names = tuple(TYPES) if choice == "auto" else (choice,)
    for name in names:
        module, kind = TYPES[name]
        try:
            return getattr(importlib.import_module(module), kind)
        except ImportError as error:
            reason = error
    raise ConfigError(
        "detections_type",
        expected="a package of messages that is installed",
        got=f"{choice} ({reason})",
        remedy=f"install ros-$ROS_DISTRO-{choice.replace('_', '-')}, or choose another of {', '.join(TYPES)}",
    )


def type_name(kind: type) -> str:
    """As ROS has it: package/msg/Type."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def detections_from_message(message: Any, classes: Sequence[str], min_score: float) -> Detections:
    """Who is in a vision_msgs/Detection2DArray or a metro_msgs/DetectionArray, the likeliest first.

    classes: the class_id's of a person, none for any; the score is that of the best hypothesis among them. A turned box
    counts with the upright one around it. Raises ConfigError when a number is not finite, a size not positive, or a
    score outside of 0..1: of such a message nothing is believed.
    """
    if isinstance(message, DetectionArray):
        sizes, scores = _of_array(message)
    else:
        sizes, scores = _of_hypotheses(message, classes)
    if not np.isfinite(sizes).all():
        raise ConfigError("boxes of detections", expected="finite numbers", got="NaN or infinity")
    if (scores < -SCORE_SLACK).any() or (scores > 1 + SCORE_SLACK).any():
        raise ConfigError("scores of detections", expected="0 to 1", got=f"{scores.min():g} to {scores.max():g}")
    boxes = np.concatenate((sizes[:, :2], sizes[:, :2] + sizes[:, 2:]), axis=1)
    found = Detections(boxes.astype(np.float32), scores.clip(0, 1).astype(np.float32))  # which checks sizes too
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= min_score]
    return Detections(found.boxes[order], found.scores[order])


def _of_array(message: DetectionArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    boxes, scores = np.array(message.boxes, np.float64), np.array(message.scores, np.float64)
    if boxes.size != 4 * scores.size:
        raise ConfigError(
            "detections", expected="four numbers of a box for each score", got=f"{boxes.size} and {scores.size} scores"
        )
    return boxes.reshape(-1, 4), scores


def _of_hypotheses(message: Any, classes: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    sizes, scores = [], []
    for detection in message.detections:
        hypotheses = [result.hypothesis for result in detection.results]
        of_person = [one.score for one in hypotheses if not classes or one.class_id in classes]
        if not of_person:
            continue
        box, turn = detection.bbox, detection.bbox.center.theta
        if min(box.size_x, box.size_y) < 0:  # before the turn hides it
            raise ConfigError("size of a detection", expected="positive", got=f"{box.size_x:g}x{box.size_y:g}")
        across, along = abs(math.cos(turn)), abs(math.sin(turn))
        width, height = across * box.size_x + along * box.size_y, along * box.size_x + across * box.size_y
        sizes.append((box.center.position.x - width / 2, box.center.position.y - height / 2, width, height))
        scores.append(max(of_person))
    return np.array(sizes, np.float64).reshape(-1, 4), np.array(scores, np.float64)


class _Entry(NamedTuple):
    stamp_s: float
    frame_id: str
    detections: Detections


class DetectionsBuffer:
    """The latest detections of one camera. For use by several threads.

    No image waits for its detections: it takes, of those that have come, the ones with the stamp nearest to its own and
    no further from it than the slack, before or after. So a detector that is slower than this node serves the images
    that follow its own, and one that is slower than the slack serves none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque(maxlen=KEPT)

    def put(self, header: Header, detections: Detections) -> None:
        """Keep the detections of the image with this header; the oldest ones make room."""
        with self._lock:
            self._entries.append(_Entry(stamp_seconds(header), header.frame_id, detections))

    def drop_others(self, frame_id: str) -> list[str]:
        """Forget detections that belong to another camera than `frame_id`; their frames, one of each message."""
        with self._lock:
            others = [entry.frame_id for entry in self._entries if entry.frame_id != frame_id]
            if others:
                kept = [entry for entry in self._entries if entry.frame_id == frame_id]
                self._entries = deque(kept, KEPT)
            return others

    def nearest(self, stamp_s: float, slack_s: float) -> Detections | None:
        """Of the image at `stamp_s`: those nearest in time, the latest to come of several; None past the slack."""
        with self._lock:
            near = [entry for entry in self._entries if abs(entry.stamp_s - stamp_s) <= slack_s]
        best = min(reversed(near), key=lambda entry: abs(entry.stamp_s - stamp_s), default=None)
        return None if best is None else best.detections


class DetectionsTopic:
    """A camera's topic of detections: its subscription, and who publishes something else on it."""

    def __init__(self, node: LifecycleNode, name: str, type_choice: str) -> None:
        """Raises ConfigError when messages of this type are not installed."""
        self.name = node.resolve_topic_name(name)
        self.kind = message_type(type_choice)
        self._node = node
        self._strangers: set[tuple[int, ...]] = set()

    def subscribe(self, callback: Callable[[Any], None]) -> Subscription:
        """Listen, to publishers of any reliability."""
        self._node.get_logger().info(f"detections come from {self.name}, {type_name(self.kind)}")
        qos = QoSProfile(depth=KEPT, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self._node.create_subscription(self.kind, self.name, callback, qos, qos_overriding_options=overridable())

    def strangers(self) -> list[ConfigError]:
        """What is wrong with those who publish another type here, which never arrives; each is named once."""
        problems = []
        for info in self._node.get_publishers_info_by_topic(self.name):
            publisher = tuple(info.endpoint_gid)
            if info.topic_type == type_name(self.kind) or publisher in self._strangers:
                continue
            self._strangers.add(publisher)
            problems.append(
                ConfigError(
                    f"type of {self.name}",
                    expected=type_name(self.kind),
                    got=info.topic_type,
                    remedy=f"set detections_type to one of {', '.join(TYPES)}, or remap the topic",
                )
            )
        return problems
