"""`metro-ros run`: pictures and JSON from every kind of source, one line for every kind of mistake."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from detector_graphs import save_certain
from tiny_bundle import person_image

from metro_ros.cli import main
from metro_ros.cli import run as run_module
from metro_ros.cli.sources import Frame, Source, open_source
from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import Output
from metro_ros.core.engines.onnxruntime import OnnxRuntimeEngine


@pytest.fixture
def run(tiny_bundle: Bundle, tmp_path: Path) -> Callable[..., dict]:
    """Runs the command on a source; returns people.json."""

    def call(source: Path, *words: object, code: int = 0) -> dict:
        output = tmp_path / "out"
        arguments = ["run", source, "--bundle", tiny_bundle.path, "--output", output, "--engine", "onnxruntime", *words]
        assert main([str(word) for word in arguments]) == code
        return json.loads((output / "people.json").read_text())

    return call


def test_an_image_gives_an_overlay_and_metres(
    run: Callable[..., dict], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = clip / "frames" / "000.png"
    result = run(image)
    (frame,) = result["frames"]
    (person,) = frame["people"]
    assert np.array(person["joints"]).shape == (len(result["joint_names"]), 3)
    assert person["translation"][2] > 1 and person["translation_source"] == "nominal"
    assert frame["camera"]["nominal"] is True
    before, after = cv2.imread(str(image)), cv2.imread(str(tmp_path / "out" / "000_overlay.png"))
    assert after.shape == before.shape and (after != before).any()
    said = capsys.readouterr().out
    assert "000.png: found" in said and "assumed field of view" in said
    assert "Limits: not stated" in said  # this model says nothing of itself


def test_a_hand_and_its_mirror_image(
    hand_bundle: Bundle, refused: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = person_image(160, 120, (100, 60), 70, hand=True)
    cv2.imwrite(str(tmp_path / "right.png"), image)
    cv2.imwrite(str(tmp_path / "left.png"), np.ascontiguousarray(image[:, ::-1]))
    found = {}
    for side, words in (("right", ()), ("left", ("--mirror",))):
        output = tmp_path / f"out_{side}"
        arguments = ["run", tmp_path / f"{side}.png", "--bundle", hand_bundle.path, "--output", output, *words]
        assert main([str(word) for word in arguments]) == 0
        found[side] = json.loads((output / "people.json").read_text())
        assert (output / f"{side}_overlay.png").is_file()
        assert found[side]["mirrored"] is (side == "left")
    right, left = (np.array(found[side]["frames"][0]["people"][0]["joints"]) for side in ("right", "left"))
    assert right.shape == (21, 3) and found["right"]["joint_names"][4] == "Thumb_4"
    assert found["right"]["frames"][0]["people"][0]["joint_confidence"] is None
    np.testing.assert_allclose(left, right * (-1, 1, 1), atol=2e-3)
    assert "right.png: found 0." in capsys.readouterr().out  # a hand of 70 px is nearer than a metre
    assert "cannot be mirrored" in refused("run", tmp_path / "left.png", "--output", tmp_path / "out", "--mirror")


def test_a_detector_says_where_to_look(run: Callable[..., dict], together: list[int], tmp_path: Path) -> None:
    two = np.maximum(*(person_image(160, 120, (column, 60), 60) for column in (40, 120)))
    (tmp_path / "two").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "two" / name), two)
    right = save_certain(tmp_path / "right.onnx", (96, 128), (86, 24, 106, 72))  # the input is 0.8 of the image
    for words in (("--sequence",), ()):
        for frame in run(tmp_path / "two", "--detector", right, *words)["frames"]:
            box = frame["people"][0]["box"]
            assert box["x"] + box["width"] / 2 == pytest.approx(120, abs=3)


def test_nobody_is_said(run: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "dark.png"), np.zeros((60, 80, 3), np.uint8))
    assert run(tmp_path / "dark.png")["frames"][0]["people"] == []
    assert "nothing found" in capsys.readouterr().out


def test_a_folder_holds_strangers_unless_it_is_a_sequence(run: Callable[..., dict], clip: Path) -> None:
    def ids(*words: str) -> list[int]:
        return [frame["people"][0]["id"] for frame in run(clip / "frames", *words)["frames"]]

    strangers = ids()
    assert len(strangers) == 12 and len(set(strangers)) == 12
    assert len(set(ids("--sequence"))) == 1


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes folders go through the network five images at once; the crops of each call."""
    calls: list[int] = []
    infer = OnnxRuntimeEngine.infer

    def counting(engine: OnnxRuntimeEngine, crops: np.ndarray) -> Output:
        calls.append(len(crops))
        return infer(engine, crops)

    monkeypatch.setattr(OnnxRuntimeEngine, "infer", counting)
    monkeypatch.setattr(run_module, "MANY_IMAGES", 1)
    monkeypatch.setattr(run_module, "best_batch", lambda engine, bundle: 5)
    return calls


