"""Detectors in ONNX files: every layout by a graph that sees, boxes to a pixel, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from detector_graphs import ELEMENTS, Builder, Seen, save
from onnx import TensorProto

from metro_ros.core.bundle import Bundle
from metro_ros.core.detectors import DetectorConfig, OnnxDetector, open_detector
from metro_ros.core.errors import ConfigError, EngineError

SIZE = (96, 128)
"""Of the network's input, height and width: 192, 48 and 12 cells."""
STRIDES = (8, 16, 32)
CELLS = 252
AT = 200
"""The row that sees: cell (1, 0) of the grid of stride 16."""
RECTANGLE = (30, 10, 50, 45)
"""Columns and rows of the image, the last excluded."""
BOX = (29.5, 9.5, 49.5, 44.5)
"""The same in the image's coordinates, where a pixel's centre is an integer."""
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def image(width: int = 100, height: int = 60, box: tuple[int, int, int, int] = RECTANGLE) -> np.ndarray:
    """Dark, with a rectangle of BGR (255, 255, 204): its first channel is 1.0 as BGR and 0.8 as RGB."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (255, 255, 204)
    return pixels


def centres() -> np.ndarray:
    """(252, 4): the middle of every cell, in pixels, and its size, as a decoded network answers to nothing."""
    rows = []
    for stride in STRIDES:
        y, x = np.indices((SIZE[0] // stride, SIZE[1] // stride)).reshape(2, -1)
        rows.append(np.stack(((x + 0.5) * stride, (y + 0.5) * stride, x * 0 + stride, x * 0 + stride), axis=1))
    return np.concatenate(rows).astype(np.float32)


class Sight(NamedTuple):
    """A graph under construction that looks at its input."""

    b: Builder
    seen: Seen
    path: Path


def sight(path: Path, largest: float, size: tuple[int, int] = SIZE, dtype: str = "float32") -> Sight:
    b = Builder()
    return Sight(b, Seen(b, "images", size, largest, 0.5 * largest), path)


SHAPE = (1, 3, *SIZE)
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32


def dense(s: Sight, objectness: float | None, *, raw: bool = False, anchors: int = 1, lying: bool = False) -> Path:
    """3 classes: the person, and the values of the first and the last pixel."""
    b, seen = s.b, s.seen
    if raw:
        stride, cell = 16, np.array((0, 1))  # row 200 is 8 cells into the grid of 8 columns
        centre = b("Sub", b("Div", seen.centre(), b.constant(stride)), b.constant([*cell, 0, 0]))
        place = b("Slice", centre, b.indices(0), b.indices(2), b.indices(1))
        sides = b("Slice", centre, b.indices(2), b.indices(4), b.indices(1))
        box = b("Concat", place, b("Log", b("Max", sides, b.constant(1e-3))), axis=1)
    else:
        box = seen.centre()
    parts = [box] + ([] if objectness is None else [b.constant([[objectness]])])
    parts += [seen.score, seen.first, seen.last]
    width = 7 if objectness is None else 8
    rows = b.one_row(b("Concat", *parts, axis=1), anchors * CELLS, width, AT)
    background = np.zeros((anchors * CELLS, width))
    if not raw:
        background[:, :4] = np.tile(centres(), (anchors, 1))
        background[AT] = 0
    table = b("Add", rows, b.constant(background))
    shape = (1, anchors * CELLS, width)
    if lying:
        table, shape = b("Transpose", table, perm=[1, 0]), (1, width, anchors * CELLS)
    b.reshape(table, *shape, name="output")
    return save(s.path, b, SHAPE, {"output": (FLOAT, shape)})


def yolov6(s: Sight) -> Path:
    b, seen = s.b, s.seen
    row = b("Concat", seen.centre(), b.constant([[0.0]]), seen.score, b.constant([[0.1]]), seen.last, axis=1)
    background = np.zeros((CELLS, 8))
    background[:, :4], background[AT], background[:, 4] = centres(), 0, 1
    b.reshape(b("Add", b.one_row(row, CELLS, 8, AT), b.constant(background)), 1, CELLS, 8, name="outputs")
    return save(s.path, b, SHAPE, {"outputs": (FLOAT, (1, CELLS, 8))})


def rows(s: Sight, kind: str) -> Path:
    """Of two detections, the second of class 2."""
    b, seen = s.b, s.seen
    image, person, other = b.constant([[0.0]]), b.constant([[0.0]]), b.constant([[2.0]])
    if kind == "batch":
        both = [
            seen.row(image, seen.corners(), klass, score) for klass, score in ((person, seen.score), (other, seen.last))
        ]
        b("Concat", *both, axis=0, name="output")
        return save(s.path, b, SHAPE, {"output": (FLOAT, ("detections", 7))})
    both = [seen.row(seen.corners(), score, klass) for klass, score in ((person, seen.score), (other, seen.last))]
    padding = b.constant(np.zeros((298, 6)))
    b.reshape(b("Concat", *both, padding, axis=0), 1, 300, 6, name="output0")
    return save(s.path, b, SHAPE, {"output0": (FLOAT, (1, 300, 6))})


def columns(s: Sight, kind: str) -> Path:
    """Of three places two are taken, the second by class 2."""
    b, seen = s.b, s.seen
    boxes = b("Concat", seen.corners(), seen.corners(), b.constant([[1.0, 1, 9, 9]]), axis=0)
    classes = np.array([[0, 2, 0]])
    if kind == "mmdeploy":
        scores = b("Concat", seen.score, seen.last, b.constant([[0.0]]), axis=0)
        b.reshape(b("Concat", boxes, scores, axis=1), 1, 3, 5, name="dets")
        b("Identity", b.constant(classes, np.int64), name="labels")
        return save(s.path, b, SHAPE, {"dets": (FLOAT, (1, "n", 5)), "labels": (INT64, (1, "n"))})
    b("Concat", seen.score, seen.last, b.constant([[0.9]]), axis=1, name="scores")
    if kind == "tensorrt":
        b("Identity", b.constant([[2]], np.int32), name="num_dets")
        b.reshape(boxes, 1, 3, 4, name="boxes")
        b("Identity", b.constant(classes, np.int32), name="det_classes")
        outputs = {"num_dets": (INT32, (1, 1)), "boxes": (FLOAT, (1, 3, 4)), "scores": (FLOAT, (1, 3))}
        return save(s.path, b, SHAPE, {**outputs, "det_classes": (INT32, (1, 3))})
    # RT-DETR's own export: the graph scales the boxes to the width and height that it is given.
    sides = b.cast("orig_target_sizes", "float32")
    scale = b("Div", b("Concat", sides, sides, axis=1), b.constant([[SIZE[1], SIZE[0], SIZE[1], SIZE[0]]]))
    b.reshape(b("Mul", boxes, scale), 1, 3, 4, name="boxes")
    b("Identity", b.constant([[0, 2, 1]], np.int64), name="labels")
    outputs = {"labels": (INT64, (1, 3)), "boxes": (FLOAT, (1, 3, 4)), "scores": (FLOAT, (1, 3))}
    return save(s.path, b, SHAPE, outputs, more_inputs={"orig_target_sizes": (INT64, (1, 2))})


def queries(path: Path, names: tuple[str, str] | None, slots: int, person: int, imagenet: bool) -> Path:
    """The first channel's mean is the person's logit, or with no names its probability; no other class has any."""
    b = Builder()
    threshold = (0.5 - MEAN[1]) / STD[1] if imagenet else 0.5
    seen = Seen(b, "images", SIZE, 1.0, threshold)
    box = seen.centre((1 / SIZE[1], 1 / SIZE[0]))
    one = np.zeros((1, slots))
    one[0, person] = 1
    if names is None:
        row = seen.row(box, b("Mul", seen.score, b.constant(one)))
        b.reshape(b.one_row(row, 300, 4 + slots, 7), 1, 300, 4 + slots, name="output0")
        names_80 = {"names": str({index: f"class {index}" if index else "person" for index in range(slots)})}
        return save(path, b, SHAPE, {"output0": (FLOAT, (1, 300, 4 + slots))}, metadata=names_80)
    logits = b("Add", b("Mul", seen.score, b.constant(one)), b.constant((one - 1) * 30))
    b.reshape(b.one_row(box, 5, 4, 3), 1, 5, 4, name=names[0])
    table = b("Add", b.one_row(logits, 5, slots, 3), b.constant(np.where(np.arange(5) == 3, 0, -30)[:, None]))
    b.reshape(table, 1, 5, slots, name=names[1])
    return save(path, b, SHAPE, {names[0]: (FLOAT, (1, 5, 4)), names[1]: (FLOAT, (1, 5, slots))})


def sigmoid(logit: float) -> float:
    return 1 / (1 + np.exp(-logit))


BGR, RGB = 1.0, 0.8
LOGIT_IMAGENET = (RGB - MEAN[0]) / STD[0]
LAYOUTS: dict[str, tuple[Callable[[Path], Path], float, float | None]] = {
    # how the file is made; the score of the person; that of the last pixel, where the layout has a class 2
    "yolox raw": (lambda p: dense(sight(p, 255), 0.9, raw=True), 0.9 * BGR, 0.9 * 114 / 255),
    "yolox decoded": (lambda p: dense(sight(p, 255), 0.9), 0.9 * BGR, 0.9 * 114 / 255),
    "yolov5": (lambda p: dense(sight(p, 1), 0.9, anchors=3), 0.9 * RGB, 0.9 * 114 / 255),
    "yolov6": (lambda p: yolov6(sight(p, 1)), RGB, 114 / 255),
    "yolov8": (lambda p: dense(sight(p, 1), None, lying=True), RGB, 114 / 255),
    "yolov10": (lambda p: rows(sight(p, 1), "image"), RGB, 114 / 255),
    "yolov7 nms": (lambda p: rows(sight(p, 1), "batch"), RGB, 114 / 255),
    "tensorrt nms": (lambda p: columns(sight(p, 1), "tensorrt"), RGB, 114 / 255),
    "mmdeploy": (lambda p: columns(sight(p, 255), "mmdeploy"), BGR, 114 / 255),
    "rtdetr own": (lambda p: columns(sight(p, 1), "rtdetr"), RGB, None),
    "rtdetr hugging face": (lambda p: queries(p, ("pred_boxes", "logits"), 80, 0, False), sigmoid(RGB), None),
    "rtdetr ultralytics": (lambda p: queries(p, None, 80, 0, False), RGB, None),
    "rfdetr": (lambda p: queries(p, ("dets", "labels"), 91, 1, True), sigmoid(LOGIT_IMAGENET), None),
    "rfdetr of three": (lambda p: queries(p, ("dets", "labels"), 4, 0, True), sigmoid(LOGIT_IMAGENET), None),
    "detr": (lambda p: queries(p, ("pred_boxes", "logits"), 92, 1, True), 1.0, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_finds_the_person_where_it_is(layout: str, tmp_path: Path) -> None:
    make, score, corner = LAYOUTS[layout]
    detector = OnnxDetector(make(tmp_path / "detector.onnx"), threads=1)
    found = detector.detect(image())
    assert np.allclose(found.boxes, [BOX], atol=1.0)
    assert found.scores == pytest.approx([score], abs=0.05), "the order of the colours, their range, the class"
    assert len(detector.detect(image(box=(0, 0, 0, 0)))) == 0
    upright = detector.detect(image(48, 120, (10, 70, 40, 110)))  # the input is lower than the image
    assert np.allclose(upright.boxes, [(9.5, 69.5, 39.5, 109.5)], atol=1.5)
    if corner is not None:
        other = OnnxDetector(detector._graph.path, DetectorConfig(person_class=2), threads=1)
        assert other.detect(image()).scores == pytest.approx([corner], abs=0.01), "grey around the image"


@pytest.mark.parametrize(("layout", "in_the_middle"), [("yolox decoded", False), ("yolov5", True), ("yolov8", True)])
def test_the_image_lies_where_the_family_has_it(layout: str, in_the_middle: bool, tmp_path: Path) -> None:
    path = LAYOUTS[layout][0](tmp_path / "detector.onnx")
    first_pixel = OnnxDetector(path, DetectorConfig(person_class=1, min_score=0.3), threads=1).detect(image())
    assert bool(len(first_pixel)) == in_the_middle, "grey above the image, where it lies in the middle"


def table(path: Path, values: np.ndarray, metadata: dict[str, str] | None = None, **parts: Any) -> Path:
    """A YOLOv8 of `values` (1, 4 + C, 252), whatever it sees."""
    b = Builder()
    total = b("ReduceMean", b.cast("images", "float32"), axes=[0, 1, 2, 3], keepdims=0)
    b("Add", b("Mul", total, b.constant(0.0)), b.constant(values), name="output0")
    return save(path, b, SHAPE, {"output0": (FLOAT, values.shape)}, metadata=metadata, **parts)


def answers(*rows: tuple[float, ...]) -> np.ndarray:
    """Rows (cx, cy, width, height, class…) of the input's pixels, and nothing in all other cells."""
    values = np.zeros((1, len(rows[0]), CELLS), np.float32)
    values[0, :, : len(rows)] = np.transpose(rows)
    return values


