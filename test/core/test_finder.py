"""The bundle's person finder: boxes land on their pixels whatever the image's shape, and nonsense is named."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import RED_BGR, make_tiny_bundle
from tiny_finder import SCORES, add_tiny_finder, tiny_finder

from metro_ros.core.bundle import Bundle, add_part
from metro_ros.core.errors import BundleError, ConfigError, EngineError, ImageError
from metro_ros.core.finder import Finder, FinderConfig, open_finder
from metro_ros.core.letterbox import letterbox


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return add_tiny_finder(make_tiny_bundle(tmp_path_factory.mktemp("finder") / "bundle"))


@pytest.fixture(params=["openvino", "onnxruntime"])
def finder(request: pytest.FixtureRequest, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Finder:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="needs OpenVINO")
    else:
        monkeypatch.setitem(sys.modules, "openvino", None)  # as where it is not installed
    opened = open_finder(bundle, threads=1)
    assert opened is not None and opened.engine == request.param
    return opened


def _image(width: int, height: int, box: tuple[int, int, int, int], value: int = 255) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = value
    return image


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (64, 48, (10, 12, 20, 40)),  # the network's own size
        (640, 480, (100, 120, 200, 400)),  # ten times it
        (640, 240, (100, 40, 200, 200)),  # wide: bars above and below
        (240, 480, (40, 80, 140, 400)),  # upright: bars beside
        (32, 24, (4, 6, 10, 20)),  # enlarged
        (64, 48, (0, 0, 64, 48)),  # all of it
        (1000, 16, (500, 0, 700, 16)),
        (16, 1000, (0, 100, 16, 900)),
        (333, 517, (30, 50, 150, 460)),
    ],
)
def test_boxes_lie_on_their_pixels(finder: Finder, width: int, height: int, box: tuple[int, int, int, int]) -> None:
    found = finder.detect(_image(width, height, box))
    assert len(found) == 1  # the neighbouring peak is the same person, the faint one nobody
    pixel = max(width / 64, height / 48)  # a pixel of the network, in the image
    # A pixel's centre is at its integer: its left edge is half a pixel before.
    np.testing.assert_allclose(found.boxes[0], np.array(box) - 0.5, atol=1.01 * max(pixel, 1))
    if width % 64 == height % 48 == 0:
        np.testing.assert_allclose(found.boxes[0], np.array(box) - 0.5, atol=1e-3)
    assert found.scores[0] == pytest.approx(1.0)


def test_a_letterbox_is_as_large_as_fits() -> None:
    assert letterbox(640, 240, 64, 48) == ((0.1, 0.1), (0, 12), (64, 24))
    assert letterbox(240, 480, 64, 48) == ((0.1, 0.1), (20, 0), (24, 48))
    assert letterbox(100000, 16, 64, 48).size == (64, 1)


def test_nobody_is_found_in_the_dark(finder: Finder) -> None:
    assert len(finder.detect(np.zeros((48, 64, 3), np.uint8))) == 0


def test_boxes_are_clipped_to_the_image(bundle: Bundle) -> None:
    finder = open_finder(bundle, config=FinderConfig(min_score=0.1))
    assert finder is not None
    found = finder.detect(_image(640, 240, (100, 40, 200, 200)))
    np.testing.assert_allclose(found.boxes[1], [-0.5, -0.5, 639.5, 239.5])
    np.testing.assert_allclose(found.scores, [SCORES[0], SCORES[2]], atol=1e-6)


def test_the_score_is_the_manifests_unless_one_is_given(bundle: Bundle) -> None:
    image = _image(64, 48, (10, 12, 20, 40), value=140)  # 0.55
    for config, count in ((None, 1), (FinderConfig(min_score=0.6), 0), (FinderConfig(min_score=0.0, nms_iou=1.0), 3)):
        finder = open_finder(bundle, threads=1, config=config)
        assert finder is not None and len(finder.detect(image)) == count
    with pytest.raises(ConfigError, match="min_score"):
        FinderConfig(min_score=1.5)


def test_what_is_not_finite_is_named_and_passes(finder: Finder) -> None:
    image = _image(64, 48, (10, 12, 20, 40))
    broken = image.copy()
    broken[0, 0] = RED_BGR
    with pytest.raises(EngineError, match="not finite"):
        finder.detect(broken)
    assert len(finder.detect(image)) == 1


def test_colours_come_in_the_networks_order(finder: Finder) -> None:
    blue = _image(64, 48, (10, 12, 20, 40))
    blue[0, 0] = RED_BGR[::-1]  # were channels swapped, it would read red
    assert len(finder.detect(blue)) == 1


def test_what_is_no_image_is_refused(finder: Finder) -> None:
    for wrong in (np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.float32), np.zeros((0, 64, 3), np.uint8)):
        with pytest.raises(ImageError):
            finder.detect(wrong)


def test_a_bundle_without_one_has_none(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    assert open_finder(bundle) is None
    with pytest.raises(BundleError, match="finder"):
        Finder(bundle)


@pytest.mark.parametrize("missing", ["openvino", None])
def test_a_graph_that_is_no_finder_is_refused(
    tmp_path: Path, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    bundle = make_tiny_bundle(tmp_path / "bundle")
    details = {"width": 64, "height": 48, "score": 0.5}
    for model, expected, error in (
        (tiny_finder(64, 48, ("squares", "scores")).SerializeToString(), "outputs of", BundleError),
        (tiny_finder(48, 64).SerializeToString(), r"inputs of .*uint8 \(N, 48, 64, 3\)", BundleError),
        (tiny_finder(64, 48, ("scores", "boxes")).SerializeToString(), r"boxes \(1, K, 4\)", BundleError),
        (b"no graph at all", "cannot load", EngineError),
    ):
        with pytest.raises(error, match=expected):
            open_finder(add_part(bundle, "finder", model, details))


@pytest.mark.parametrize("wrong", [{"width": "64"}, {"height": 0}, {"score": None}, {"score": float("inf")}])
def test_details_that_are_none_are_refused(tmp_path: Path, wrong: dict) -> None:
    details = {"width": 64, "height": 48, "score": 0.5, **wrong}
    bundle = add_part(make_tiny_bundle(tmp_path / "bundle"), "finder", tiny_finder(64, 48).SerializeToString(), details)
    with pytest.raises(BundleError, match="details"):
        open_finder(bundle)
