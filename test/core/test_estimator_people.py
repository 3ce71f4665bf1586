"""Several people, by a detector: on the tiny bundle, whose network sees one bright blob in each crop."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from asked_engine import Asked
from tiny_bundle import RADII_M, RED_BGR, make_tiny_bundle, person_image
from tiny_detector import Blobs
from walker_looks import seen_at

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.detect import Detections, no_detections
from metro_ros.core.engines import Engine, open_engine
from metro_ros.core.errors import ConfigError, EngineError
from metro_ros.core.estimator import Estimator, EstimatorConfig, Person, Request, estimate_together
from metro_ros.core.following import SCALES
from metro_ros.core.look import Look, Sight

CAMERA = Camera(640, 480, np.array(((500.0, 0, 320), (0, 500, 240), (0, 0, 1))))
FPS = 30


@pytest.fixture(scope="module")
def tiny_engine(tiny_bundle: Bundle) -> Engine:
    return open_engine(tiny_bundle, "onnxruntime", threads=1)


@pytest.fixture
def engine(tiny_engine: Engine) -> Asked:
    return Asked(tiny_engine)


@pytest.fixture
def detector() -> Blobs:
    return Blobs()


@pytest.fixture
def estimator(tiny_bundle: Bundle, engine: Asked, detector: Blobs) -> Estimator:
    return Estimator(tiny_bundle, engine, detector=detector)  # type: ignore[arg-type]


def scene(*people: tuple[float, float], y: float = 240, brightness: int = 255) -> np.ndarray:
    """People at (column, height in px)."""
    images = [person_image(640, 480, (x, y), height, brightness) for x, height in people]
    return np.max([np.zeros((480, 640, 3), np.uint8), *images], axis=0)


def boxes_of(*people: tuple[float, float], y: float = 240, score: float = 0.9) -> Detections:
    width = RADII_M[0] / RADII_M[1] / 2
    boxes = [(x - width * h, y - h / 2, x + width * h, y + h / 2) for x, h in people]
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(people), score))


def columns(people: Sequence[Person]) -> dict[int, float]:
    return {person.id: person.box.cx for person in people}


def test_everyone_is_found_at_once_and_placed(estimator: Estimator, engine: Asked) -> None:
    people = estimator(scene((120, 100), (320, 160), (540, 80)), CAMERA, 0.0)
    assert sorted(columns(people).values()) == pytest.approx([120, 320, 540], abs=2)
    assert len({person.id for person in people}) == 3
    assert engine.calls[0] == 3 and len(engine.calls) <= 2
    depths = {round(person.box.cx, -1): person.translation[2] for person in people}
    for column, height in ((120, 100), (320, 160), (540, 80)):
        assert depths[column] == pytest.approx(500 * 2 * RADII_M[1] / height, rel=0.05)


def test_each_is_followed_with_one_look_and_the_detector_is_asked_now_and_then(
    estimator: Estimator, engine: Asked, detector: Blobs
) -> None:
    first = columns(estimator(scene((120, 100), (320, 160)), CAMERA, 0.0))
    detector.calls = 0
    for n in range(1, 16):
        engine.calls.clear()
        now = columns(estimator(scene((120 + 3 * n, 100 + n), (320 + 4 * n, 160)), CAMERA, n / FPS))
        assert engine.calls == [2]
        assert now == pytest.approx({i: x + (3 * n if x < 200 else 4 * n) for i, x in first.items()}, abs=3)
    assert detector.calls == 2, "every 0.2 s"
    for n in range(16, 20):
        estimator(scene((120 + 3 * n, 100 + n), (320 + 4 * n, 160)), CAMERA)
    assert detector.calls == 6, "without stamps, in every image"


def test_whoever_comes_later_is_found_and_gets_a_new_id(estimator: Estimator) -> None:
    (before,) = estimator(scene((120, 100)), CAMERA, 0.0)
    assert len(estimator(scene((120, 100), (500, 120)), CAMERA, 0.1)) == 1, "the detector rests"
    old, new = estimator(scene((500, 120), (120, 100)), CAMERA, 0.25)
    assert old.id == before.id and new.id > old.id and new.box.cx == pytest.approx(500, abs=2)


def test_whoever_is_lost_is_searched_in_the_same_image(estimator: Estimator, detector: Blobs) -> None:
    image = scene((120, 100), (320, 100))
    first = columns(estimator(image, CAMERA, 0.0))
    assert len(estimator(image, CAMERA, 0.03)) == 2 and detector.calls == 1
    jumped = estimator(scene((120, 100), (540, 100)), CAMERA, 0.06)
    assert sorted(columns(jumped).values()) == pytest.approx([120, 540], abs=2) and detector.calls == 2
    assert {person.id for person in jumped} - set(first) == {jumped[1].id}, "too far to be the same"
    estimator(scene((120, 100), (540, 100)), CAMERA, 0.09)
    assert detector.calls == 2


@pytest.mark.parametrize(("max_passes", "calls"), [(3, [1, 1]), (1, [1])])
def test_a_loose_box_is_looked_at_twice(tiny_bundle: Bundle, engine: Asked, max_passes: int, calls: list) -> None:
    estimator = Estimator(tiny_bundle, engine, EstimatorConfig(max_passes=max_passes))  # type: ignore[arg-type]
    (person,) = estimator(scene((300, 100)), CAMERA, 0.0, boxes_of((320, 160)))
    assert engine.calls == calls and person.box.cx == pytest.approx(300, abs=2)
    engine.calls.clear()
    estimator.reset()
    estimator(scene((300, 100)), CAMERA, 0.1, boxes_of((300, 100)))
    assert engine.calls == [1], "a tight one once"


def test_ids_survive_half_a_second_out_of_sight(estimator: Estimator, detector: Blobs) -> None:
    first = columns(estimator(scene((100, 100), (500, 140)), CAMERA, 0.0))
    hidden_calls = 0
    for n in range(1, 46):
        x, hidden = 100 + 4 * n, 15 <= n < 30
        before = detector.calls
        people = columns(estimator(scene((500, 140), *(() if hidden else ((x, 100),))), CAMERA, n / FPS))
        hidden_calls += (detector.calls - before) if hidden else 0
        assert len(people) == (1 if hidden else 2)
        assert set(people) <= set(first)
    assert hidden_calls <= 4, "someone hidden does not keep the detector busy"
    assert people == pytest.approx({i: 280 if x < 200 else 500 for i, x in first.items()}, abs=5)


def test_who_passes_behind_another_keeps_the_id(estimator: Estimator) -> None:
    shown = []
    for n in range(48):
        x = 200 + 5 * n
        far = ((x, 80),) if abs(x - 320) > 60 else ()  # no blob in the crop around the other one
        shown.append(columns(estimator(scene((320, 100), *far), CAMERA, n / FPS)))
    assert len(shown[0]) == len(shown[-1]) == 2 and set(shown[0]) == set(shown[-1])
    front = min(shown[0], key=lambda i: abs(shown[0][i] - 320))
    assert all(people[front] == pytest.approx(320, abs=30) for people in shown)  # the far one's edge is in its crop
    assert any(len(people) == 1 for people in shown)


def test_several_boxes_on_one_person_are_one_person(estimator: Estimator, engine: Asked) -> None:
    image, (box,) = scene((300, 200)), boxes_of((300, 200)).boxes
    jittered = box + np.array(((0, 0, 0, 0), (8, 5, 8, 5), (-6, 0, 6, -90), (-40, -40, 40, 40)))
    many = Detections(jittered, np.array((0.5, 0.9, 0.8, 0.7)))
    (person,) = estimator(image, CAMERA, 0.0, many)
    (again,) = estimator(image, CAMERA, 0.1, many)
    assert person.id == again.id
    assert engine.calls[0] == 4, "each is looked at"


def test_given_detections_win_and_between_them_no_one_else_is_searched(
    tiny_bundle: Bundle, engine: Asked, detector: Blobs
) -> None:
    estimator = Estimator(tiny_bundle, engine, detector=detector)  # type: ignore[arg-type]
    image = scene((120, 100), (500, 120))
    (only,) = estimator(image, CAMERA, 0.0, boxes_of((500, 120)))
    assert only.box.cx == pytest.approx(500, abs=2) and not detector.calls
    topic = Estimator(tiny_bundle, engine)  # type: ignore[arg-type]
    assert topic(image, CAMERA, 0.0, no_detections()) == []
    engine.calls.clear()
    assert topic(image, CAMERA, 0.1) == [] and not engine.calls, "no search of the whole image"
    (found,) = topic(image, CAMERA, 0.2, boxes_of((120, 100)))
    (followed,) = topic(image, CAMERA, 0.3)
    (still,) = topic(image, CAMERA, 0.4, no_detections())
    assert found.id == followed.id == still.id


def test_a_model_that_knows_how_sure_it_is_looks_at_who_is_new_in_several_crops(calibrated_bundle: Bundle) -> None:
    engine = Asked(open_engine(calibrated_bundle, "onnxruntime", threads=1))
    estimator = Estimator(calibrated_bundle, engine)  # type: ignore[arg-type]
    image, boxes = scene((120, 100), (500, 120)), boxes_of((120, 100), (500, 120))
    people = estimator(image, CAMERA, None, boxes)
    assert sorted(columns(people).values()) == pytest.approx([120, 500], abs=2)
    assert engine.calls[0] == 2 * len(SCALES), "of an image that no other one follows"
    estimator.reset()
    engine.calls.clear()
    assert len(estimator(image, CAMERA, 0.0, boxes)) == 2 and engine.calls[0] == 2, "in a stream, one in turn"
    engine.calls.clear()
    assert len(estimator(image, CAMERA, 0.1, boxes)) == 2 and engine.calls == [2], "who is followed takes one"


def test_doubt_begins_by_the_least_confidence_that_is_set(calibrated_bundle: Bundle) -> None:
    """All are seen with a confidence of a half."""
    for least, crops in ((None, 1), (0.2, 1), (0.4, 2)):
        engine = Asked(open_engine(calibrated_bundle, "onnxruntime", threads=1))
        config = EstimatorConfig(min_confidence=least)
        estimator = Estimator(calibrated_bundle, engine, config)  # type: ignore[arg-type]
        assert len(estimator(scene((120, 100)), CAMERA, 0.0, boxes_of((120, 100)))) == 1
        engine.calls.clear()
        assert len(estimator(scene((120, 100)), CAMERA, 0.1)) == 1
        assert engine.calls == [crops]


@pytest.mark.parametrize(
    "whole",
    [(0, 0, 5), (0, 0, 5, np.nan), (0, 0, np.inf, 5), (5, 0, 5, 9)],
    ids=["shape", "partly", "infinite", "empty"],
)
def test_a_guess_of_the_whole_that_is_no_box_is_refused(whole: tuple[float, ...]) -> None:
    boxes = boxes_of((120, 100))
    with pytest.raises(ConfigError, match="wholes of detections"):
        Detections(boxes.boxes, boxes.scores, np.array([whole], np.float32))


def test_rather_than_nobody_an_image_that_no_other_follows_is_looked_at_again(calibrated_bundle: Bundle) -> None:
    engine = Asked(open_engine(calibrated_bundle, "onnxruntime", threads=1))
    config = EstimatorConfig(min_confidence=0.9)
    boxes, asked = boxes_of((120, 100), score=0.5), {}
    for stamp in (None, 0.0):
        engine.calls.clear()
        estimator = Estimator(calibrated_bundle, engine, config)  # type: ignore[arg-type]
        assert estimator(scene((120, 100)), CAMERA, stamp, boxes) == []
        asked[stamp] = engine.calls.copy()
    assert asked[None] == [len(SCALES), len(SCALES)] and asked[0.0] == [1], "the mesh is where it was looked"


def test_who_is_not_in_the_box_is_looked_for_where_the_whole_body_may_be(calibrated_bundle: Bundle) -> None:
    engine = Asked(open_engine(calibrated_bundle, "onnxruntime", threads=1))
    nothing, whole = boxes_of((500, 60)), boxes_of((120, 100))
    seen = Detections(nothing.boxes, nothing.scores, np.full((1, 4), np.nan))
    estimator = Estimator(calibrated_bundle, engine)  # type: ignore[arg-type]
    assert estimator(scene((120, 100)), CAMERA, 0.0, seen) == []
    both = Detections(nothing.boxes, nothing.scores, whole.boxes)
    engine.calls.clear()
    (person,) = estimator(scene((120, 100)), CAMERA, 0.1, both)
    assert person.box.cx == pytest.approx(120, abs=2) and engine.calls[0] == 2


def test_the_surest_look_counts_and_less_so_the_farther_it_leads(
    calibrated_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    image, config = scene((120, 100)), EstimatorConfig(min_confidence=0.2)
    template = seen_at(0.0, 4.0)

    def look(sure: float, change: float) -> Look:
        return template._replace(body=template.body._replace(sure=sure), change=change)

    sight = Sight(calibrated_bundle)
    wavering, calm, wrong = look(0.5, 0.6), look(0.4, 0.0), look(0.1, 0.0)
    assert sight.surest([wrong, wavering, calm], image, config) is calm
    assert sight.surest([look(0.8, 0.6), calm], image, config).body.sure == 0.8
    assert sight.surest([wrong, look(0.05, 0.0)], image, config) is wrong, "of nobodies, too"
    assert sight.surest([wrong, look(0.25, 3.0)], image, config).body.sure == 0.25, "somebody before nobody"
    assert Sight(tiny_bundle).surest([calm, wavering], image, config) is wavering, "the last, of one that does not know"
    beside = calm._replace(bounds=calm.bounds + np.array((80, 0, 80, 0)))
    for box, chosen in ((beside.bounds, beside), (calm.bounds, calm)):
        assert sight.surest([wavering._replace(bounds=box + 200), calm, beside], image, config, detected=box) is chosen


def test_who_is_certainly_there_is_believed_where_no_image_can_show_more(tmp_path: Path) -> None:
    """A confidence of 0.27, where 0.4 is the least."""
    bundle = make_tiny_bundle(tmp_path / "tiny", calibrated=True, least_confidence=0.4)
    engine = open_engine(bundle, "onnxruntime", threads=1)
    inside, at_edge = (320, 160), (RADII_M[0] / RADII_M[1] * 80, 160)

    def people(where: tuple[float, float], score: float, *stamps: float | None) -> list[int]:
        estimator = Estimator(bundle, engine)
        seen, unseen = boxes_of(where, score=score), no_detections()
        image = scene(where, brightness=140)
        return [len(estimator(image, CAMERA, stamp, unseen if n else seen)) for n, stamp in enumerate(stamps)]

    assert people(inside, 0.97, None) == [1] and people(inside, 0.6, None) == [0]
    assert people(inside, 0.97, 0.0) == [0], "the next image may show more"
    assert people(at_edge, 0.97, 0.0, 0.05, 0.1) == [1, 1, 0], "of whom the image ends at, none will; while detected"
    assert people(at_edge, 0.6, 0.0) == [0]

    def seen(score: float) -> int:
        return len(Estimator(bundle, engine)(scene(inside, brightness=220), CAMERA, 0.0, boxes_of(inside, score=score)))

    assert (seen(0.8), seen(0.4)) == (1, 0), "of a confidence of 0.43, where a detector doubts"


@pytest.mark.parametrize("stamp", [None, 0.0], ids=["alone", "in a stream"])
def test_an_unsure_stick_that_is_less_than_half_of_what_was_detected_is_nobody(
    calibrated_bundle: Bundle, stamp: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are seen with a confidence of a half, and 0.4 times as wide as high."""
    engine = open_engine(calibrated_bundle, "onnxruntime", threads=1)

    def seen(least: float, detected_px: float, agreed: bool = False) -> int:
        found = boxes_of((320, detected_px))
        found = Detections(found.boxes, found.scores, found.boxes if agreed else np.full_like(found.boxes, np.nan))
        estimator = Estimator(calibrated_bundle, engine, EstimatorConfig(min_confidence=least))
        return len(estimator(scene((320, 160)), CAMERA, stamp, found))

    assert seen(0.4, 240) == 1, "so wide may be a body of which much is hidden"
    monkeypatch.setattr("metro_ros.core.following.STICK", 0.5)
    assert (seen(0.4, 170), seen(0.4, 210), seen(0.4, 240)) == (1, 1, 0), "0.89, 0.58 and 0.44 of it"
    assert seen(0.4, 150) == 1, "who shows more than was detected is somebody"
    assert seen(0.2, 240) == 1, "a sure one, too"
    assert seen(0.4, 240, agreed=True) == 1, "and whom two networks see"