def test_images_of_a_folder_share_calls_and_come_out_the_same(
    run: Callable[..., dict], clip: Path, tmp_path: Path, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(clip / "frames", folder)
    cv2.imwrite(str(folder / "0035.png"), np.zeros((60, 80, 3), np.uint8))  # of another size, and nobody there
    at_once = run(folder)
    assert max(together) == 5
    monkeypatch.setattr(run_module, "MANY_IMAGES", 1000)
    together.clear()
    assert run(folder) == at_once
    assert max(together) == 1
    together.clear()
    run(folder, "--sequence")
    assert max(together) == 1, "what follows each other in time cannot be done at once"


@pytest.mark.parametrize("damage", ["unreadable", "too small"])
def test_a_bad_image_in_a_folder_costs_none_before_it(
    run: Callable[..., dict],
    clip: Path,
    tmp_path: Path,
    together: list[int],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(clip / "frames", folder)
    if damage == "unreadable":
        (folder / "008.png").write_text("not a picture")
    else:
        cv2.imwrite(str(folder / "008.png"), np.zeros((8, 80, 3), np.uint8))
    assert [frame["index"] for frame in run(folder, code=2)["frames"]] == list(range(8))
    assert ("too small" if damage == "too small" else "cannot read the image") in capsys.readouterr().err


def test_a_clip_knows_its_camera(run: Callable[..., dict], clip: Path, tmp_path: Path) -> None:
    result = run(clip)
    assert len(result["frames"]) == 12
    assert {frame["people"][0]["translation_source"] for frame in result["frames"]} == {"camera"}
    columns = [frame["people"][0]["translation"][0] for frame in result["frames"]]
    assert np.all(np.diff(columns) > 0)  # it walks to the right
    assert result["frames"][3]["stamp"] == pytest.approx(0.1)
    video = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 12


def test_a_video_is_followed(run: Callable[..., dict], tmp_path: Path) -> None:
    path = tmp_path / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (160, 120))
    for column in range(60, 80, 2):
        writer.write(person_image(160, 120, (column, 60), 70))
    writer.release()
    frames = run(path)["frames"]
    assert len(frames) == 10 and len({frame["people"][0]["id"] for frame in frames}) == 1
    assert frames[1]["stamp"] == pytest.approx(0.1)


def test_a_calibration_and_a_field_of_view_move_people(run: Callable[..., dict], clip: Path, calibration: Path) -> None:
    def depth(*words: object) -> float:
        return run(clip / "frames" / "000.png", *words)["frames"][0]["people"][0]["translation"][2]

    assert depth("--calibration", calibration) == pytest.approx(depth() * 200 / (80 / np.tan(np.pi / 6)), rel=0.1)
    assert depth("--fov", 30) > 1.9 * depth("--fov", 60)


def test_an_interruption_keeps_what_was_done(
    run: Callable[..., dict], clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = open_source(str(clip))

    def frames() -> Iterator[Frame]:
        for frame in whole.frames():
            if frame.number == 5:
                raise KeyboardInterrupt
            yield frame

    def interrupted(text: str) -> Source:
        return replace(whole, frames=frames)

    monkeypatch.setattr(run_module, "open_source", interrupted)
    assert len(run(clip, code=130)["frames"]) == 5
    assert "before the interruption" in capsys.readouterr().out


def test_bad_sources_are_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "text.mp4").write_text("not a video")
    for source, word in (
        ("nowhere.png", "no source"),
        (tmp_path / "empty", "no images"),
        (tmp_path / "text.jpg", "cannot read the image"),
        (tmp_path / "text.mp4", "cannot open"),
    ):
        assert word in refused("run", source, "--output", tmp_path / "out")


def test_bad_settings_are_one_line(
    refused: Callable[..., str], clip: Path, tmp_path: Path, tiny_bundle: Bundle, calibration: Path
) -> None:
    image, model = clip / "frames" / "000.png", ("--bundle", tiny_bundle.path, "--output", tmp_path / "out")
    assert "--fov" in refused("run", image, *model, "--fov", 0)
    assert "which is no file" in refused("run", image, *model, "--detector", tmp_path / "none.onnx")
    assert "cannot load the detector" in refused("run", image, *model, "--detector", image)
    assert "no_bundle" in refused("run", image, "--bundle", tmp_path / "no_bundle")
    calibration.write_text(calibration.read_text().replace("image_width: 160", "image_width: 320"))
    assert "320x120" in refused("run", image, *model, "--calibration", calibration)
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("run", image, "--bundle", tiny_bundle.path, "--output", tmp_path / "file" / "x")


def test_a_damaged_bundle_is_one_line(
    refused: Callable[..., str], clip: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle.path, damaged)
    with (damaged / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "model.onnx" in refused("run", clip, "--bundle", damaged, "--output", tmp_path / "out")
