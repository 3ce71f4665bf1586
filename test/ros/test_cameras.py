"""Several cameras on one model: each has its own topics, headers, calibration and counts, and none disturbs another."""

import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from conftest import HEIGHT, MATRIX, WIDTH, camera_info, image_message, person
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from metro_msgs.msg import Person
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tiny_bundle import person_image

from metro_ros.core.camera import Camera
from metro_ros.core.engines import open_engine
from metro_ros.core.engines.onnxruntime import OnnxRuntimeEngine
from metro_ros.core.errors import ConfigError
from metro_ros.core.estimator import Estimator
from metro_ros.ros import node as node_module
from metro_ros.ros.params import NodeConfig

PATIENCE_S = 20
FRONT, REAR = person_image(WIDTH, HEIGHT, (60, 60), 60), person_image(WIDTH, HEIGHT, (110, 60), 90)
NOBODY = np.zeros_like(FRONT)


class Lens(NamedTuple):
    """The publishers of one camera."""

    image: Publisher
    info: Publisher


@pytest.fixture
def rig(stage):
    """rig(names): the stage with an active node for these cameras, and the cameras."""

    def open_rig(*names: str, **parameters):
        s = stage(cameras="[" + ", ".join(names) + "]", **parameters)
        assert s.metro.start()
        reliable = QoSProfile(depth=5)
        lenses = [
            Lens(
                s.node.create_publisher(Image, f"{name}/image", reliable),
                s.node.create_publisher(CameraInfo, f"{name}/camera_info", reliable),
            )
            for name in names
        ]
        for lens in lenses:
            for publisher in lens:
                s.wait(lambda publisher=publisher: publisher.get_subscription_count() > 0, publisher.topic_name)
        return s, *lenses

    return open_rig


