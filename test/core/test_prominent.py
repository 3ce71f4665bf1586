"""The bundle's pose detector: boxes lie on their pixels, parts of the image take their turns, and nonsense is named."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tiny_bundle import RED_BGR, make_tiny_bundle
from tiny_finder import add_tiny_finder
from tiny_pose_detector import add_tiny_pose_detector, tiny_pose_detector

from metro_ros.core.bundle import Bundle, add_part
from metro_ros.core.detect import Detections, no_detections
from metro_ros.core.detectors import open_detector
from metro_ros.core.detectors.built_in import ALONE, BuiltIn
from metro_ros.core.errors import BundleError, EngineError, ImageError
from metro_ros.core.prominent import COARSE, FINE, IN_ORDER, IN_TURN, Prominent, ProminentPeople


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tiny = make_tiny_bundle(tmp_path_factory.mktemp("prominent") / "bundle")
    return add_tiny_pose_detector(add_tiny_finder(tiny, score=0.9))


@pytest.fixture(params=["openvino", "onnxruntime"])
def people(request: pytest.FixtureRequest, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> ProminentPeople:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="needs OpenVINO")
    else:
        monkeypatch.setitem(sys.modules, "openvino", None)  # as where it is not installed
    opened = ProminentPeople(bundle, threads=1)
    assert opened.engine == request.param
    return opened


def _image(width: int, height: int, head: tuple[int, int, int, int], value: int = 255) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = head
    image[top:bottom, left:right] = value
    return image


@pytest.mark.parametrize(
    ("width", "height", "head"),
    [
        (64, 64, (10, 12, 20, 24)),
        (640, 480, (100, 120, 200, 200)),
        (640, 480, (500, 300, 600, 460)),  # in the right part, and the body leaves the image
        (240, 480, (52, 80, 92, 200)),
        (32, 24, (4, 6, 10, 12)),
        (1000, 40, (450, 0, 580, 40)),
        (333, 517, (30, 50, 150, 300)),
    ],
)
def test_a_body_is_found_once_below_its_head(
    people: ProminentPeople, width: int, height: int, head: tuple[int, int, int, int]
) -> None:
    found, heads = people.find(_image(width, height, head))
    assert len(found) == len(heads) == 1  # in whatever parts of the image it was seen
    pixel = max(width, height) / 64
    left, top, right, bottom = head
    expected = np.array([left, top, right, 4 * bottom - 3 * top]) - 0.5
    np.testing.assert_allclose(found.boxes[0], expected, atol=2.1 * max(pixel, 1))
    np.testing.assert_allclose(heads[0], [(left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5], atol=1.1 * max(pixel, 1))
    if width == height == 64:
        np.testing.assert_allclose(found.boxes[0], expected, atol=1e-3)


def test_two_people_are_told_apart_in_parts_of_the_image(people: ProminentPeople) -> None:
    image = _image(640, 480, (20, 100, 80, 200)) | _image(640, 480, (560, 100, 620, 200))
    _, heads = people.find(image)
    places = sorted(heads[:, 0].round().tolist())
    np.testing.assert_allclose([places[0], places[-1]], [50, 590], atol=10)


def test_in_a_hurry_parts_take_their_turns(bundle: Bundle) -> None:
    hurried = ProminentPeople(bundle, threads=1, hurried=True)
    image = _image(640, 480, (20, 100, 80, 200))  # in the whole image, in its left part, and at the left edge
    asked = [region for _ in range(len(IN_ORDER) // IN_TURN) for region in hurried._regions()]
    assert sorted(asked) == sorted([*COARSE, *FINE]), "all in one round"
    assert max(np.diff([asked.index(region) for region in COARSE])) <= 6, "the coarse ones spread"
    found = [len(hurried.find(image).heads) for _ in range(2 * len(IN_ORDER) // IN_TURN)]
    assert max(found) == 1 and min(found) == 0 and found[: len(found) // 2].count(1) >= 3


def test_who_is_small_is_found_in_a_small_part(people: ProminentPeople) -> None:
    """Of the whole image, ten pixels are one of the network's, and of a small part less than four."""
    image = _image(640, 480, (300, 30, 305, 35))
    assert not any(len(people._look(image, region)[1]) for region in COARSE)
    heads = people.find(image).heads
    assert len(heads)
    np.testing.assert_allclose(heads, np.broadcast_to((302, 32), heads.shape), atol=5)


