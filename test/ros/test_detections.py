"""Detections of other nodes: messages to boxes, which image they serve, and the node that takes them on real DDS."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import rclpy
from conftest import FRAME_ID, HEIGHT, WIDTH, image_message, stamp
from metro_msgs.msg import DetectionArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from std_msgs.msg import Header, String
from tiny_bundle import person_image

from metro_ros.core.detect import Detections
from metro_ros.core.errors import ConfigError
from metro_ros.ros.detections import DetectionsBuffer, detections_from_message, message_type

HAS_VISION_MSGS = importlib.util.find_spec("vision_msgs") is not None
PERSON = ("person", "0")
VISION_MSGS = {  # since Humble, https://github.com/ros-perception/vision_msgs
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
}


@pytest.fixture(scope="session")
def vision_msgs() -> Any:
    """The types of vision_msgs in rosbags' own type system, which needs no build."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in VISION_MSGS.items():
        store.register(get_types_from_msg(definition, f"vision_msgs/msg/{name}"))
    return store


def of_vision_msgs(store: Any, *found: tuple[tuple[float, ...], dict[str, float]]) -> Any:
    """A Detection2DArray of (centre x, y, width, height, turn) and {class_id: score}, once through CDR."""
    types = {name.rpartition("/")[2]: kind for name, kind in store.types.items()}
    header = types["Header"](types["Time"](1, 0), FRAME_ID)
    pose = types["Pose"](types["Point"](0.0, 0.0, 0.0), types["Quaternion"](0.0, 0.0, 0.0, 1.0))
    with_covariance = types["PoseWithCovariance"](pose, np.zeros(36))
    detections = []
    for (x, y, width, height, turn), scores in found:
        box = types["BoundingBox2D"](types["Pose2D"](types["Point2D"](x, y), turn), width, height)
        results = [
            types["ObjectHypothesisWithPose"](types["ObjectHypothesis"](name, score), with_covariance)
            for name, score in scores.items()
        ]
        detections.append(types["Detection2D"](header, results, box, ""))
    message = types["Detection2DArray"](header, detections)
    kind = "vision_msgs/msg/Detection2DArray"
    return store.deserialize_cdr(store.serialize_cdr(message, kind), kind)


def boxes_message(*boxes: tuple[float, ...], scores: list[float] | None = None, at_s: float = 1.0) -> DetectionArray:
    """left, top, width, height."""
    header = Header(stamp=stamp(at_s), frame_id=FRAME_ID)
    scores = [0.9] * len(boxes) if scores is None else scores
    return DetectionArray(header=header, boxes=[value for box in boxes for value in box], scores=scores)


def test_people_of_vision_msgs(vision_msgs):
    message = of_vision_msgs(
        vision_msgs,
        ((50.0, 60.0, 20.0, 40.0, 0.0), {"dog": 0.99, "person": 0.6, "0": 0.5}),
        ((80.0, 60.0, 20.0, 40.0, np.pi / 2), {"0": 0.8}),
        ((20.0, 20.0, 10.0, 10.0, 0.0), {"dog": 0.9}),
        ((20.0, 20.0, 10.0, 10.0, 0.0), {"person": 0.3}),
        ((20.0, 20.0, 10.0, 10.0, 0.0), {}),
    )
    found = detections_from_message(message, PERSON, 0.4)
    assert np.allclose(found.boxes, [(60, 50, 100, 70), (40, 40, 60, 80)])
    assert np.allclose(found.scores, [0.8, 0.6])
    anyone = detections_from_message(message, (), 0.4)
    assert np.allclose(anyone.scores, [0.99, 0.9, 0.8])


def test_people_of_metro_msgs():
    message = boxes_message((40, 40, 20, 40), (60, 50, 40, 20), (0, 0, 9, 9), scores=[0.6, 0.8, 0.1])
    found = detections_from_message(message, PERSON, 0.4)
    assert np.allclose(found.boxes, [(60, 50, 100, 70), (40, 40, 60, 80)])
    assert np.allclose(found.scores, [0.8, 0.6])
    assert len(detections_from_message(boxes_message(), PERSON, 0.4)) == 0


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("box", [(NAN, 5, 5, 5), (5, 5, INF, 5), (5, 5, -5, 5), (5, 5, -5, 50), (5, 5, 5, 0)])
def test_a_malformed_box_costs_its_message(vision_msgs, box):
    for message in (
        boxes_message((1, 1, 9, 9), box),
        of_vision_msgs(vision_msgs, ((1, 1, 9, 9, 0), {"person": 0.9}), ((*box, 0.3), {"person": 0.9})),
    ):
        if box[3] == 0 and not isinstance(message, DetectionArray):
            continue  # turned, it has an area
        with pytest.raises(ConfigError, match="detection"):
            detections_from_message(message, PERSON, 0.4)


@pytest.mark.parametrize("scores", [[NAN], [1.5], [-0.5], [0.5, 0.5], []])
def test_malformed_scores_cost_their_message(scores):
    with pytest.raises(ConfigError, match="detections"):
        detections_from_message(boxes_message((1, 1, 9, 9), scores=scores), PERSON, 0.4)


def test_an_image_takes_the_detections_nearest_in_time():
    buffer = DetectionsBuffer()
    for at_s in (1.0, 1.1, 1.2):
        header = Header(stamp=stamp(at_s), frame_id=FRAME_ID)
        buffer.put(header, Detections(np.array([[0, 0, at_s, 1]]), np.array([0.9])))

    def taken(stamp_s: float, slack_s: float = 0.25) -> float | None:
        found = buffer.nearest(stamp_s, slack_s)
        return None if found is None else round(float(found.boxes[0, 2]), 3)

    assert [taken(1.1), taken(1.04), taken(1.06), taken(0.9), taken(1.44)] == [1.1, 1.0, 1.1, 1.0, 1.2]
    assert taken(1.5) is None and taken(0.7) is None and taken(1.25, 0.0) is None
    assert taken(1.2, 0.001) == 1.2
    buffer.put(Header(stamp=stamp(1.3), frame_id="other"), Detections(np.array([[0, 0, 1.3, 1]]), np.array([0.9])))
    assert buffer.drop_others(FRAME_ID) == ["other"] and buffer.drop_others(FRAME_ID) == []
    assert taken(1.3) == 1.2


