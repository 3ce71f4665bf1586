"""The evaluation from the command line: figures on clips, in a table and as JSON, or one line of what is wrong."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tiny_bundle import make_tiny_bundle
from tiny_clip import FRAMES, write_tiny_clip

from metro_ros.core.bundle import Bundle
from metro_ros.core.clip import load_clip
from metro_ros.core.evaluation import scored_joints
from training.evaluate import main
from training.evaluate_clips import METRICS, judge_person


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


def test_how_far_confidence_can_be_believed(
    calibrated_bundle: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says 0.5 of every joint; what is right is counted here from the joints themselves."""
    picture = tmp_path / "new" / "reliability.png"
    words = [
        "--bundle",
        calibrated_bundle.path,
        "--data",
        data,
        "--json",
        tmp_path / "r.json",
        "--reliability",
        picture,
    ]
    assert main([str(word) for word in [*words, "--engine", "onnxruntime"]]) == 0
    report, told = json.loads((tmp_path / "r.json").read_text()), capsys.readouterr().out
    joints = len(scored_joints(calibrated_bundle.skeleton))
    measured = report["reliability"]
    assert measured["joints"] == 2 * FRAMES * joints and measured["mean_confidence"] == pytest.approx(0.5, abs=0.01)
    assert report["confidence_ece"] == pytest.approx(abs(measured["share_right"] - 0.5), abs=0.01)
    assert f"{report['confidence_ece']:.3f}" in told and "50 mm" in told
    image = cv2.imread(str(picture))
    assert image is not None and image.std() > 10


def test_joints_are_right_or_wrong_from_their_root(calibrated_bundle: Bundle, data: Path) -> None:
    clip, bundle = load_clip(data / "clip_0000"), calibrated_bundle
    truth = bundle.joint_regressor @ clip.vertices(3, 0)
    joints, confidence = truth + np.float32((0.3, 0, 0)), np.linspace(0, 1, 17, dtype=np.float32)
    joints[bundle.skeleton.indices(["L_Wrist", "R_Knee"])] += np.float32((0, 0.06, 0))
    person = SimpleNamespace(joints=joints, joint_confidence=confidence)
    judged, scored = judge_person(clip, 3, 0, person, bundle), scored_joints(bundle.skeleton)  # type: ignore[arg-type]
    np.testing.assert_array_equal(judged.confidence, confidence[scored])
    wrong = [bundle.skeleton.names[scored[index]] for index in np.flatnonzero(~judged.right)]
    assert sorted(wrong) == ["L_Wrist", "R_Knee"]


def test_nobody_found_is_no_diagram(calibrated_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    for path in (data / "clip_0000" / "frames").iterdir():
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path))))
    words = ["--bundle", calibrated_bundle.path, "--data", data / "clip_0000", "--reliability", tmp_path / "r.png"]
    assert main([str(word) for word in [*words, "--json", tmp_path / "r.json", "--engine", "onnxruntime"]]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["lost"] == FRAMES and "confidence_ece" not in report and not (tmp_path / "r.png").exists()


def test_a_model_without_confidence_has_no_diagram(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "plain", confidence=False)
    assert "confidence_ece" not in evaluate(bundle, data / "clip_0000", tmp_path / "report.json")
    words = ["--bundle", bundle.path, "--data", data / "clip_0000", "--reliability", tmp_path / "r.png"]
    assert main([str(word) for word in [*words, "--engine", "onnxruntime"]]) == 2
    assert "evaluate: no confidence to judge" in capsys.readouterr().err


def test_mistakes_are_one_line(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, word in (
        (["--data", tmp_path], "no labelled clips"),
        (["--data", tmp_path, "--bundle", tmp_path / "none"], "none"),
        (["--data", tmp_path, "--tta"], "--tta"),
        (["--data", tmp_path, "--h36m-regressor", "r.npy"], "--h36m-regressor"),
        (
            ["--data", tmp_path, "--protocol", "3dpw", "--reliability", "r.png"],
            "--reliability: expected --protocol clips",
        ),
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
