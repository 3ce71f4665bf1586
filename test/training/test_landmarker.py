"""The teacher's squares and landmarks, with a stand-in for the network that finds coloured dots."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from metro_ros.core.errors import SourceError
from training.landmarker import LANDMARKS, SIZE, Landmarker, Square, open_network

CENTRE, AROUND, HAND = (200.0, 240.0), (260.0, 160.0), (150.0, 200.0)
"""Mid-hip, the point above the head, 100 px from it and to the right, and some landmark."""


def _image() -> np.ndarray:
    image = np.zeros((480, 400, 3), np.uint8)
    for channel, (x, y) in enumerate((CENTRE, AROUND, HAND)):
        image[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5, channel] = 255
    return image


class Dots:
    """Finds the dots, blue, green and red; nobody where it does not see all three."""

    def __init__(self, score: float = 0.95) -> None:
        self.score, self.turns = score, list[float]()

    def __call__(self, crop: np.ndarray) -> tuple[np.ndarray, float]:
        assert crop.shape == (1, SIZE, SIZE, 3) and crop.dtype == np.float32 and crop.max() <= 1
        weights = crop[0, ..., ::-1].astype(np.float64)
        rows = np.zeros((LANDMARKS, 5), np.float32)
        if not (weights > 0.3).any(axis=(0, 1)).all():
            return rows.ravel(), 0.0
        across, down = (weights.sum(axis=axis) for axis in (0, 1))
        at = np.stack([np.arange(SIZE) @ across, np.arange(SIZE) @ down], axis=1) / weights.sum(axis=(0, 1))[:, None]
        rows[[33, 34, 15], :2], rows[15, 3:] = at, (3.0, 40.0)
        self.turns.append(math.degrees(math.atan2(at[1, 0] - at[0, 0], at[0, 1] - at[1, 1])))
        return rows.ravel(), self.score


def test_landmarks_are_in_pixels_of_the_image_and_the_square_turns_with_the_person() -> None:
    network = Dots()
    found = Landmarker(network)(_image(), Square(190.0, 230.0, 300.0, 0.0))
    assert found is not None
    np.testing.assert_allclose(found.points[[33, 34, 15]], (CENTRE, AROUND, HAND), atol=0.5)
    assert found.visible[15] == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-4) and found.visible[0] == 0.5
    assert found.score == pytest.approx(0.95)
    assert network.turns[0] == pytest.approx(math.degrees(math.atan2(60, 80)), abs=1)
    assert np.abs(network.turns[1:]).max() < 1


def test_a_large_square_loses_nothing() -> None:
    large = np.asarray(cv2.resize(_image(), None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST), np.uint8)
    found = Landmarker(Dots())(large, Square(1200.0, 1400.0, 2000.0, 0.3))
    assert found is not None
    np.testing.assert_allclose((found.points[33] + 0.5) / 6 - 0.5, CENTRE, atol=0.5)


@pytest.mark.parametrize(
    ("score", "start"),
    [(0.79, Square(190.0, 230.0, 300.0, 0.0)), (0.95, Square(50.0, 50.0, 60.0, 0.0))],
    ids=["unsure", "nobody there"],
)
def test_nobody(score: float, start: Square) -> None:
    assert Landmarker(Dots(score))(_image(), start) is None


def test_answers_that_are_no_numbers_are_nobody() -> None:
    def broken(crop: np.ndarray) -> tuple[np.ndarray, float]:
        return np.full(5 * LANDMARKS, np.nan, np.float32), 1.0

    assert Landmarker(broken)(_image(), Square(190.0, 230.0, 300.0, 0.0)) is None


def test_the_network_needs_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    module = ModuleType("ai_edge_litert.interpreter")

    class Interpreter:
        def __init__(self, path: str, num_threads: int) -> None:
            raise ValueError("Mmap of file failed")

    module.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    with pytest.raises(SourceError, match="no such file"):
        open_network(tmp_path / "none.tflite")
    (tmp_path / "text.tflite").write_text("no network")
    with pytest.raises(SourceError, match=r"pose_landmark_full\.tflite.*Mmap of file failed"):
        open_network(tmp_path / "text.tflite")
