"""The evaluation on a dataset with real little networks: every row is read, predicted, scored, and accounted for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import CompassNetwork, ListDataset, compass_image, make_sample
from tiny_bundle import BODY_17, HAND_21, person_image

from metro_ros.core.bundle import Bundle
from metro_ros.core.crop import Box
from metro_ros.core.engines import Output, open_engine
from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.sample import Sample
from training.evaluate_datasets import TITLES, evaluate_dataset
from training.predict import PlainPrediction, SampleCrop
from training.protocols import FREIHAND, HUMAN36M, THREEDPW


def body_sample(bundle: Bundle, off_m: float = 0.0, box: Box | None = None) -> Sample:
    """The body that the tiny network knows, one ankle off, and one in a picture."""
    joints = (bundle.joint_regressor @ bundle.template).astype(np.float64)
    joints[0, 0] += off_m
    return make_sample(
        joints - joints[BODY_17.names.index("Pelvis")],
        image=person_image(120, 120, (60, 60), 80)[..., ::-1].copy(),
        box=box or Box(60, 60, 100),
        vertices=bundle.template,
    )


def run(dataset: ListDataset, bundle: Bundle, protocol: Any, **options: Any) -> dict[str, Any]:
    engine = open_engine(bundle, "onnxruntime", threads=1)
    try:
        return evaluate_dataset(dataset, protocol, bundle, engine, **options)
    finally:
        engine.close()


def test_a_body_by_a_real_network(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [body_sample(tiny_bundle, 0.014 * (row % 2)) for row in range(7)]
    report = run(ListDataset(samples, BODY_17.names), tiny_bundle, THREEDPW, batch=3)
    assert report["mpjpe_mm"] == pytest.approx(3 / 7, abs=1e-3)
    assert report["mpvpe_mm"] == pytest.approx(0, abs=1e-3)
    assert report["samples"] == 7 and report["unusable"] == 0 and report["f_5mm"] is None
    assert report["joint_truth"] == {"dataset": 7} and report["root"] == "mean of R_Hip and L_Hip"
    assert set(TITLES) < set(report) and json.loads(json.dumps(report)) == report
    text = capsys.readouterr()
    assert "3DPW" in text.out and "0.4" in text.out and "true mesh from: dataset (7)" in text.out
    assert "axes of its crop" in text.out
    assert "7/7" in text.err  # the bar


def test_no_mesh_truth_is_a_dash(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    sample = dataclasses.replace(body_sample(tiny_bundle), vertices=None)
    report = run(ListDataset([sample], BODY_17.names), tiny_bundle, THREEDPW)
    assert report["mpvpe_mm"] is None
    assert capsys.readouterr().out.splitlines()[1].split()[1:4] == ["1", "0", "-"]
    assert run(ListDataset([sample], BODY_17.names), tiny_bundle, HUMAN36M)["mpvpe_mm"] is None


def test_damaged_rows_are_named_counted_and_skipped(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """One cannot be read, another's box cannot be cropped; their neighbours in the batch count."""
    huge = body_sample(tiny_bundle, 0.5, Box(60, 60, 9000))
    samples = [body_sample(tiny_bundle, 0.014), None, huge, body_sample(tiny_bundle), *[None] * 12]
    report = run(ListDataset(samples, BODY_17.names), tiny_bundle, THREEDPW, batch=4)
    assert (report["samples"], report["unusable"]) == (2, 14)
    assert report["mpjpe_mm"] == pytest.approx(0.5, abs=1e-3)
    assert [row.split(":")[0] for row in report["unusable_rows"]] == [f"row {row}" for row in (1, 2, *range(4, 12))]
    errors = capsys.readouterr().err
    assert errors.count("left out row") == 10 and "left out row 2: box for a crop" in errors
    with pytest.raises(SourceError, match="nothing to evaluate"):
        run(ListDataset([None], BODY_17.names), tiny_bundle, THREEDPW)
    with pytest.raises(SourceError, match="nothing to evaluate"):
        run(ListDataset([], BODY_17.names), tiny_bundle, THREEDPW)


def test_nothing_to_compare_with_is_told_before_the_work(tiny_bundle: Bundle) -> None:
    class Unused:
        def infer(self, crops: np.ndarray) -> Output:
            raise AssertionError("nothing should be predicted")

    dataset = ListDataset([None, *[make_sample(joint_count=14)] * 30], THREEDPW.joint_names)
    with pytest.raises(SourceError, match=r"nothing to compare with in listed.*--mesh-model"):
        evaluate_dataset(dataset, THREEDPW, tiny_bundle, Unused())
    with pytest.raises(SourceError, match="nothing to compare with"):  # it has joints, but a mesh is to give them
        run(ListDataset([dataclasses.replace(body_sample(tiny_bundle), vertices=None)], BODY_17.names), tiny_bundle,
            HUMAN36M, regress_truth=True)  # fmt: skip