def test_a_detection_of_nothing_is_nobody(estimator: Estimator) -> None:
    assert estimator(scene(), CAMERA, 0.0, boxes_of((300, 200))) == []
    outside = Detections(np.array(((-500.0, -500, -400, -400), (0, 0, 2, 2))), np.ones(2))
    assert estimator(scene((500, 120)), CAMERA, 0.1, outside) == []


def test_who_is_not_sure_must_be_detected_again(tiny_bundle: Bundle, engine: Asked) -> None:
    estimator = Estimator(tiny_bundle, engine, detector=Blobs(score=0.3))  # type: ignore[arg-type]
    counts = [len(estimator(scene((300, 200)), CAMERA, n / FPS)) for n in range(4)]
    assert counts == [0, 0, 1, 1]


def test_the_number_of_people_is_bounded(tiny_bundle: Bundle, engine: Asked, detector: Blobs) -> None:
    config = EstimatorConfig(max_people=2)
    estimator = Estimator(tiny_bundle, engine, config, detector=detector)  # type: ignore[arg-type]
    dim = scene((320, 100), brightness=150)
    image = np.maximum(dim, scene((80, 90), (560, 110)))
    for stamp in (0.0, 0.3, 0.6):
        engine.calls.clear()
        people = estimator(image, CAMERA, stamp)
        assert max(engine.calls) <= 2 and len(people) == 2
    better = Detections(boxes_of((80, 90), (320, 100), (560, 110)).boxes, np.array((0.7, 0.6, 0.9)))
    assert sorted(columns(estimator(image, CAMERA, 0.0, better)).values()) == pytest.approx([80, 560], abs=2)