def test_of_boxes_on_one_person_the_likeliest_stays(tmp_path: Path) -> None:
    rows = answers(
        (40, 40, 20, 40, 0.7, 0),
        (41, 41, 20, 40, 0.9, 0),
        (60, 40, 20, 40, 0.8, 0.95),  # another person's, who touches the first
        (90, 40, 20, 40, 0.39, 0),  # under the threshold
        (10, 40, 20, 40, 0.3, 0.9),  # of another class
    )
    path = table(tmp_path / "d.onnx", rows)
    square = np.zeros((SIZE[0], SIZE[1], 3), np.uint8)
    found = OnnxDetector(path).detect(square)
    assert found.scores == pytest.approx([0.9, 0.8])
    assert np.allclose(found.boxes, [(30.5, 20.5, 50.5, 60.5), (49.5, 19.5, 69.5, 59.5)], atol=1e-3)
    assert len(OnnxDetector(path, DetectorConfig(nms_iou=0.95)).detect(square)) == 3
    assert len(OnnxDetector(path, DetectorConfig(min_score=0.85)).detect(square)) == 1
    assert OnnxDetector(path, DetectorConfig(min_score=0.2)).detect(square).scores[-1] == pytest.approx(0.3)
    assert OnnxDetector(path, DetectorConfig(person_class=1)).detect(square).scores == pytest.approx([0.95, 0.9])