class Gate:
    """Holds the engine's calls back while it is closed, and counts the crops of each."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.calls: list[int] = []


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    gate, infer = Gate(), OnnxRuntimeEngine.infer

    def gated(engine: OnnxRuntimeEngine, crops: np.ndarray):
        gate.calls.append(len(crops))
        gate.reached.set()
        assert gate.open.wait(PATIENCE_S)
        return infer(engine, crops)

    monkeypatch.setattr(OnnxRuntimeEngine, "infer", gated)
    monkeypatch.setattr(node_module, "best_batch", lambda engine, bundle: 8)
    yield gate
    gate.open.set()


def hold(s, gate: Gate, lens: Lens, message: Image) -> None:
    """Close the gate and send until the worker waits at it."""
    gate.open.clear()
    gate.reached.clear()
    s.send_until(message, gate.reached.is_set, lens.image)


def deliver(s, lens: Lens, message: Image) -> None:
    """Send until the node has it."""
    (feed,) = (feed for feed in s.metro._feeds if lens.image.topic_name == f"/{feed.name}/image")
    before = feed.statistics._counts["frames_received"]
    s.send_until(message, lambda: feed.statistics._counts["frames_received"] > before, lens.image)


def test_each_camera_gets_its_own_answers_under_its_own_header(rig, tiny_bundle):
    s, front, rear = rig("front", "head/rear")
    wide = np.diag((0.5, 0.5, 1.0)) @ MATRIX + np.array(((0, 0, 40), (0, 0, 30), (0, 0, 0)))
    for lens, name, matrix in ((front, "front", MATRIX), (rear, "head/rear", wide)):
        feed = next(feed for feed in s.metro._feeds if feed.name == name)
        s.send_until(camera_info(matrix=matrix), lambda feed=feed: feed._camera is not None, lens.info)
    s.listen("front/people", "head/rear/people", "front/mesh", "head/rear/joints")
    engine = open_engine(tiny_bundle, "onnxruntime", threads=1)
    ids = set()
    for lens, name, pixels, matrix, seconds in (
        (front, "front", FRONT, MATRIX, 7.25),
        (rear, "head/rear", REAR, wide, 3.000000009),
    ):
        image = image_message(pixels, seconds, frame_id=f"{name}_optical")
        message = s.answer(image, f"{name}/people", lens.image)
        (found,) = message.persons
        (expected,) = Estimator(tiny_bundle, engine)(pixels, Camera(WIDTH, HEIGHT, matrix, np.zeros(5), "plumb_bob"))
        assert message.header == image.header
        assert np.allclose(np.reshape(found.vertices, (-1, 3)), expected.vertices, atol=1e-4)
        assert found.translation_source == Person.TRANSLATION_CAMERA
        ids.add(found.id)
    assert ids == {1, 2}, "an id is one person's over all cameras"
    s.answer(image_message(FRONT, 8.0), "front/mesh", front.image)
    s.answer(image_message(REAR, 9.0), "head/rear/joints", rear.image)


def test_the_names_of_several_cameras_come_before_their_topics(rig):
    s, *_ = rig("front", "rear")
    s.listen("topology")
    topics = {publisher.topic_name for publisher in s.metro.publishers}
    expected = {f"/metro/{camera}/{topic}" for camera in ("front", "rear") for topic in ("people", "joints", "mesh")}
    assert {topic for topic in topics if topic.startswith("/metro/")} - {"/metro/transition_event"} == expected | {
        "/metro/topology"
    }
    subscribed = {subscription.topic_name for subscription in s.metro.subscriptions}
    assert {"/front/image", "/front/camera_info", "/rear/image", "/rear/camera_info"} <= subscribed
    assert "/image" not in subscribed
    s.wait(lambda: bool(s.heard["topology"]), "the topology")
    assert len(s.heard["topology"]) == 1


def test_garbage_from_one_camera_costs_the_other_nothing(rig):
    s, front, rear = rig("front", "rear")
    s.listen("front/people", "rear/people", "diagnostics")
    garbage = image_message(FRONT)
    garbage.step = 100
    identities = set()
    for seconds in (1.0, 2.0, 3.0):
        for _ in range(3):
            rear.image.publish(garbage)
        (found,) = s.answer(image_message(FRONT, seconds), "front/people", front.image).persons
        identities.add(found.id)
    assert len(identities) == 1, "the person must be followed all the time"
    s.wait(lambda: int(s.diagnosed("rear").get("errors_ImageError", 0)) >= 1, "the count of the garbage")
    assert "step" in s.diagnosed("rear")["last_error"]
    s.wait(lambda: int(s.diagnosed("front")["frames_done"]) >= 3, "the count of the answers")
    assert "last_error" not in s.diagnosed("front") and s.diagnosed("rear")["frames_done"] == "0"
    assert len(s.answer(image_message(REAR, 4.0), "rear/people", rear.image).persons) == 1


def test_what_waits_goes_to_the_engine_at_once_and_only_the_newest_of_each(rig, gate):
    s, front, rear = rig("front", "rear")
    s.listen("front/people", "rear/people", "diagnostics")
    hold(s, gate, front, image_message(FRONT, 1.0))
    for seconds in (2.0, 3.0, 4.0):
        deliver(s, front, image_message(FRONT, seconds))
    deliver(s, rear, image_message(REAR, 5.0))
    gate.open.set()
    last = [
        s.answer(image_message(FRONT, 4.0), "front/people", front.image),
        s.answer(image_message(REAR, 5.0), "rear/people", rear.image),
    ]
    assert all(len(message.persons) == 1 for message in last)
    warm_up, *calls = gate.calls
    assert warm_up == 8 and max(calls) == 2, "both in one call"
    stamps = [message.header.stamp.sec for message in s.heard["front/people"]]
    assert stamps[-1] == 4 and not {2, 3} & set(stamps)
    s.wait(lambda: int(s.diagnosed("front")["frames_dropped"]) >= 2, "the count of what was dropped")


def test_a_slow_camera_does_not_hold_a_fast_one(rig):
    s, front, rear = rig("front", "rear")
    s.listen("front/people", "rear/people")
    s.answer(image_message(REAR, 1.0), "rear/people", rear.image)
    for seconds in range(2, 12):  # while the rear says nothing more
        s.answer(image_message(FRONT, float(seconds)), "front/people", front.image)
    assert len(s.heard["rear/people"]) == 1


def test_who_is_followed_is_published_before_the_search_in_another_image_ends(rig, gate, monkeypatch):
    s, front, rear = rig("front", "rear")
    s.listen("front/people", "rear/people")
    s.answer(image_message(FRONT, 1.0), "front/people", front.image)
    hold(s, gate, rear, image_message(NOBODY, 2.0))
    deliver(s, rear, image_message(NOBODY, 4.0))
    deliver(s, front, image_message(FRONT, 3.0))
    order: list[str] = []
    publish = node_module.Feed.answer

    def answer(feed, frame, people):
        order.append(feed.name)
        publish(feed, frame, people)

    monkeypatch.setattr(node_module.Feed, "answer", answer)
    gate.open.set()
    s.answer(image_message(NOBODY, 4.0), "rear/people", rear.image)
    assert order[:3] == ["rear", "front", "rear"]


def test_each_camera_complains_for_itself_and_not_at_every_image(rig, capfd):
    s, *lenses = rig("front", "rear")
    s.listen("front/people", "rear/people")
    for seconds in (1.0, 2.0, 3.0):
        for lens, topic in zip(lenses, ("front/people", "rear/people"), strict=True):
            s.answer(image_message(FRONT, seconds), topic, lens.image)
    lines = [line for line in capfd.readouterr().err.splitlines() if "no calibration" in line]
    assert sorted("metro.rear" in line for line in lines) == [False, True]


def test_deactivated_with_frames_under_way(rig, gate):
    s, front, rear = rig("front", "rear")
    s.listen("front/people", "rear/people")
    hold(s, gate, front, image_message(FRONT, 1.0))
    deliver(s, rear, image_message(REAR, 2.0))
    client = s.node.create_client(ChangeState, "/metro/change_state")
    s.wait(client.service_is_ready, "the service")

    def change(transition: int):
        return client.call_async(ChangeState.Request(transition=Transition(id=transition)))

    deactivated = change(Transition.TRANSITION_DEACTIVATE)
    s.wait(lambda: front.image.get_subscription_count() == 0, "the end of the subscription")
    assert not deactivated.done(), "it waits for the frame under way"
    gate.open.set()
    s.wait(deactivated.done, "the deactivation")
    assert deactivated.result().success
    s.wait(lambda: bool(s.heard["front/people"]), "the answer to the frame that was under way")
    assert s.heard["rear/people"] == [], "what only waited is forgotten"
    activated = change(Transition.TRANSITION_ACTIVATE)
    s.wait(activated.done, "the activation")
    for lens, camera, pixels in ((front, "front", FRONT), (rear, "rear", REAR)):
        s.wait(lambda lens=lens: lens.image.get_subscription_count() > 0, "a subscription")
        assert len(s.answer(image_message(pixels, 3.0), f"{camera}/people", lens.image).persons) == 1


def test_one_named_camera_is_a_camera_with_a_name(rig):
    s, front = rig("front")
    s.listen("front/people")
    assert len(s.answer(image_message(person()), "front/people", front.image).persons) == 1


@pytest.mark.parametrize("name", ["", "7up", "front camera", "/front", "front/", "a//b", "~front", "fr-ont", "vörne"])
def test_a_name_that_begins_no_topic_is_refused(name):
    with pytest.raises(ConfigError, match="cameras: expected names of letters") as refusal:
        NodeConfig(cameras=("rear", name))
    assert repr(name) in str(refusal.value)


def test_a_name_that_comes_twice_is_refused():
    with pytest.raises(ConfigError, match="cameras: expected each name once"):
        NodeConfig(cameras=("rear", "front", "rear"))