def test_half_of_a_head_at_the_edge_of_a_part_is_not_another_head(people: ProminentPeople) -> None:
    image = _image(640, 480, (300, 150, 340, 220))
    boxes, scores, _ = people._look(image, (0.5, 0.0, 1.0, 1.0))  # begins at 320
    assert not len(scores) and not len(boxes)
    assert len(people._look(image, (0.4, 0.0, 0.9, 1.0))[1])
    assert len(people._look(image[:, 320:], (0.0, 0.0, 1.0, 1.0))[1]), "at the edge of the image it may be one"


def test_nobody_is_found_in_the_dark_or_below_the_score(people: ProminentPeople) -> None:
    assert len(people.find(np.zeros((48, 64, 3), np.uint8)).heads) == 0
    assert len(people.find(_image(64, 64, (10, 10, 20, 20), value=120)).heads) == 0


def test_what_is_not_finite_is_refused_and_the_next_call_works(people: ProminentPeople) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[:] = RED_BGR
    with pytest.raises(EngineError, match="not finite"):
        people.find(red)
    assert len(people.find(_image(64, 64, (10, 12, 20, 24))).heads) == 1
    with pytest.raises(ImageError):
        people.find(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({}, "size None"),
        ({"size": 64}, "score None"),
        ({"size": True, "score": 0.5}, "size True"),
        ({"size": 64, "score": 0}, "score 0"),
        ({"size": 64, "score": float("nan")}, "score nan"),
        ({"size": 96, "score": 0.5}, "inputs of"),
    ],
)
def test_details_that_do_not_fit_are_named(tmp_path: Path, details: dict, message: str) -> None:
    model = tiny_pose_detector(64).SerializeToString()
    bundle = add_part(make_tiny_bundle(tmp_path / "b"), "pose_detector", model, details)
    with pytest.raises(BundleError, match=message):
        ProminentPeople(bundle, threads=1)


def test_another_network_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="a part named pose_detector"):
        ProminentPeople(bundle)
    model = tiny_pose_detector(64, heads="noses").SerializeToString()
    with pytest.raises(BundleError, match=r"boxes, scores and heads.*training\.pose_detector"):
        ProminentPeople(add_part(bundle, "pose_detector", model, {"size": 64, "score": 0.5}), threads=1)
    with pytest.raises(EngineError, match="cannot load"):
        ProminentPeople(add_part(bundle, "pose_detector", b"no model", {"size": 64, "score": 0.5}), threads=1)


def test_whom_both_networks_find_is_found_once(bundle: Bundle) -> None:
    detector = open_detector("auto", bundle, threads=1)
    assert isinstance(detector, BuiltIn)
    bright, dim = _image(64, 48, (10, 12, 20, 30)), _image(64, 48, (40, 12, 50, 30), value=200)
    (box,) = detector.detect(bright).boxes
    np.testing.assert_allclose(box, np.array([10, 12, 20, 30]) - 0.5, atol=0.1)  # the finder's, of what is seen
    (whole,) = detector.detect(bright).wholes
    np.testing.assert_allclose(whole, np.array([10, 12, 20, 84]) - 0.5, atol=4)  # the pose detector's, down to the feet
    seen = detector.detect(dim)  # below the finder's score
    assert seen.scores[0] == ALONE < 0.7, "parts of an image mislead"
    assert seen.boxes[0, 3] > 46 and np.isnan(seen.wholes).all()
    detector.close()


def test_of_several_heads_in_a_box_the_likeliest_counts() -> None:
    class Finds(NamedTuple):
        found: object

        def detect(self, image: np.ndarray) -> object:
            return self.found

        find = detect

    boxes = np.array([[10, 10, 30, 40], [10, 12, 30, 42], [12, 10, 28, 38]], np.float32)
    finder = Finds(Detections(boxes[:1], np.array([0.9])))
    prominent = Finds(
        Prominent(Detections(boxes[1:], np.array([0.8, 0.6])), np.array([[20, 15], [20, 18]], np.float32))
    )
    seen = BuiltIn(finder, prominent).detect(_image(64, 48, (10, 10, 30, 40)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(seen.wholes, boxes[1:2])
    assert seen.scores.tolist() == pytest.approx([0.95]), "two networks agree"
    nobody = Finds(Prominent(no_detections(), boxes[:0, :2]))
    seen = BuiltIn(finder, nobody).detect(_image(64, 48, (10, 10, 30, 40)))  # type: ignore[arg-type]
    assert seen.scores.tolist() == pytest.approx([0.9]) and np.isnan(seen.wholes).all()


def test_a_bundle_without_a_pose_detector_has_its_finder_alone(tmp_path: Path) -> None:
    bundle = add_tiny_finder(make_tiny_bundle(tmp_path / "b"))
    assert not isinstance(open_detector("auto", bundle, threads=1), BuiltIn)