def test_the_type_of_the_topic():
    assert message_type("metro_msgs") is DetectionArray
    if not HAS_VISION_MSGS:
        assert message_type("auto") is DetectionArray
        with pytest.raises(ConfigError, match=r"installed, got vision_msgs .* Install ros-"):
            message_type("vision_msgs")


def two_people() -> np.ndarray:
    """The tiny network alone would see one person between the two."""
    return np.maximum(person_image(WIDTH, HEIGHT, (40, 60), 60), person_image(WIDTH, HEIGHT, (120, 60), 60))


RIGHT = (108.0, 30.0, 24.0, 60.0)


def publisher_of(s: Any, kind: type, topic: str = "detections") -> Any:
    publisher = s.node.create_publisher(kind, topic, 5)
    s.wait(lambda: publisher.get_subscription_count() > 0, "a subscriber of the detections")
    return publisher


def deliver(s: Any, message: Any, publisher: Any, name: str = "detections_received") -> None:
    (feed,) = s.metro._feeds
    before = feed.statistics._counts[name]
    s.send_until(message, lambda: feed.statistics._counts[name] > before, publisher)


@pytest.mark.parametrize(
    "kind",
    [
        "metro_msgs",
        pytest.param("vision_msgs", marks=pytest.mark.skipif(not HAS_VISION_MSGS, reason="vision_msgs has no wheel")),
    ],
)
def test_the_node_finds_whom_another_node_detected(stage, kind):
    s = stage(detector="topic", detections_type=kind)
    s.start()
    s.listen("people", "diagnostics")
    publisher = publisher_of(s, message_type(kind))
    assert s.answer(image_message(two_people(), 1.0)).persons == [], "no one has been detected yet"
    s.wait(lambda: s.diagnosed().get("frames_without_detections") is not None, "the count of it")
    for malformed in ((1.0, 1.0, -5.0, 5.0), (float("nan"), 1.0, 5.0, 5.0)):
        deliver(s, detections_message(kind, malformed, 2.0), publisher)
    other_frame = detections_message(kind, RIGHT, 2.0)
    other_frame.header.frame_id = "another_camera"
    deliver(s, other_frame, publisher)
    assert s.answer(image_message(two_people(), 2.0)).persons == []
    s.wait(lambda: int(s.diagnosed().get("errors_ConfigError", 0)) >= 3, "the counts of what was malformed")
    assert "another_camera" in s.diagnosed()["last_error"]
    deliver(s, detections_message(kind, RIGHT, 3.0), publisher)
    (found,) = s.answer(image_message(two_people(), 3.1)).persons
    assert abs(found.box_x + found.box_width / 2 - 120) < 3
    (followed,) = s.answer(image_message(two_people(), 9.0)).persons
    assert followed.id == found.id, "whom it follows, it follows without detections"


def detections_message(kind: str, box: tuple[float, ...], at_s: float) -> Any:
    if kind == "metro_msgs":
        return boxes_message(box, at_s=at_s)
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    detection, result = Detection2D(), ObjectHypothesisWithPose()
    result.hypothesis.class_id, result.hypothesis.score = "person", 0.9
    detection.results = [result]
    detection.bbox.size_x, detection.bbox.size_y = box[2:]
    detection.bbox.center.position.x, detection.bbox.center.position.y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return Detection2DArray(header=Header(stamp=stamp(at_s), frame_id=FRAME_ID), detections=[detection])


def test_a_publisher_of_another_type_is_named_once(stage):
    s = stage(detector="topic", detections_type="metro_msgs", cameras="[front]")
    assert s.metro.start()
    s.listen("diagnostics")
    context = rclpy.Context()  # one participant cannot have two types of a topic
    rclpy.init(context=context, domain_id=s.node.context.get_domain_id())
    stranger = rclpy.create_node("stranger", context=context)
    try:
        stranger.create_publisher(String, "front/detections", 5)
        s.wait(lambda: "errors_ConfigError" in s.diagnosed("front"), "the complaint")
        said = s.diagnosed("front")["last_error"]
        assert "/front/detections" in said and "got std_msgs/msg/String" in said
        reports = len(s.heard["diagnostics"])
        s.wait(lambda: len(s.heard["diagnostics"]) > reports + 2, "further reports")
        assert s.diagnosed("front")["errors_ConfigError"] == "1"
    finally:
        stranger.destroy_node()
        rclpy.shutdown(context=context)


def test_detectors_that_cannot_be_opened_fail_the_configuration(stage, tmp_path):
    s = stage(detector=str(tmp_path / "none.onnx"))
    assert s.metro.trigger_configure() == TransitionCallbackReturn.FAILURE
    (tmp_path / "none.onnx").write_bytes(b"none")
    assert s.metro.trigger_configure() == TransitionCallbackReturn.FAILURE
    (result,) = s.metro.set_parameters([Parameter("detector", value="none")])
    assert result.successful
    s.start()
    (result,) = s.metro.set_parameters([Parameter("detection.min_score", value=0.5)])
    assert not result.successful and "clean up first" in result.reason
    (result,) = s.metro.set_parameters([Parameter("detections_classes", value=["human"])])
    assert result.successful and s.metro.config.detections_classes == ("human",)