def test_boxes_are_clipped_and_those_without_area_dropped(tmp_path: Path) -> None:
    rows = answers((0, 0, 40, 60, 0.9), (60, 50, 0, 20, 0.8), (200, 40, 20, 20, 0.7), (60, 94, 20, 20, 0.6))
    found = OnnxDetector(table(tmp_path / "d.onnx", rows)).detect(np.zeros((SIZE[0], SIZE[1], 3), np.uint8))
    assert np.allclose(found.boxes, [(-0.5, -0.5, 19.5, 29.5), (49.5, 83.5, 69.5, 95.5)])


@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 255), ("float16", 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_inputs_of_other_types_orders_and_open_sizes(
    dtype: str, largest: float, channels_last: bool, tmp_path: Path
) -> None:
    b = Builder()
    planes = b("Transpose", "images", perm=[0, 3, 1, 2]) if channels_last else "images"
    seen = Seen(b, planes, (64, 64), largest, 0.5 * largest)
    answered = "float16" if dtype == "float16" else "float32"
    row = b.cast(seen.row(seen.corners(), seen.score, b.constant([[0.0]])), answered)
    b.reshape(row, 1, 1, 6, name="output0")
    shape: tuple = ("n", "h", "w", 3) if channels_last else ("n", 3, "h", "w")
    path = save(tmp_path / "d.onnx", b, shape, {"output0": (ELEMENTS[answered], (1, 1, 6))}, dtype=dtype)
    found = OnnxDetector(path, DetectorConfig(input_size=64)).detect(image(64, 40, (10, 5, 30, 35)))
    assert np.allclose(found.boxes, [(9.5, 4.5, 29.5, 34.5)], atol=0.6)
    assert found.scores == pytest.approx([RGB], abs=0.02)


def test_the_family_and_the_normalisation_can_be_named(tmp_path: Path) -> None:
    path = rows(sight(tmp_path / "d.onnx", 255), "image")
    assert OnnxDetector(path, DetectorConfig(family="yolox")).detect(image()).scores == pytest.approx([BGR], abs=0.05)
    own = queries(tmp_path / "q.onnx", ("pred_boxes", "logits"), 91, 1, False)
    fused = OnnxDetector(own, DetectorConfig(normalise="none"))
    assert fused.detect(image()).scores == pytest.approx([sigmoid(RGB)], abs=0.05)


@pytest.mark.parametrize(
    ("names", "scores"),
    [
        ("{0: 'cat', 1: 'Person'}", [0.7]),
        ('["person", "cat"]', [0.6]),
        ("{0: 'head'}", [0.6]),  # a single class is what one asks for
        ("nonsense(", [0.6]),
    ],
)
def test_the_file_names_the_class(names: str, scores: list[float], tmp_path: Path) -> None:
    values = answers((40, 40, 20, 40, 0.6, 0.7))
    path = table(tmp_path / "d.onnx", values, {"names": names})
    assert OnnxDetector(path).detect(image()).scores == pytest.approx(scores)


def test_rows_that_stand_have_an_objectness_unless_the_names_say_otherwise(tmp_path: Path) -> None:
    values = answers((40, 40, 20, 40, 0.6, 0.5, 0.9)).transpose(0, 2, 1)
    assert len(OnnxDetector(table(tmp_path / "a.onnx", values)).detect(image())) == 0, "0.6 x 0.5"
    turned = table(tmp_path / "b.onnx", values, {"names": "{0: 'person', 1: 'cat', 2: 'dog'}"})
    assert OnnxDetector(turned).detect(image()).scores == pytest.approx([0.6])


def plain(path: Path, outputs: dict[str, tuple[int, ...]], **parts: Any) -> Path:
    b = Builder()
    for name, shape in outputs.items():
        b("Identity", b.constant(np.zeros(shape)), name=name)
    shape = parts.pop("image_shape", SHAPE)
    return save(path, b, shape, {name: (FLOAT, shape) for name, shape in outputs.items()}, **parts)


@pytest.mark.parametrize(
    ("outputs", "parts", "words"),
    [
        ({"joints": (1, 17, 3), "vertices": (1, 258, 3)}, {}, "is no detector .* got joints float32 \\(1, 17, 3\\)"),
        ({"a": (1, 3, 12, 16, 85), "b": (1, 3, 6, 8, 85)}, {}, "is no detector .* --grid"),
        ({"probabilities": (1, 1000)}, {}, "is no detector"),
        ({"output0": (1, 5, 251)}, {}, "is no detector"),
        ({"output0": (1, 6, CELLS)}, {"metadata": {"names": "{0: 'cat', 1: 'dog'}"}}, "2: cat, dog"),
        ({"output0": (1, 6, CELLS)}, {"image_shape": (4, 3, *SIZE)}, "image input .* got images"),
        ({"output0": (1, 6, CELLS)}, {"image_shape": (1, 1, *SIZE)}, "image input"),
        ({"output0": (1, 6, CELLS)}, {"image_shape": (1, 4)}, "inputs of .* expected one image"),
        ({"output0": (1, 6, CELLS)}, {"more_inputs": {"im_shape": (FLOAT, (1, 2))}}, "inputs of .* im_shape"),
    ],
)
def test_what_is_no_detector_is_refused(outputs: dict, parts: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        OnnxDetector(plain(tmp_path / "d.onnx", outputs, **parts))
    assert "expected" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_class_that_the_detector_lacks_is_refused(tmp_path: Path) -> None:
    path = queries(tmp_path / "d.onnx", ("pred_boxes", "logits"), 3, 0, False)
    with pytest.raises(ConfigError, match="expected one of its classes, got 5 of 3"):
        OnnxDetector(path, DetectorConfig(person_class=5))
    with pytest.raises(ConfigError, match="expected one of its classes, got 5 of 2"):
        OnnxDetector(table(tmp_path / "t.onnx", answers((1, 1, 1, 1, 0, 0))), DetectorConfig(person_class=5))


@pytest.mark.parametrize("content", [b"", b"no ONNX at all", None])
def test_a_broken_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = table(tmp_path / "d.onnx", answers((1, 1, 1, 1, 0)))
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(EngineError, match=f"cannot load the detector {re.escape(str(path))}"):
        OnnxDetector(path)


def test_nan_is_an_error_and_the_next_call_works(tmp_path: Path) -> None:
    b = Builder()
    mean = b("ReduceMean", b.cast("images", "float32"), axes=[0, 1, 2, 3], keepdims=0)
    score = b("Sqrt", b("Sub", b.constant(0.5), mean))  # of the negative, for a bright image
    row = b("Concat", b.constant([10.0, 10, 30, 30]), b.reshape(score, 1), b.constant([0.0]), axis=0)
    b.reshape(row, 1, 1, 6, name="output0")
    detector = OnnxDetector(save(tmp_path / "d.onnx", b, SHAPE, {"output0": (FLOAT, (1, 1, 6))}))
    with pytest.raises(EngineError, match="not finite"):
        detector.detect(np.full((40, 60, 3), 255, np.uint8))
    assert len(detector.detect(np.zeros((40, 60, 3), np.uint8))) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"min_score": 0.0}, {"nms_iou": 1.5}, {"family": "ssd"}, {"normalise": "yes"}, {"input_size": 100}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DetectorConfig(**wrong)


def test_the_choice_of_a_detector(tiny_bundle: Bundle, tmp_path: Path) -> None:
    assert open_detector("none", tiny_bundle) is None
    assert open_detector("auto", tiny_bundle) is None, "the tiny bundle has no finder"
    detector = open_detector(str(rows(sight(tmp_path / "d.onnx", 1), "image")), tiny_bundle, 1, DetectorConfig(0.7))
    assert detector is not None and len(detector.detect(image())) == 1
    detector.close()
    with pytest.raises(ConfigError, match=r"detector: expected auto, none, or an ONNX file, got '/no/file.onnx'"):
        open_detector("/no/file.onnx", tiny_bundle)


def test_every_input_type_has_a_graph() -> None:
    from metro_ros.core.detectors.graph import TYPES

    assert len(TYPES) == len(ELEMENTS)
