"""Photographs labelled by keypoints: the similarity is COCO's, pairs are one to one, and damaged files are named."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_bundle import make_tiny_bundle, person_image

from metro_ros.core.camera import Camera
from metro_ros.core.engines import open_engine
from metro_ros.core.errors import SourceError
from metro_ros.core.estimator import Estimator
from training.datasets.sample import SampleError
from training.evaluate_photographs import (
    JOINTS,
    Labelled,
    compare,
    labelled_people,
    main,
    similarity,
    summary,
)

POINTS = np.random.RandomState(0).uniform(100, 300, (12, 2))


def labelled(points: np.ndarray = POINTS, area: float = 1e4, asked: bool = True) -> Labelled:
    return Labelled(points, area, np.array((90.0, 90.0, 310.0, 310.0)), asked)


def test_similarity_is_of_the_labelled_joints_by_their_own_tolerance() -> None:
    assert similarity(POINTS, labelled()) == 1
    off = POINTS.copy()
    off[JOINTS.index("L_Wrist")] += (2 * 0.062 * 100, 0)  # one deviation, of an area of 100 by 100
    assert similarity(off, labelled()) == pytest.approx((11 + np.exp(-0.5)) / 12)
    partly = POINTS.copy()
    partly[2:] = np.nan
    assert similarity(off, labelled(partly)) == 1, "shoulders alone are labelled"
    lost = POINTS.copy()
    lost[:6] = np.nan
    assert similarity(lost, labelled()) == pytest.approx(0.5), "behind the camera"
    assert similarity(POINTS, labelled(np.full((12, 2), np.nan))) == 0
    assert similarity(POINTS + 20, labelled(area=4e4)) > similarity(POINTS + 20, labelled())


def test_pairs_are_one_to_one_and_whom_nobody_asks_for_counts_neither_way() -> None:
    near, far = labelled(), labelled(POINTS + 8)
    both = compare([POINTS, POINTS + 8], [far, near])
    assert both.similarities == [1, 1] and both.found == 2 and not both.wrong
    one = compare([POINTS], [near, far])
    assert sorted(one.similarities) == [0, 1], "one person is not found twice"
    wrong = compare([POINTS, POINTS + 1000], [near])
    assert wrong.found == 2 and wrong.wrong == 1
    crowd = Labelled(np.full((12, 2), np.nan), 1.0, np.array((900.0, 900, 1400, 1400)), False)
    ignored = compare([POINTS, POINTS + 1000], [near, crowd])
    assert ignored.found == 1 and not ignored.wrong and ignored.similarities == [1]
    assert compare([], [near]).similarities == [0] and compare([POINTS], []).wrong == 1
    figures = summary([both, wrong, compare([], [near])])
    assert figures["people"] == 4 and figures["found"] == 0.75 and figures["precision"] == 0.75
    with pytest.raises(SourceError, match="4 labelled joints"):
        summary([compare([], [])])


def annotations(points: np.ndarray, **changes: object) -> dict:
    names = [f"{'Left' if joint[0] == 'L' else 'right'}-{joint[2:].upper()}" for joint in JOINTS]
    keypoints = np.concatenate((np.zeros((1, 3)), np.column_stack((points, np.full(12, 2))))).ravel().tolist()
    entry = {"image_id": 7, "keypoints": keypoints, "bbox": [200, 120, 240, 240], "area": 2e4, **changes}
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "nobody.png"}],
        "annotations": [entry],
        "categories": [{"keypoints": ["nose", *names]}],
    }


def test_the_command_measures_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    image = person_image(640, 480, (320, 240), 200)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    camera = Camera.nominal_for(640, 480)
    (person,) = Estimator(bundle, open_engine(bundle, "onnxruntime", threads=1))(image, camera)
    points = camera.project(person.joints)[[bundle.skeleton.index(joint) for joint in JOINTS]]
    for shift, found in ((0.0, "100.0%"), (150.0, "0.0%")):
        (tmp_path / "labels.json").write_text(json.dumps(annotations(points + shift)))
        arguments = ["--bundle", str(tmp_path / "tiny"), "--data", str(tmp_path / "labels.json"), str(tmp_path)]
        out = tmp_path / "out.json"
        assert main([*arguments, "--engine", "onnxruntime", "--json", str(out)]) == 0
        assert f"1 people in 1 photographs: similarity {1 - bool(shift)}.000, found {found}" in capsys.readouterr().out
        assert json.loads(out.read_text())["posed"] == 1 - bool(shift)


def test_damaged_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "labels.json"
    for content, error, says in (
        ({"images": []}, SourceError, "not COCO's"),
        (annotations(POINTS) | {"categories": [{"keypoints": ["nose"]}]}, SourceError, "no left_ankle, left_elbow"),
        (annotations(POINTS) | {"categories": 5}, SourceError, "no left_ankle, left_elbow"),
        (annotations(POINTS, image_id=9), SourceError, "annotation 0 .*image_id"),
        (annotations(POINTS, keypoints=[1, 2]), SampleError, "annotation 0 .*keypoints"),
        (annotations(POINTS, bbox=None), SampleError, "annotation 0 .*bbox"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(error, match=says):
            list(labelled_people(path, tmp_path))
    path.write_text(json.dumps(annotations(POINTS)))
    bundle = make_tiny_bundle(tmp_path / "tiny")
    assert main(["--bundle", str(bundle.path), "--data", str(path), str(tmp_path)]) == 2
    assert "evaluate_photographs: an image of" in capsys.readouterr().err, "the photograph is missing"
