"""What several images ask for goes to the engine together, and comes out as if each had been alone."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from asked_engine import Asked
from tiny_bundle import RED_BGR, make_tiny_bundle, person_image

from metro_ros.core.batching import Steps, View, run_together
from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box, crop_image, whole_image_box
from metro_ros.core.engines import Engine, Output, open_engine
from metro_ros.core.errors import CameraError, ConfigError, EngineError, ImageError
from metro_ros.core.estimator import Estimator, Request, estimate_as_completed, estimate_together
from metro_ros.core.mirror import mirror_bundle

CAMERA = Camera(320, 240, np.array(((250.0, 0, 160), (0, 250, 120), (0, 0, 1))))
SIZE = 64


@pytest.fixture(scope="module")
def tiny_engine(tiny_bundle: Bundle) -> Iterator[Engine]:
    engine = open_engine(tiny_bundle, "onnxruntime", threads=1)
    yield engine
    engine.close()


@pytest.fixture
def engine(tiny_engine: Engine) -> Asked:
    return Asked(tiny_engine)


@pytest.fixture
def new(tiny_bundle: Bundle, engine: Asked):
    """new(): an estimator; they share the engine and their ids."""
    ids = itertools.count(1)
    return lambda: Estimator(tiny_bundle, engine, ids=ids)  # type: ignore[arg-type]


def standing(x: float, height: float = 100) -> np.ndarray:
    return person_image(320, 240, (x, 120), height)


SETTLED = person_image(320, 240, (159.5, 119.5), 320 / 1.25)
"""The whole image is the right crop already: one look."""
RED = standing(160)
RED[110:130, 150:170] = RED_BGR
BLACK = np.zeros((240, 320, 3), np.uint8)


@pytest.mark.parametrize("max_batch", [1, 3, 16])
def test_together_is_as_each_alone(new, engine: Asked, tiny_bundle: Bundle, max_batch: int) -> None:
    """People who are new; then, in the next images, some followed, one gone, one come, one that jumped."""
    first = [standing(80), SETTLED, BLACK, standing(240, 60), standing(160)]
    second = [standing(85), SETTLED, standing(160), BLACK, standing(40)]
    together, alone = [new() for _ in first], [Estimator(tiny_bundle, engine.engine) for _ in first]
    for images in (first, second):
        engine.calls.clear()
        requests = [Request(estimator, image, CAMERA) for estimator, image in zip(together, images, strict=True)]
        answers = estimate_together(requests, max_batch)
        assert max(engine.calls) == min(max_batch, len(images))
        for answer, image, estimator in zip(answers, images, alone, strict=True):
            expected = estimator(image, CAMERA)
            assert isinstance(answer, list) and len(answer) == len(expected)
            for person, other in zip(answer, expected, strict=True):
                np.testing.assert_allclose(person.vertices, other.vertices, atol=1e-5)
                np.testing.assert_allclose(person.joints, other.joints, atol=1e-5)
                assert (person.box.cx, person.box.size) == pytest.approx((other.box.cx, other.box.size), rel=1e-5)


def test_the_looks_of_several_images_share_calls(new, engine: Asked) -> None:
    three = [new() for _ in range(3)]
    estimate_together([Request(estimator, standing(160), CAMERA) for estimator in three])
    searching = len(engine.calls)
    assert set(engine.calls) == {3} and searching <= three[0].config.max_passes
    engine.calls.clear()
    estimate_together([Request(estimator, standing(161), CAMERA) for estimator in three])
    assert engine.calls == [3], "whoever is followed takes one look"


def test_ids_are_given_in_the_order_of_the_images_and_never_twice(new) -> None:
    estimators = [new() for _ in range(3)]
    requests = [Request(e, image) for e, image in zip(estimators, (standing(80), BLACK, SETTLED), strict=True)]
    answers = estimate_together(requests)  # the last is done first
    assert [[person.id for person in people] for people in answers] == [[1], [], [2]]  # type: ignore[union-attr]
    (again,) = estimate_together([Request(estimators[1], standing(80))])
    assert [person.id for person in again] == [3]  # type: ignore[union-attr]


def test_who_is_done_does_not_wait(new, engine: Asked) -> None:
    requests = [Request(new(), standing(80)), Request(new(), SETTLED), Request(new(), BLACK)]
    done = [(index, len(engine.calls)) for index, _ in estimate_as_completed(requests)]
    assert done[0] == (1, 1) and sorted(index for index, _ in done) == [0, 1, 2]
    assert all(calls > 1 for _, calls in done[1:])


@pytest.mark.parametrize("max_batch", [1, 2, 16])
def test_what_fails_fails_alone(new, max_batch: int) -> None:
    requests = [
        Request(new(), standing(80), CAMERA),
        Request(new(), RED, CAMERA),  # its crop makes the network answer NaN
        Request(new(), np.zeros((240, 320), np.uint8), CAMERA),  # type: ignore[arg-type]
        Request(new(), standing(160), Camera.nominal_for(640, 480)),
        Request(new(), standing(160), CAMERA),
    ]
    for _ in range(2):
        first, red, grey, misfit, last = estimate_together(requests, max_batch)
        assert isinstance(first, list) and isinstance(last, list)
        assert first[0].box.cx == pytest.approx(80, abs=2) and last[0].box.cx == pytest.approx(160, abs=2)
        assert isinstance(red, EngineError) and "not finite" in str(red)
        assert isinstance(grey, ImageError) and isinstance(misfit, CameraError)
    assert (first[0].id, last[0].id) == (1, 2), "the others are followed on"


def test_an_engine_that_fails_for_all_is_each_ones_failure(new, engine: Asked) -> None:
    def infer(crops: np.ndarray) -> Output:
        raise EngineError("out of order")

    estimators = [new(), new()]
    engine.infer = infer  # type: ignore[method-assign]
    answers = estimate_together([Request(estimator, standing(160)) for estimator in estimators])
    assert [str(answer) for answer in answers] == ["out of order"] * 2
    del engine.infer
    assert all(isinstance(answer, list) for answer in estimate_together([Request(e, SETTLED) for e in estimators]))


def test_left_and_right_hands_in_one_call(hand_bundle: Bundle) -> None:
    """Views of a mirrored bundle are mirrored, those beside them are not."""
    image = person_image(320, 240, (100, 120), 100, hand=True)
    engine = Asked(open_engine(hand_bundle, "onnxruntime", threads=1))
    bundles = [hand_bundle, mirror_bundle(hand_bundle)]
    answers = estimate_together([Request(Estimator(b, engine), image, CAMERA) for b in bundles])  # type: ignore[arg-type]
    assert set(engine.calls) == {2}
    for bundle, answer in zip(bundles, answers, strict=True):
        (expected,) = Estimator(bundle, engine.engine)(image, CAMERA)
        np.testing.assert_allclose(answer[0].vertices, expected.vertices, atol=1e-5)  # type: ignore[index]


def test_impossible_wishes(new, tiny_bundle: Bundle, tiny_engine: Engine) -> None:
    estimator = new()
    with pytest.raises(ConfigError, match="an estimator each"):
        estimate_together([Request(estimator, BLACK), Request(estimator, BLACK)])
    with pytest.raises(ConfigError, match="one engine"):
        estimate_together([Request(estimator, BLACK), Request(Estimator(tiny_bundle, tiny_engine), BLACK)])
    with pytest.raises(ConfigError, match="max_batch"):
        estimate_together([Request(estimator, BLACK)], max_batch=0)
    assert estimate_together([]) == []


def looking(image: np.ndarray, boxes: Sequence[Box], times: int = 1) -> Steps[list[Output]]:
    answers = []
    for _ in range(times):
        answers.append((yield [View(image, box) for box in boxes]))
    return answers


@pytest.mark.parametrize("confidence", [True, False])
@pytest.mark.parametrize("max_batch", [1, 2, 3, 4, 16])
def test_several_boxes_of_an_image_come_back_in_their_order(tmp_path: Path, max_batch: int, confidence: bool) -> None:
    """Also where the boxes of one image fall into several calls."""
    engine = Asked(open_engine(make_tiny_bundle(tmp_path / "tiny", confidence=confidence), "onnxruntime", threads=1))
    image = standing(160)
    boxes = [[Box(160 + dx, 120, 150.0) for dx in offsets] for offsets in ((0, 20, 40), (-30,), (10, -10))]
    steps = [looking(image, boxes[0]), looking(image, boxes[1], times=2), looking(image, boxes[2])]
    results = dict(run_together(steps, engine, SIZE, max_batch))  # type: ignore[arg-type]
    assert list(results) == [0, 2, 1]
    assert sum(engine.calls) == 7 and max(engine.calls) == min(max_batch, 6)
    for index, of_image in enumerate(boxes):
        expected = engine.engine.infer(np.stack([crop_image(image, box, SIZE) for box in of_image]))
        for output in results[index]:  # type: ignore[union-attr]
            for name, array in expected._asdict().items():
                if array is None:
                    assert getattr(output, name) is None
                else:
                    np.testing.assert_allclose(getattr(output, name), array, atol=1e-6)


def test_a_step_that_breaks_is_its_own_result(engine: Asked) -> None:
    def broken() -> Steps[str]:
        yield [View(BLACK, whole_image_box(320, 240))]
        raise ZeroDivisionError("mine")

    def spared() -> Steps[str]:
        yield [View(BLACK, whole_image_box(320, 240))]
        return "done"

    results = dict(run_together([broken(), spared()], engine, SIZE, 4))  # type: ignore[arg-type]
    assert isinstance(results[0], ZeroDivisionError) and results[1] == "done"
