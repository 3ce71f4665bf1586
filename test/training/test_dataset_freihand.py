"""FreiHAND as published: four images a hand, one crop, everything from the wrist."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_fixtures import RED, freihand_joints, freihand_vertices, write_freihand

from metro_ros.core.crop import Box
from metro_ros.core.errors import ConfigError, SourceError
from training.datasets import json_rows
from training.datasets.freihand import FreiHand
from training.datasets.sample import SampleError
from training.mesh_spec import HAND_21_NAMES


def change_json(path: Path, change: Callable[[list[Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_four_images_a_hand(tmp_path: Path) -> None:
    data = FreiHand(write_freihand(tmp_path, hands=3))
    assert (data.name, len(data), data.joint_names) == ("FreiHAND/training", 12, HAND_21_NAMES)
    sample = data[7]  # the third image of hand 1
    assert sample.key == "FreiHAND/training/00000007" and sample.box == Box(112, 112, 180)
    assert sample.image.shape == (224, 224, 3)
    np.testing.assert_allclose(sample.image[9, 9], RED, atol=3)
    assert sample.image[-1, -1, 0] == pytest.approx(60 + 20 * 7, abs=3)  # its own image
    joints = freihand_joints(1)
    # fx x / z + cx: 480 · 0.05 / 0.7 + 112, 480 · 0.02 / 0.7 + 112
    np.testing.assert_allclose(sample.keypoints_px[20], (146.2857, 125.7143), atol=1e-3)
    np.testing.assert_allclose(sample.joints, joints - joints[0], atol=1e-6)
    assert (sample.keypoint_confidence == 1).all() and (sample.joint_confidence == 1).all() and sample.pose is None
    assert sample.vertices is not None and sample.vertices.shape == (778, 3)
    np.testing.assert_allclose(sample.vertices, freihand_vertices(joints) - joints[0], atol=1e-6)


def test_only_the_images_that_are_there(tmp_path: Path) -> None:
    assert len(FreiHand(write_freihand(tmp_path, hands=3, variants=1))) == 3


def test_evaluation_with_and_without_truth(tmp_path: Path) -> None:
    data = FreiHand(write_freihand(tmp_path / "late", split="evaluation"), "evaluation")
    assert len(data) == 2 and data[1].has_joints and data[1].vertices is not None
    data = FreiHand(write_freihand(tmp_path / "first", split="evaluation", truth=False), "evaluation")
    sample = data[1]
    assert len(data) == 2 and sample.box == Box(112, 112, 180) and sample.vertices is None
    assert not sample.has_joints and not sample.keypoint_confidence.any() and not sample.joints.any()


def test_kept_vertices_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FreiHand(write_freihand(tmp_path / "in"))
    monkeypatch.setattr(json_rows, "KEPT_FROM_BYTES", 10_000)
    kept = tmp_path / "kept"
    kept.mkdir()
    data = FreiHand(tmp_path / "in", kept_in=kept)
    assert [path.name.split(".json")[0] for path in kept.iterdir()] == [".training_verts"]
    for row in range(2):
        np.testing.assert_array_equal(data[row].vertices, plain[row].vertices)  # type: ignore[arg-type]
    assert len(pickle.dumps(data)) < 5000


@pytest.mark.parametrize("kind", ["K", "xyz", "verts"])
def test_a_damaged_hand(tmp_path: Path, kind: str) -> None:
    write_freihand(tmp_path)
    for damage in ([float("nan")], []):
        change_json(tmp_path / f"training_{kind}.json", lambda rows, damage=damage: rows.__setitem__(1, damage))
        data = FreiHand(tmp_path)
        for row in (1, 3, 5, 7):
            with pytest.raises(SampleError, match=rf"row 1 of .*training_{kind}\.json"):
                data[row]
        assert data[2].has_joints


def test_a_hand_behind_the_camera(tmp_path: Path) -> None:
    write_freihand(tmp_path)
    change_json(tmp_path / "training_xyz.json", lambda rows: rows[1][0].__setitem__(2, -0.5))
    with pytest.raises(SampleError, match=r"row 1 of .*training_xyz\.json: expected a wrist in front"):
        FreiHand(tmp_path)[1]


def test_a_damaged_or_missing_image(tmp_path: Path) -> None:
    data = FreiHand(write_freihand(tmp_path))
    first, second = (tmp_path / "training" / "rgb" / f"{number:08d}.jpg" for number in range(2))
    first.write_bytes(first.read_bytes()[:50])
    second.unlink()
    for row in range(2):
        with pytest.raises(SampleError, match=f"FreiHAND/training/0000000{row}"):
            data[row]
    assert data[2].has_joints
    for row in (-1, 8):
        with pytest.raises(IndexError):
            data[row]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"training_K\.json is missing.*FreiHAND.*Give the folder"):
        FreiHand(tmp_path)
    write_freihand(tmp_path)
    with pytest.raises(ConfigError, match="training or evaluation"):
        FreiHand(tmp_path, "test")  # type: ignore[arg-type]
    change_json(tmp_path / "training_verts.json", list.pop)
    with pytest.raises(SourceError, match=r"training_verts\.json does not fit: expected 2 hands, got 1"):
        FreiHand(tmp_path)
    (tmp_path / "training_verts.json").unlink()
    with pytest.raises(SourceError, match=r"training_verts\.json is missing"):
        FreiHand(tmp_path)
    write_freihand(tmp_path / "bare")
    (tmp_path / "bare" / "training" / "rgb" / "00000000.jpg").unlink()
    with pytest.raises(SourceError, match=r"00000000\.jpg is missing"):
        FreiHand(tmp_path / "bare")
    for kind in ("K", "xyz", "verts"):
        (tmp_path / "bare" / f"training_{kind}.json").write_text("[]")
    with pytest.raises(SourceError, match=r"training_K\.json is empty"):
        FreiHand(tmp_path / "bare")


def test_a_copy_reads_the_same(tmp_path: Path) -> None:
    data = FreiHand(write_freihand(tmp_path))
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy[5].image, data[5].image)
    np.testing.assert_array_equal(copy[5].joints, data[5].joints)
