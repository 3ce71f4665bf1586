"""The whole evaluation from the command line, on little datasets laid out as they are published."""

import base64
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny_bundle import person_image

from metro_ros.core.bundle import Bundle
from metro_ros.core.skeleton import J14
from training.datasets.metro_tsv import J24_NAMES
from training.evaluate import main


def jpeg(hand: bool = False) -> bytes:
    written, encoded = cv2.imencode(".jpg", person_image(224, 224, (112, 112), 150, hand=hand))
    assert written
    return encoded.tobytes()


def evaluate(bundle: Bundle, *words: object) -> int:
    return main([str(word) for word in ("--bundle", bundle.path, "--engine", "onnxruntime", *words)])


def write_tsv(folder: Path, bundle: Bundle) -> Path:
    """Three rows of METRO's: the tiny body, one with an ankle 14 mm off, and damage; linelist turns them round."""
    joints = bundle.joint_regressor @ bundle.template
    j24 = np.ones((24, 4))
    for place, name in enumerate(J24_NAMES):
        if name in bundle.skeleton.names:
            j24[place, :3] = joints[bundle.skeleton.index(name)]
    off = j24.copy()
    off[J14.index("R_Ankle"), 0] += 0.014
    labels = [
        {"center": [112, 112], "scale": 0.9, "2d_joints": np.zeros((24, 3)).tolist(), "has_2d_joints": 1,
         "3d_joints": points.tolist(), "has_3d_joints": 1, "pose": [0] * 72, "betas": [0] * 10, "has_smpl": 0}
        for points in (j24, off)
    ]  # fmt: skip
    picture = base64.b64encode(jpeg()).decode()
    rows = [("a", json.dumps([labels[0]]), picture), ("b", json.dumps([labels[1]]), picture), ("c", "{", picture)]
    (folder / "test.label.tsv").write_text("".join(f"{key}\t{label}\n" for key, label, _ in rows))
    (folder / "test.img.tsv").write_text("".join(f"{key}\t{image}\n" for key, _, image in rows))
    (folder / "valid.linelist.tsv").write_text("2\n1\n0\n")
    names = {"img": "test.img.tsv", "label": "test.label.tsv", "linelist": "valid.linelist.tsv"}
    (folder / "valid.protocol2.yaml").write_text(yaml.safe_dump(names))
    return folder / "valid.protocol2.yaml"


