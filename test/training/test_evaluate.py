"""The evaluation from the command line: figures on clips, in a table and as JSON, or one line of what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_clip import FRAMES, write_tiny_clip

from metro_ros.core.bundle import Bundle
from training.evaluate import main
from training.evaluate_clips import METRICS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two equal clips."""
    write_tiny_clip(tmp_path / "data" / "clip_0000")
    shutil.copytree(tmp_path / "data" / "clip_0000", tmp_path / "data" / "clip_0001")
    return tmp_path / "data"


def evaluate(bundle: Bundle, data: Path, report: Path) -> dict:
    words = ["--bundle", bundle.path, "--data", data, "--json", report, "--engine", "onnxruntime"]
    assert main([str(word) for word in words]) == 0
    return json.loads(report.read_text())


def test_every_clip_and_their_mean(
    tiny_bundle: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluate(tiny_bundle, data, tmp_path / "new" / "report.json")
    assert report["frames"] == 2 * FRAMES and report["lost"] == 0
    assert report["mpjpe_mm"] < 60 and report["silhouette_iou"] > 0.7  # the tiny network knows its ellipsoid
    first, second = report["clips"]["clip_0000"], report["clips"]["clip_0001"]
    assert first == second and {name: first[name] for name in METRICS} == {
        name: pytest.approx(report[name]) for name in METRICS
    }
    assert (report["recall"], report["precision"], report["mota"], report["idf1"]) == (1, 1, 1, 1)
    assert (report["id_switches"], report["clips_kept"], first["clips_kept"]) == (0, 2, 1)
    table = capsys.readouterr().out
    assert "ids kept in 2 of 2 clips" in table and "MOTA" in table
    assert "clip_0001" in table and f"{report['pa_mpjpe_mm']:.1f}" in table


def test_one_clip_by_its_own_folder(tiny_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    assert evaluate(tiny_bundle, data / "clip_0000", tmp_path / "report.json")["frames"] == FRAMES


def test_a_wrong_truth_shows(tiny_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    """The body of the truth moved by half a metre: joints are compared from the hips, the silhouette is not."""
    before = evaluate(tiny_bundle, data / "clip_0000", tmp_path / "before.json")
    path = data / "clip_0000" / "truth.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["bone_transforms"][..., 0, 3] += 0.5
    np.savez(path, **arrays)
    after = evaluate(tiny_bundle, data / "clip_0000", tmp_path / "after.json")
    assert after["mpjpe_mm"] == pytest.approx(before["mpjpe_mm"], abs=1e-3)
    assert after["silhouette_iou"] < 0.6 * before["silhouette_iou"]


def test_mistakes_are_one_line(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, word in (
        (["--data", tmp_path], "no labelled clips"),
        (["--data", tmp_path, "--bundle", tmp_path / "none"], "none"),
        (["--data", tmp_path, "--tta"], "--tta"),
        (["--data", tmp_path, "--h36m-regressor", "r.npy"], "--h36m-regressor"),
    ):
        assert main([str(each) for each in ["--bundle", tiny_bundle.path, *words]]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("evaluate: ") and word in lines[0]


def test_a_report_that_cannot_be_written_is_one_line(
    tiny_bundle: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", tiny_bundle.path, "--data", data / "clip_0000", "--json", tmp_path, "--engine", "onnxruntime"]
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert "all frames" in captured.out and f"evaluate: cannot write {tmp_path}" in captured.err
