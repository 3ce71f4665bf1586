"""What a frame costs step by step, at several image sizes, and how that grows with the number of people."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from builtin_interfaces.msg import Duration, Time
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from benchmarks.camera import image_message, scaled_frames, scaled_matrix
from benchmarks.turns import take_turns
from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.camera import Camera, solve_translation
from metro_ros.core.crop import crop_image
from metro_ros.core.engines import open_engine
from metro_ros.core.estimator import Estimator, Person, Request, estimate_together
from metro_ros.core.look import decode
from metro_ros.ros.conversions import image_from_message, people_to_message
from metro_ros.ros.joint_writer import JointWriter
from metro_ros.ros.mesh_writer import MeshWriter

PEOPLE = (1, 2, 4, 8, 16)
RED = (1.0, 0.0, 0.0)
ROUNDS = 15
INFER = "infer"


def bench_stages(width: int, height: int) -> dict[str, float]:
    """Median milliseconds of each step from an image message to messages out, for one person; no step is left out."""
    bundle = load_bundle(default_bundle_path())
    camera = Camera(width, height, scaled_matrix(width, height))
    image = scaled_frames(width, height, 8)[0]
    message = image_message(image)
    engine = open_engine(bundle)
    (person,) = _people(Estimator(bundle, engine), image, camera)
    size, anchors = bundle.manifest.crop.size, bundle.rows[len(bundle.levels) // 2]
    crops = crop_image(image, person.box, size)[None]
    output = engine.infer(crops)

    def place() -> None:
        body = decode(output, 0, person.box, camera, bundle, anchors)
        solve_translation(body.anchors, body.anchors_px, camera)

    send = Sender(bundle)
    steps: dict[str, Callable[[], object]] = {
        "decode the image message": lambda: image_from_message(message),
        "crop": lambda: crop_image(image, person.box, size),
        INFER: lambda: engine.infer(crops),
        "place in the camera frame": place,
        "people message, serialised": lambda: send.people([person]),
        "joint markers, bytes": lambda: send.joints([person]),
        "mesh marker, bytes": lambda: send.meshes([person]),
    }
    times = take_turns(steps, ROUNDS)
    engine.close()
    return {name: times.median_ms(name) for name in steps}


def bench_growth() -> dict[str, Any]:
    """Milliseconds of a 640x480 image, from pixels to messages out, by the number of people in it; `ratio` to one.

    Every person is followed by a box of his own, and all share the engine's calls, as they do in the node.
    """
    bundle = load_bundle(default_bundle_path())
    image, camera = scaled_frames(640, 480, 8)[0], Camera(640, 480, scaled_matrix(640, 480))
    engine, ids = open_engine(bundle), itertools.count(1)
    send = Sender(bundle)

    def frame(estimators: list[Estimator]) -> None:
        answers = estimate_together([Request(estimator, image, camera) for estimator in estimators])
        people = [person for answer in answers if not isinstance(answer, Exception) for person in answer]
        if len(people) != len(estimators):
            raise SystemExit(f"bench: {len(people)} of {len(estimators)} people were found")
        send.people(people)
        send.joints(people)
        send.meshes(people)

    crowds = {count: [Estimator(bundle, engine, ids=ids) for _ in range(count)] for count in PEOPLE}
    times = take_turns({str(count): partial(frame, crowd) for count, crowd in crowds.items()}, ROUNDS)
    engine.close()
    return {
        "ms": {count: times.median_ms(str(count)) for count in PEOPLE},
        "ratio": {count: times.ratio(str(count), "1") for count in PEOPLE},
    }


class Sender:
    """Makes what the node publishes, all but the publishing."""

    def __init__(self, bundle: Bundle) -> None:
        level, lifetime = len(bundle.levels) // 2, Duration(sec=1)
        self._bundle = bundle
        self._rows = bundle.rows[level]
        self._header = Header(stamp=Time(sec=1), frame_id="camera")
        self._mesh_writer = MeshWriter(bundle.faces[level], lifetime)
        self._joint_writer = JointWriter(bundle.skeleton, lifetime, 0.05, 0.02)

    def people(self, people: list[Person]) -> bytes:
        """`~/people`."""
        return serialize_message(people_to_message(people, self._header, "bench"))

    def joints(self, people: list[Person]) -> bytes:
        """`~/joints`."""
        return self._joint_writer.write(people, self._header)

    def meshes(self, people: list[Person]) -> list[bytes]:
        """`~/mesh`, a message a person."""
        return [self._mesh_writer.write(one.vertices[self._rows], self._header, one.id, RED) for one in people]


def _people(estimator: Estimator, image: Any, camera: Camera) -> list[Person]:
    people = estimator(image, camera)
    if not people:
        raise SystemExit("bench: the model lost the demo's person")
    return people
