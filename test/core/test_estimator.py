from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import RADII_M, RED_BGR, make_tiny_bundle, person_image

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box
from metro_ros.core.draw import silhouette
from metro_ros.core.engines import Engine, open_engine
from metro_ros.core.errors import CameraError, ConfigError, EngineError, ImageError
from metro_ros.core.estimator import Estimator, EstimatorConfig, Person
from metro_ros.core.look import decode
from metro_ros.core.metrics import silhouette_iou

CAMERA = Camera(640, 480, np.array(((500.0, 0, 320), (0, 500, 240), (0, 0, 1))))
BLACK = np.zeros((480, 640, 3), np.uint8)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return open_engine(tiny_bundle, "onnxruntime", threads=1)


class Counting:
    """An engine that counts how often it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.calls = engine, 0

    def infer(self, crops: np.ndarray):
        self.calls += 1
        return self.engine.infer(crops)


@pytest.fixture
def counting(engine: Engine) -> Counting:
    return Counting(engine)


@pytest.fixture
def estimator(tiny_bundle: Bundle, counting: Counting) -> Estimator:
    return Estimator(tiny_bundle, counting)  # type: ignore[arg-type]


def iou(person: Person, bundle: Bundle, image: np.ndarray, camera: Camera = CAMERA) -> float:
    return silhouette_iou(silhouette(person.vertices, bundle.faces[-1], camera), image[..., 0] > 127)


@pytest.mark.parametrize("center", [(320, 240), (90, 200), (560, 330)])
@pytest.mark.parametrize("frame", ["crop_ray", "camera"])
def test_the_mesh_lies_on_the_person_wherever_it_is(
    tmp_path: Path, center: tuple[float, float], frame: str, tiny_bundle: Bundle
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", camera_frame=frame)  # type: ignore[arg-type]
    image = person_image(640, 480, center, 200)
    (person,) = Estimator(bundle, open_engine(bundle, "onnxruntime", threads=1))(image, CAMERA)
    assert iou(person, bundle, image) > 0.9
    assert np.hypot(person.box.cx - center[0], person.box.cy - center[1]) < 4
    assert person.box.size == pytest.approx(1.25 * 200, rel=0.03)


def test_a_person_is_found_in_metres(estimator: Estimator, tiny_bundle: Bundle) -> None:
    (person,) = estimator(person_image(640, 480, (420, 190), 150), CAMERA)
    depth = 500 * 2 * RADII_M[1] / 150
    middle = person.vertices.mean(axis=0)
    np.testing.assert_allclose(middle, (100 * depth / 500, -50 * depth / 500, depth), atol=0.03 * depth)
    np.testing.assert_allclose(tiny_bundle.skeleton.root(person.joints), person.translation, atol=1e-5)
    assert person.translation_source == "camera"
    assert person.score == pytest.approx(1, abs=0.01)
    assert person.joint_confidence is not None and person.joint_confidence.shape == (17,)
    for name, shape in (("joints", (17, 3)), ("vertices", (258, 3)), ("translation", (3,))):
        assert getattr(person, name).shape == shape and getattr(person, name).dtype == np.float32


def test_the_crop_ray_frame_turns_the_body_towards_the_ray(tmp_path: Path) -> None:
    """A body at the side, upright in its own crop, is turned about y by the angle of the ray through its crop."""
    image, spans = person_image(640, 480, (560, 240), 150), {}
    for frame in ("crop_ray", "camera"):
        bundle = make_tiny_bundle(tmp_path / frame, camera_frame=frame)  # type: ignore[arg-type]
        (person,) = Estimator(bundle, open_engine(bundle, "onnxruntime", threads=1))(image, CAMERA)
        joints, skeleton = person.joints, bundle.skeleton
        spans[frame] = joints[skeleton.index("L_Hip")] - joints[skeleton.index("R_Hip")]
    assert abs(spans["camera"][2]) < 1e-5
    turned = np.degrees(np.arctan2(-spans["crop_ray"][2], spans["crop_ray"][0]))
    assert turned == pytest.approx(np.degrees(np.arctan(240 / 500)), abs=0.5)


def test_distortion_is_undone(estimator: Estimator, tiny_bundle: Bundle) -> None:
    lens = Camera(640, 480, CAMERA.matrix, np.array((-0.25, 0.05, 0.0, 0.0, 0.0)), "plumb_bob")
    image = person_image(640, 480, (540, 240), 120)
    (person,) = estimator(image, lens)
    assert iou(person, tiny_bundle, image, lens) > 0.85
    ray = lens.normalize(np.array(((540.0, 240.0),)))[0]
    middle = person.vertices.mean(axis=0)
    assert middle[0] / middle[2] == pytest.approx(ray[0], abs=0.01)
    assert ray[0] > 0.46 > (540 - 320) / 500  # farther out than without the lens


def test_without_calibration_the_camera_is_nominal(estimator: Estimator) -> None:
    image = person_image(640, 480, (320, 240), 150)
    (assumed,) = estimator(image)
    (given,) = estimator(image, Camera.nominal_for(640, 480))
    assert assumed.translation_source == given.translation_source == "nominal"
    np.testing.assert_allclose(assumed.translation, given.translation, rtol=0.02)


def test_it_searches_inwards_and_then_follows_with_one_look(
    estimator: Estimator, counting: Counting, tiny_bundle: Bundle
) -> None:
    (person,) = estimator(person_image(640, 480, (200, 200), 100), CAMERA)
    assert 2 <= counting.calls <= EstimatorConfig().max_passes
    identity = person.id
    for step in range(1, 15):
        counting.calls = 0
        image = person_image(640, 480, (200 + 15 * step, 200 + 3 * step), 100 + 4 * step)
        (person,) = estimator(image, CAMERA, stamp=step / 30)
        assert counting.calls == 1
        assert person.id == identity
        assert iou(person, tiny_bundle, image) > 0.85


def test_a_settled_search_ends_early(estimator: Estimator, counting: Counting, tiny_bundle: Bundle) -> None:
    estimator(person_image(640, 480, (319.5, 239.5), 640 / 1.25), CAMERA)  # the first crop is the right one already
    assert counting.calls == 1
    one_pass = Estimator(tiny_bundle, counting, EstimatorConfig(max_passes=1))  # type: ignore[arg-type]
    counting.calls = 0
    one_pass(person_image(640, 480, (200, 200), 100), CAMERA)
    assert counting.calls == 1


def test_nobody_there(estimator: Estimator) -> None:
    assert estimator(BLACK, CAMERA) == []
    assert len(estimator(person_image(640, 480, (300, 240), 200), CAMERA)) == 1


def test_a_person_that_went_comes_back_as_another(estimator: Estimator) -> None:
    image = person_image(640, 480, (300, 240), 200)
    (before,) = estimator(image, CAMERA)
    assert estimator(BLACK, CAMERA) == []
    (after,) = estimator(image, CAMERA)
    assert after.id > before.id


def test_a_person_that_jumped_is_found_again_in_the_same_image(estimator: Estimator, tiny_bundle: Bundle) -> None:
    (before,) = estimator(person_image(640, 480, (100, 240), 120), CAMERA)
    image = person_image(640, 480, (540, 240), 120)
    (after,) = estimator(image, CAMERA)
    assert after.id != before.id
    assert iou(after, tiny_bundle, image) > 0.9


def test_low_confidence_is_nobody(estimator: Estimator, tiny_bundle: Bundle, engine: Engine) -> None:
    dim = person_image(640, 480, (300, 240), 200, brightness=60)
    assert estimator(dim, CAMERA) == []
    (person,) = Estimator(tiny_bundle, engine, EstimatorConfig(min_score=0.1))(dim, CAMERA)
    assert person.score == pytest.approx(60 / 255, abs=0.02)


def test_a_calibrated_model_is_followed_by_visibility_and_tells_confidence(calibrated_bundle: Bundle) -> None:
    estimator = Estimator(calibrated_bundle, open_engine(calibrated_bundle, "onnxruntime", threads=1))
    (person,) = estimator(person_image(640, 480, (300, 240), 200, brightness=128), CAMERA)
    assert person.score == pytest.approx(128 / 255, abs=0.02)
    np.testing.assert_allclose(person.joint_confidence, np.full(17, person.score / 2), atol=1e-6)  # type: ignore[arg-type]


def test_who_shows_less_than_the_least_confidence_is_nobody(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", calibrated=True, least_confidence=0.3)
    engine = open_engine(bundle, "onnxruntime", threads=1)
    bright, dim, dark = (person_image(640, 480, (300, 240), 200, brightness=value) for value in (200, 128, 110))
    estimator = Estimator(bundle, engine)
    assert estimator(dim, CAMERA) == [], "a confidence of 0.25"
    assert len(estimator(bright, CAMERA)) == 1
    assert len(estimator(dim, CAMERA)) == 1, "enough for whom it follows"
    assert estimator(dark, CAMERA) == []
    assert len(Estimator(bundle, engine, EstimatorConfig(min_confidence=0.2))(dim, CAMERA)) == 1
    assert Estimator(bundle, engine, EstimatorConfig(min_confidence=0.4))(bright, CAMERA) == []


def test_a_model_without_confidence_loses_by_geometry(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", confidence=False)
    estimator = Estimator(bundle, open_engine(bundle, "onnxruntime", threads=1))
    image = person_image(640, 480, (300, 240), 200)
    (person,) = estimator(image, CAMERA)
    assert person.score == 1 and person.joint_confidence is None
    estimator(image, CAMERA)
    assert estimator(BLACK, CAMERA) == []  # the ellipsoid shrinks to nothing
    assert len(estimator(image, CAMERA)) == 1


def test_a_person_leaving_the_image_is_lost(tiny_bundle: Bundle, engine: Engine) -> None:
    estimator = Estimator(tiny_bundle, engine, EstimatorConfig(min_visible=0.9))
    assert len(estimator(person_image(640, 480, (320, 240), 200), CAMERA)) == 1
    assert estimator(person_image(640, 480, (600, 240), 200), CAMERA) == []


@pytest.mark.parametrize("limit", [{"min_box_px": 400.0}, {"max_box_ratio": 1.0}])
def test_impossible_sizes_are_nobody(tiny_bundle: Bundle, engine: Engine, limit: dict[str, float]) -> None:
    height = 200 if "min_box_px" in limit else 470
    image = person_image(480, 480, (240, 240), height)
    assert Estimator(tiny_bundle, engine, EstimatorConfig(**limit))(image) == []
    assert len(Estimator(tiny_bundle, engine)(image)) == 1


def test_another_resolution_starts_over(estimator: Estimator, counting: Counting) -> None:
    (before,) = estimator(person_image(640, 480, (500, 240), 150), CAMERA)
    counting.calls = 0
    image = person_image(320, 240, (80, 120), 75)
    (after,) = estimator(image, Camera.nominal_for(320, 240))
    assert after.id != before.id and counting.calls > 1
    assert after.box.cx == pytest.approx(80, abs=2)


def test_a_clock_that_jumps_back_starts_over(estimator: Estimator) -> None:
    image = person_image(640, 480, (300, 240), 200)
    ids = [estimator(image, CAMERA, stamp)[0].id for stamp in (10.0, 10.1, 10.1, 3.0, 3.1)]
    assert ids[0] == ids[1] == ids[2] != ids[3] == ids[4]


def test_reset_starts_over_with_a_new_id(estimator: Estimator) -> None:
    image = person_image(640, 480, (300, 240), 200)
    (before,) = estimator(image, CAMERA)
    estimator.reset()
    (after,) = estimator(image, CAMERA)
    assert after.id > before.id


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((480, 8, 3), np.uint8),
        np.zeros((0, 640, 3), np.uint8),
        np.zeros((480, 640), np.uint8),
        np.zeros((480, 640, 3), np.float32),
        np.zeros((480, 640, 4), np.uint8),
    ],
)
def test_an_image_that_is_none_costs_nothing_but_itself(estimator: Estimator, image: np.ndarray) -> None:
    good = person_image(640, 480, (300, 240), 200)
    (before,) = estimator(good, CAMERA)
    with pytest.raises(ImageError):
        estimator(image)
    (after,) = estimator(good, CAMERA)
    assert after.id == before.id


def test_a_camera_of_another_size_is_refused(estimator: Estimator) -> None:
    with pytest.raises(CameraError, match="expected 640x480, as the image, got 320x240"):
        estimator(BLACK, Camera.nominal_for(320, 240))


def test_nan_from_the_engine_costs_one_image(estimator: Estimator) -> None:
    good = person_image(640, 480, (300, 240), 200)
    bad = good.copy()
    bad[230:250, 290:310] = RED_BGR
    (before,) = estimator(good, CAMERA)
    for _ in range(2):
        with pytest.raises(EngineError, match="not finite"):
            estimator(bad, CAMERA)
    (after,) = estimator(good, CAMERA)
    assert after.id != before.id  # the crop that made it fail is not asked about again


def test_a_negative_scale_is_nobody_and_stays_finite(tiny_bundle: Bundle, engine: Engine) -> None:
    output = engine.infer(np.zeros((1, 64, 64, 3), np.uint8))
    output.camera[0] = (-0.5, 0, 0)
    body = decode(output, 0, Box(320, 240, 200), CAMERA, tiny_bundle, tiny_bundle.rows[1])
    assert body.score == 0
    assert body.anchors.shape == (66, 3)
    head, foot = body.anchors_px[np.argmin(body.anchors[:, 1])], body.anchors_px[np.argmax(body.anchors[:, 1])]
    assert head[1] < foot[1]  # small, but not upside down


def test_smoothing_holds_the_box_back_but_not_the_pose(tiny_bundle: Bundle, engine: Engine) -> None:
    first, second = (person_image(640, 480, (x, 240), 200) for x in (300, 340))
    boxes = {}
    for smoothing in (0.0, 0.5):
        estimator = Estimator(tiny_bundle, engine, EstimatorConfig(box_smoothing=smoothing))
        estimator(first, CAMERA)
        (person,) = estimator(second, CAMERA)
        assert iou(person, tiny_bundle, second) > 0.9
        boxes[smoothing] = estimator._one._box
    assert boxes[0.0].cx == pytest.approx(340, abs=2)
    assert boxes[0.5].cx == pytest.approx(320, abs=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_passes", 0), ("min_score", 1.5), ("settled", float("nan")), ("padding", 0.5), ("min_box_px", 0.0)],
)
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"EstimatorConfig\.{name}"):
        EstimatorConfig(**{name: value})


def test_every_setting_says_what_it_means() -> None:
    assert all(field.metadata["doc"] for field in fields(EstimatorConfig))
