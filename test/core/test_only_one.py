"""The search for one person without a detector: in parts of the image, all at once or in turn."""

import numpy as np
import pytest
from asked_engine import Asked
from tiny_bundle import make_tiny_bundle, person_image

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.engines import open_engine
from metro_ros.core.estimator import Estimator, EstimatorConfig
from metro_ros.core.only_one import parts_of

CAMERA = Camera(640, 480, np.array(((500.0, 0, 320), (0, 500, 240), (0, 0, 1))))
SMALL = person_image(640, 480, (500, 300), 30)
"""Too small to be seen in the whole image."""
NOBODY = np.zeros((480, 640, 3), np.uint8)


@pytest.fixture(scope="module")
def small_crops(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of crops so small that who is small in them is not seen."""
    return make_tiny_bundle(tmp_path_factory.mktemp("only") / "tiny", size=24, calibrated=True)


@pytest.fixture
def engine(small_crops: Bundle) -> Asked:
    return Asked(open_engine(small_crops, "onnxruntime", threads=1))


CONFIG = EstimatorConfig(min_score=0.6)


def test_who_is_small_is_found_in_a_part_of_the_image(small_crops: Bundle, engine: Asked) -> None:
    (person,) = Estimator(small_crops, engine, CONFIG)(SMALL, CAMERA)  # type: ignore[arg-type]
    assert (person.box.cx, person.box.cy) == pytest.approx((500, 300), abs=4)
    assert engine.calls[0] == 16 and sum(engine.calls[:3]) >= 1 + len(parts_of(640, 480)), "all of it at once"


def test_a_model_that_does_not_know_how_sure_it_is_looks_at_the_whole_image_alone(tmp_path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", size=24)
    engine = Asked(open_engine(bundle, "onnxruntime", threads=1))
    Estimator(bundle, engine, CONFIG)(SMALL, CAMERA)  # type: ignore[arg-type]
    assert set(engine.calls) == {1}


def test_in_a_stream_parts_are_searched_in_turn_until_someone_is_found(small_crops: Bundle, engine: Asked) -> None:
    estimator = Estimator(small_crops, engine, CONFIG)  # type: ignore[arg-type]
    for number in range(3):
        engine.calls.clear()
        assert estimator(NOBODY, CAMERA, number / 30) == []
        assert engine.calls[0] == 6
    found = []
    for number in range(3, 12):
        engine.calls.clear()
        found.append(len(estimator(SMALL, CAMERA, number / 30)))
    assert found[-1] == 1 and sorted(found) == found, "found within a round of all parts, and then followed"
    assert engine.calls == [1]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1920, 1080), (33, 32), (1000, 20)])
def test_parts_cover_the_image_and_overlap_by_half(width: int, height: int) -> None:
    for size in {box.size for box in parts_of(width, height)}:
        boxes = [box for box in parts_of(width, height) if box.size == size]
        for middles, side in (({box.cx for box in boxes}, width), ({box.cy for box in boxes}, height)):
            places = sorted(middles)
            assert places[0] - size / 2 <= -0.5 + 1e-6 and places[-1] + size / 2 >= side - 0.5 - 1e-6
            assert np.diff(places).max(initial=0) <= size / 2 + 1e-6
