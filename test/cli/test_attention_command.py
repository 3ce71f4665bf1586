"""`metro-ros attention`: a picture for a joint, and one line for every kind of mistake."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_attention import add_tiny_attention, spread_attention
from tiny_bundle import make_tiny_bundle

from metro_ros.cli import attention as command
from metro_ros.cli import main
from metro_ros.core.bundle import Bundle
from metro_ros.core.crop import Box

WORDS = ("--engine", "onnxruntime", "--size", "200")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("attention") / "tiny")
    return add_tiny_attention(bundle, spread_attention(bundle, {6: 13, 5: 0}))


@pytest.fixture
def draw(bundle: Bundle, clip: Path, tmp_path: Path) -> Callable[..., np.ndarray]:
    """Runs the command on the clip; returns the picture."""

    def call(*words: object) -> np.ndarray:
        output = tmp_path / "new" / "view.png"
        arguments = ["attention", clip, "--bundle", bundle.path, "--output", output, *WORDS, *words]
        assert main([str(word) for word in arguments]) == 0
        picture = cv2.imread(str(output))
        assert picture is not None
        return picture

    return call


def test_a_panel_for_each_joint(draw: Callable[..., np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    one = draw("--joint", "R_Wrist")
    said = capsys.readouterr().out
    assert "R_Wrist attends to Head " in said and "view.png" in said
    both = draw("--joint", "right_wrist", "left-ankle")
    np.testing.assert_array_equal(both[:, :200], one)
    assert both.shape[1] > 400 and (both[:, -200:] != one).any()
    assert "L_Ankle attends to R_Ankle " in capsys.readouterr().out
    assert (draw("--joint", "R_Wrist", "--frame", 11) != one).any(), "another frame, another picture"


def test_the_best_person_or_the_one_asked_for(
    draw: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked: list[Box] = []
    look = command.AttentionNetwork.look
    monkeypatch.setattr(command.AttentionNetwork, "look", lambda *given: looked.append(given[2]) or look(*given))
    draw("--joint", "head")
    find = command.unrelated

    def with_a_likelier_one(*given, **named):
        for view, (person,) in find(*given, **named):
            yield view, [replace(person, score=0.1), replace(person, score=0.9, box=Box(30, 30, 40))]

    monkeypatch.setattr(command, "unrelated", with_a_likelier_one)
    draw("--joint", "head")
    draw("--joint", "head", "--person", 2)
    assert looked[1] == Box(30, 30, 40) and looked[2] == looked[0]


def test_mistakes_get_one_line(
    refused: Callable[..., str], bundle: Bundle, tiny_bundle: Bundle, clip: Path, tmp_path: Path
) -> None:
    def said(*words: object, source: object = clip, path: Path = bundle.path) -> str:
        output = tmp_path / "view.png"
        return refused("attention", source, "--bundle", path, "--output", output, *WORDS, *words)

    line = said("--joint", "tail")
    assert "R_Ankle, R_Knee" in line and "got tail" in line
    assert "python -m training.export --attention" in said("--joint", "head", path=tiny_bundle.path)
    assert "--person 1 to 1" in said("--joint", "head", "--person", 2)
    assert "--person 1 to 1" in said("--joint", "head", "--person", 0)
    assert "ends before frame 12" in said("--joint", "head", "--frame", 12)
    assert "0 or more" in said("--joint", "head", "--frame", -1)
    assert "side_px" in said("--joint", "head", "--size", 5)
    assert "no source" in said("--joint", "head", source=tmp_path / "none.png")
    assert "cannot write" in said("--joint", "head", "--output", tmp_path / "view.what")
    cv2.imwrite(str(tmp_path / "dark.png"), np.zeros((60, 80, 3), np.uint8))
    assert "nothing found" in said("--joint", "head", source=tmp_path / "dark.png")
    assert not (tmp_path / "view.png").exists()