@pytest.mark.parametrize("restart", ["clock", "size", "reset"])
def test_starting_over_gives_new_ids(estimator: Estimator, detector: Blobs, restart: str) -> None:
    image = scene((120, 100), (500, 120))
    before = {person.id for person in estimator(image, CAMERA, 5.0)}
    asked = detector.calls
    if restart == "size":
        image = person_image(320, 240, (60, 120), 50) + person_image(320, 240, (250, 120), 60)
    if restart == "reset":
        estimator.reset()
    after = {person.id for person in estimator(image, None, 4.0 if restart == "clock" else 5.1)}
    assert len(before) == len(after) == 2 and min(after) > max(before) and detector.calls > asked


def test_what_fails_costs_one_image(estimator: Estimator, detector: Blobs) -> None:
    good = scene((120, 100), (500, 120))
    first = estimator(good, CAMERA, 0.0)
    bad = good.copy()
    bad[235:245, 115:125] = RED_BGR  # makes the network answer NaN
    with pytest.raises(EngineError, match="not finite"):
        estimator(bad, CAMERA, 0.1)
    again = estimator(good, CAMERA, 0.2)
    assert len(again) == 2 and min(person.id for person in again) > max(person.id for person in first)

    def broken(image: np.ndarray) -> Detections:
        raise EngineError("the finder failed")

    detector.detect = broken  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="the finder failed"):
        estimator(good, CAMERA, 1.0)
    del detector.detect
    assert len(estimator(good, CAMERA, 1.1)) == 2