def test_a_hand_by_a_real_network(hand_bundle: Bundle) -> None:
    mesh = hand_bundle.template
    joints = hand_bundle.joint_regressor @ mesh
    image = person_image(224, 224, (112, 112), 120, hand=True)[..., ::-1].copy()
    hand = make_sample(joints - joints[0], image=image, box=Box(112, 112, 180), vertices=1.3 * mesh + 0.5)
    report = run(ListDataset([hand] * 2, HAND_21.names), hand_bundle, FREIHAND, tta=True)
    assert report["pa_mpvpe_mm"] == pytest.approx(0, abs=1e-3) and report["f_5mm"] == 1.0
    assert report["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-3) and report["tta"] is True
    assert report["mpvpe_mm"] > 5 and report["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert report["root"] == "mean of Wrist"


def mano_sized(bundle: Bundle) -> Bundle:
    """The hand's bundle with as many vertices as MANO has, of which joints take the first."""
    regressor = np.zeros((21, 778), np.float32)
    regressor[:, :258] = bundle.joint_regressor
    return dataclasses.replace(bundle, levels=(66, 778), joint_regressor=regressor)


def test_a_submission_is_wrist_relative_and_in_order(hand_bundle: Bundle, tmp_path: Path) -> None:
    bundle = mano_sized(hand_bundle)
    mesh = np.random.RandomState(0).standard_normal((778, 3)).astype(np.float32)
    network = CompassNetwork(mesh + 5)
    samples = [
        make_sample(joint_count=21, image=compass_image(), box=Box(60, 60, 60)),
        make_sample(joint_count=21, image=np.rot90(compass_image()).copy(), box=Box(60, 60, 60)),
    ]
    path = tmp_path / "pred.json"
    report = evaluate_dataset(ListDataset(samples, HAND_21.names), FREIHAND, bundle, network, submission=path)
    assert report["pa_mpjpe_mm"] is None and report["joint_truth"] == {"none": 2}
    joints, vertices = (np.array(part) for part in json.loads(path.read_text()))
    np.testing.assert_allclose(joints[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(joints, bundle.joint_regressor @ vertices, atol=1e-6)
    quarter = np.array(((0, 1, 0), (-1, 0, 0), (0, 0, 1)))  # the picture turned counter-clockwise: x goes to -y
    np.testing.assert_allclose(vertices[1], vertices[0] @ quarter.T, atol=0.1)
    assert np.abs(vertices[0]).max() > 0.3
    assert (tmp_path / "pred.zip").is_file()


def test_a_submission_with_a_hole_is_refused_and_so_is_another_models(
    hand_bundle: Bundle, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    network = CompassNetwork(np.ones((778, 3), np.float32))
    hand = make_sample(joint_count=21, image=compass_image(), box=Box(60, 60, 60))
    dataset, path = ListDataset([hand, None], HAND_21.names), tmp_path / "pred.json"
    with pytest.raises(SourceError, match="every row of listed: got row 1"):
        evaluate_dataset(dataset, FREIHAND, mano_sized(hand_bundle), network, submission=path)
    with pytest.raises(ConfigError, match="778 vertices, got 258"):
        evaluate_dataset(dataset, FREIHAND, hand_bundle, network, submission=path)
    with pytest.raises(ConfigError, match="expected protocol freihand, got 3dpw"):
        evaluate_dataset(dataset, THREEDPW, tiny_bundle, network, submission=path)
    assert not list(tmp_path.iterdir())


class BlindNetwork:
    def infer(self, crops: np.ndarray) -> Output:
        """Vertices that say how bright each crop is in red and blue."""
        red, blue = crops[..., 0].mean(axis=(1, 2)), crops[..., 2].mean(axis=(1, 2))
        vertices = np.zeros((len(crops), 258, 3), np.float32)
        vertices[:, 0, 0], vertices[:, 0, 1] = red, blue
        return Output(vertices[:, :17], vertices, vertices[:, 0], None)


def test_crops_are_rgb_and_of_the_samples_own_box(tiny_bundle: Bundle) -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40, 0] = 200  # red on the left, blue on the right
    image[:, 40:, 2] = 100
    for style in ("paper", "smooth"):
        predict = PlainPrediction(BlindNetwork(), SampleCrop(16, style))  # type: ignore[arg-type]
        left, right = predict([make_sample(image=image, box=Box(x, 20, 20)) for x in (20, 60)])
        np.testing.assert_allclose(left[0], (200, 0, 0), atol=0.5)
        np.testing.assert_allclose(right[0], (0, 100, 0), atol=0.5)