@pytest.mark.parametrize("protocol", ["h36m", "3dpw"])
def test_metros_own_files(
    tiny_bundle: Bundle, tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = write_tsv(tmp_path, tiny_bundle), tmp_path / "report.json"
    assert evaluate(tiny_bundle, "--protocol", protocol, "--data", path, "--json", report) == 0
    figures = json.loads(report.read_text())
    assert (figures["samples"], figures["unusable"]) == (2, 1)
    assert figures["mpjpe_mm"] == pytest.approx(0.5, abs=1e-3) and figures["mpvpe_mm"] is None
    assert figures["protocol"] == protocol and figures["bundle"] == "tiny" and figures["crop_style"] == "paper"
    assert "left out row 0" in capsys.readouterr().err


def write_freihand(folder: Path, bundle: Bundle, count: int = 2) -> Path:
    """The evaluation set of a hand 1.3 times as large as the tiny network's, half a metre away."""
    joints = 1.3 * (bundle.joint_regressor @ bundle.template) + np.array((0, 0, 0.5))
    (folder / "evaluation" / "rgb").mkdir(parents=True)
    for row in range(count):
        (folder / "evaluation" / "rgb" / f"{row:08d}.jpg").write_bytes(jpeg(hand=True))
    for name, value in (("K", [[500, 0, 112], [0, 500, 112], [0, 0, 1]]), ("xyz", joints.tolist()),
                        ("verts", np.zeros((778, 3)).tolist())):  # fmt: skip
        (folder / f"evaluation_{name}.json").write_text(json.dumps([value] * count))
    return folder


def test_freihands_published_files(hand_bundle: Bundle, tmp_path: Path) -> None:
    folder, report = write_freihand(tmp_path, hand_bundle), tmp_path / "report.json"
    words = ("--protocol", "freihand", "--data", folder, "--json", report, "--tta", "--crop-style", "smooth")
    assert evaluate(hand_bundle, *words) == 0
    figures = json.loads(report.read_text())
    assert figures["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-3) and figures["mpjpe_mm"] > 5
    assert figures["mesh_truth"] == {"another body": 2} and figures["f_5mm"] is None
    assert figures["tta"] is True and figures["crop_style"] == "smooth" and figures["dataset"] == "FreiHAND/evaluation"


def write_3dpw(folder: Path) -> Path:
    """One person in two frames, straight before the camera, its pose all zero."""
    (folder / "imageFiles" / "walk").mkdir(parents=True)
    (folder / "sequenceFiles" / "test").mkdir(parents=True)
    for frame in range(2):
        (folder / "imageFiles" / "walk" / f"image_{frame:05d}.jpg").write_bytes(jpeg())
    joints = np.random.RandomState(0).uniform(-0.3, 0.3, (2, 72))
    sequence = {
        "poses": [np.zeros((2, 72))],
        "jointPositions": [joints + np.tile((0, 0, 3), 24)],
        "betas": [np.zeros(10)],
        "campose_valid": [np.ones(2, int)],
        "cam_poses": np.tile(np.eye(4), (2, 1, 1)),
        "cam_intrinsics": np.array(((300.0, 0, 112), (0, 300, 112), (0, 0, 1))),
    }
    (folder / "sequenceFiles" / "test" / "walk.pkl").write_bytes(pickle.dumps(sequence, protocol=2))
    return folder


def write_smpl(path: Path, bundle: Bundle) -> Path:
    """A body model of SMPL's 24 joints whose zero pose is the tiny network's mesh, one vertex 258 mm off."""
    mesh = bundle.template.astype(np.float64)
    mesh[np.flatnonzero((bundle.joint_regressor == 0).all(axis=0))[0]] += (0.258, 0, 0)
    count = len(mesh)
    np.savez(
        path,
        v_template=mesh,
        shapedirs=np.zeros((count, 3, 10)),
        posedirs=np.zeros((count, 3, 9 * 23)),
        J_regressor=np.eye(24, count),
        weights=np.eye(24)[np.zeros(count, int)],
        kintree_table=np.array([[-1, *range(23)], range(24)]),
        f=bundle.faces[-1],
    )
    return path


def test_3dpws_published_files_take_their_truth_from_the_body_model(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, smpl, report = (
        write_3dpw(tmp_path),
        write_smpl(tmp_path / "smpl.npz", tiny_bundle),
        tmp_path / "report.json",
    )
    regressor = np.zeros((17, 258))
    regressor[0] = tiny_bundle.joint_regressor[tiny_bundle.skeleton.index("Pelvis")]
    np.save(tmp_path / "h36m.npy", regressor)
    words = ("--protocol", "3dpw", "--data", folder, "--json", report)
    assert evaluate(tiny_bundle, *words) == 2
    assert "need --mesh-model" in capsys.readouterr().err
    assert evaluate(tiny_bundle, *words, "--mesh-model", smpl, "--h36m-regressor", tmp_path / "h36m.npy") == 0
    figures = json.loads(report.read_text())
    assert figures["mpvpe_mm"] == pytest.approx(1.0, abs=1e-3) and figures["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert figures["joint_truth"] == {"mesh": 2} and figures["mesh_truth"] == {"body model": 2}
    assert figures["root"] == "its own regressor"


def test_human36m_is_a_yaml(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tiny_bundle, "--protocol", "h36m", "--data", tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("evaluate: the data of protocol h36m: expected the .yaml") and "\n" not in error


def test_options_reach_the_evaluation(
    tiny_bundle: Bundle, hand_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ask for what these sets and models do not have."""
    path = write_tsv(tmp_path, tiny_bundle)
    assert evaluate(tiny_bundle, "--protocol", "h36m", "--data", path, "--regress-truth") == 2
    assert "nothing to compare with" in capsys.readouterr().err
    folder, submission = write_freihand(tmp_path / "hands", hand_bundle), tmp_path / "pred.json"
    assert evaluate(hand_bundle, "--protocol", "freihand", "--data", folder, "--submission", submission) == 2
    assert "778 vertices, got 258" in capsys.readouterr().err