def test_all_people_of_all_cameras_share_a_call(tiny_bundle: Bundle, engine: Asked, tiny_engine: Engine) -> None:
    images = [scene((120, 100), (500, 120)), scene((320, 200)), scene()]
    together = [Estimator(tiny_bundle, engine, detector=Blobs()) for _ in images]  # type: ignore[arg-type]
    alone = [Estimator(tiny_bundle, tiny_engine, detector=Blobs()) for _ in images]
    for stamp in (0.0, 0.1):
        engine.calls.clear()
        answers = estimate_together([Request(e, i, CAMERA, stamp) for e, i in zip(together, images, strict=True)])
        assert engine.calls[0] == 3
        for answer, other, image in zip(answers, alone, images, strict=True):
            expected = other(image, CAMERA, stamp)
            assert isinstance(answer, list) and len(answer) == len(expected)
            for person, same in zip(answer, expected, strict=True):
                np.testing.assert_allclose(person.vertices, same.vertices, atol=1e-5)
    assert engine.calls == [3], "followed"


def test_hands_too(hand_bundle: Bundle) -> None:
    engine = open_engine(hand_bundle, "onnxruntime", threads=1)
    image = person_image(640, 480, (150, 240), 100, hand=True) + person_image(640, 480, (450, 240), 120, hand=True)
    estimator = Estimator(hand_bundle, engine, detector=Blobs())
    for stamp in (0.0, 0.1):
        assert sorted(columns(estimator(image, CAMERA, stamp)).values()) == pytest.approx([150, 450], abs=3)


def test_a_model_without_confidence(tmp_path: object) -> None:
    bundle = make_tiny_bundle(f"{tmp_path}/tiny", confidence=False)
    estimator = Estimator(bundle, open_engine(bundle, "onnxruntime", threads=1), detector=Blobs())
    assert len(estimator(scene((120, 100), (500, 120)), CAMERA, 0.0)) == 2
    (left,) = estimator(scene((500, 120)), CAMERA, 0.1)
    assert left.box.cx == pytest.approx(500, abs=2)
