"""The protocols by numbers made by hand: what counts, against which truth, aligned how."""

import dataclasses

import numpy as np
import pytest
from stand_ins import make_sample
from tiny_bundle import HAND_21

from metro_ros.core.bundle import Bundle
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.skeleton import J14
from training.datasets.sample import Sample
from training.protocols import (
    FREIHAND,
    HUMAN36M,
    PROTOCOLS,
    THREEDPW,
    EvaluationProtocol,
    Regression,
    Scorer,
    summarize,
)

J24 = (*J14[:13], "Top_of_Head", "Pelvis", "Thorax", "Spine", "Jaw", "Head", "Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear")


def scorer(bundle: Bundle, protocol: EvaluationProtocol, names: tuple[str, ...] | None = None, **options) -> Scorer:  # type: ignore[no-untyped-def]
    return Scorer(protocol, Regression(bundle, protocol), names or protocol.joint_names, **options)


def body_truth(bundle: Bundle, mesh: np.ndarray, confidence: np.ndarray | None = None) -> Sample:
    """A sample with J24 of the mesh, relative to the pelvis; the joints that the bundle lacks are far off."""
    names = bundle.skeleton.names
    joints = np.full((24, 3), 9.0)
    for place, name in enumerate(J24):
        if name in names:
            joints[place] = bundle.joint_regressor[names.index(name)] @ mesh
    return make_sample(joints - joints[J24.index("Pelvis")], confidence=confidence)


def mirrored(mesh: np.ndarray) -> np.ndarray:
    return mesh * np.array((-1, 1, 1))


def bent(bundle: Bundle) -> np.ndarray:
    """The template without a plane of symmetry, so that a mirror changes it."""
    mesh = bundle.template.astype(np.float64)
    return mesh + 0.3 * np.stack([mesh[:, 1] ** 2, mesh[:, 2], mesh[:, 0] * mesh[:, 1]], axis=1)


def test_what_each_protocol_reports() -> None:
    assert list(PROTOCOLS) == ["h36m", "3dpw", "freihand"]
    assert "mpvpe_mm" not in HUMAN36M.metrics
    assert set(THREEDPW.metrics) == {"mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"}
    assert {"pa_mpjpe_mm", "pa_mpvpe_mm", "f_5mm", "f_15mm"} < set(FREIHAND.metrics)


def test_the_truth_itself_scores_nothing(tiny_bundle: Bundle) -> None:
    mesh = bent(tiny_bundle)
    score = scorer(tiny_bundle, HUMAN36M, J24)(body_truth(tiny_bundle, mesh), mesh.astype(np.float32))
    assert score.errors == {"mpjpe_mm": pytest.approx(0, abs=1e-3), "pa_mpjpe_mm": pytest.approx(0, abs=1e-3)}
    assert (score.joint_truth, score.mesh_truth) == ("dataset", "none")


def test_a_shift_is_no_error_but_one_joint_off_is_a_fourteenth(tiny_bundle: Bundle) -> None:
    mesh = bent(tiny_bundle)
    truth = body_truth(tiny_bundle, mesh + np.array((3.0, -2.0, 10.0)))
    score = scorer(tiny_bundle, HUMAN36M, J24)(truth, mesh)
    assert score.errors["mpjpe_mm"] == pytest.approx(0, abs=1e-2)
    truth.joints[0] += (0.014, 0, 0)  # an ankle
    truth.joints[13] += 5.0  # Top_of_Head is none of the fourteen
    score = scorer(tiny_bundle, HUMAN36M, J24)(truth, mesh)
    assert score.errors["mpjpe_mm"] == pytest.approx(1.0, abs=1e-2)
    assert 0.5 < score.errors["pa_mpjpe_mm"] < 3.0  # least squares spread it over all


def test_a_hip_off_moves_everything_by_half_of_it(tiny_bundle: Bundle) -> None:
    """The mid-hip goes along by a half: 13 joints are off by it, and so is the hip."""
    mesh = bent(tiny_bundle)
    truth = body_truth(tiny_bundle, mesh)
    truth.joints[2] += (0, 0.02, 0)
    score = scorer(tiny_bundle, HUMAN36M, J24)(truth, mesh)
    assert score.errors["mpjpe_mm"] == pytest.approx(10.0, abs=1e-2)


def test_procrustes_forgives_turn_and_size_but_no_mirror(tiny_bundle: Bundle) -> None:
    mesh = bent(tiny_bundle)
    turned = 1.2 * mesh @ np.array(((0, 1, 0), (-1, 0, 0), (0, 0, 1)))
    score = scorer(tiny_bundle, HUMAN36M, J24)(body_truth(tiny_bundle, mesh), turned)
    assert score.errors["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-3) and score.errors["mpjpe_mm"] > 500
    score = scorer(tiny_bundle, HUMAN36M, J24)(body_truth(tiny_bundle, mesh), mirrored(mesh))
    assert score.errors["pa_mpjpe_mm"] > 30


def test_unknown_joints_are_regressed_from_the_true_mesh(tiny_bundle: Bundle) -> None:
    mesh = bent(tiny_bundle)
    confidence = np.ones(24)
    confidence[18] = 0  # Head
    truth = body_truth(tiny_bundle, mesh, confidence)
    assert scorer(tiny_bundle, THREEDPW, J24)(truth, mesh).errors == {}
    score = scorer(tiny_bundle, THREEDPW, J24, mesh_truth=lambda sample: mesh + 4.0)(truth, mesh)
    assert (score.joint_truth, score.mesh_truth) == ("mesh", "body model")
    assert score.errors == {name: pytest.approx(0, abs=1e-6) for name in THREEDPW.metrics}
    confidence[18] = 1
    truth = body_truth(tiny_bundle, mesh, confidence)
    truth.joints[0] += (0.014, 0, 0)
    for regress, source, error in ((False, "dataset", 1.0), (True, "mesh", 0.0)):
        score = scorer(tiny_bundle, THREEDPW, J24, mesh_truth=lambda sample: mesh, regress_truth=regress)(truth, mesh)
        assert score.joint_truth == source and score.errors["mpjpe_mm"] == pytest.approx(error, abs=1e-2)


def test_each_mesh_is_relative_to_its_own_root(tiny_bundle: Bundle) -> None:
    """By its own regressor where there is one, else the hips' mean: a vertex off by 258 mm that is root or is not."""
    mesh = bent(tiny_bundle)
    free = int(np.flatnonzero((tiny_bundle.joint_regressor == 0).all(axis=0))[0])
    moved = mesh.copy()
    moved[free] += (0.258, 0, 0)
    sample = make_sample(joint_count=14, vertices=mesh)
    assert scorer(tiny_bundle, THREEDPW)(sample, moved).errors["mpvpe_mm"] == pytest.approx(1.0, abs=1e-3)
    row = np.zeros(258, np.float32)
    row[free] = 1
    regression = Regression(tiny_bundle, THREEDPW, row)
    assert regression.root_source == "its own regressor"
    score = Scorer(THREEDPW, regression, J14)(sample, moved)
    assert score.errors["mpvpe_mm"] == pytest.approx(257.0, abs=1e-2)  # 257 vertices are 258 mm off, one is right
    assert score.errors["mpjpe_mm"] == pytest.approx(0, abs=1e-3)  # the hips cancel the root
    assert "R_Hip and L_Hip" in Regression(tiny_bundle, THREEDPW).root_source


def test_the_datasets_own_mesh_comes_first_and_another_body_does_not_count(tiny_bundle: Bundle) -> None:
    mesh = bent(tiny_bundle)
    own = make_sample(vertices=mesh)
    score = scorer(tiny_bundle, THREEDPW, mesh_truth=lambda sample: 2 * mesh)(own, mesh)
    assert score.mesh_truth == "dataset" and score.errors["mpvpe_mm"] == pytest.approx(0, abs=1e-3)
    score = scorer(tiny_bundle, THREEDPW)(make_sample(vertices=mesh[:100]), mesh)
    assert score.mesh_truth == "another body" and "mpvpe_mm" not in score.errors
    with pytest.raises(SourceError, match=r"true mesh of sample.*expected \(258, 3\).*got \(100, 3\)"):
        scorer(tiny_bundle, THREEDPW, mesh_truth=lambda sample: mesh[:100])(make_sample(), mesh)


def hand_truth(bundle: Bundle, mesh: np.ndarray) -> Sample:
    joints = bundle.joint_regressor.astype(np.float64) @ mesh
    return make_sample(joints - joints[0], vertices=mesh)


def test_a_hand_is_measured_from_the_wrist_and_after_procrustes(hand_bundle: Bundle) -> None:
    mesh = bent(hand_bundle)
    score = scorer(hand_bundle, FREIHAND)(hand_truth(hand_bundle, mesh + 0.5), mesh)
    perfect = dict.fromkeys(("pa_mpvpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "mpjpe_mm"), pytest.approx(0, abs=1e-3))
    assert score.errors == {**perfect, "f_5mm": 1.0, "f_15mm": 1.0}
    turned = 1.1 * mesh @ np.array(((0, 1, 0), (-1, 0, 0), (0, 0, 1)))
    score = scorer(hand_bundle, FREIHAND)(hand_truth(hand_bundle, mesh), turned)
    assert score.errors["pa_mpvpe_mm"] == pytest.approx(0, abs=1e-3) and score.errors["f_5mm"] == 1.0
    assert score.errors["mpvpe_mm"] > 20 and score.errors["mpjpe_mm"] > 20


def test_joints_and_vertices_are_aligned_each_for_themselves(hand_bundle: Bundle) -> None:
    """A vertex that no joint is made of spoils the mesh alone."""
    mesh = bent(hand_bundle)
    moved = mesh.copy()
    moved[int(np.flatnonzero((hand_bundle.joint_regressor == 0).all(axis=0))[0])] += 0.1
    score = scorer(hand_bundle, FREIHAND)(hand_truth(hand_bundle, mesh), moved)
    assert score.errors["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert score.errors["pa_mpvpe_mm"] > 0.3 and score.errors["f_15mm"] < 1


def test_a_model_without_the_joints_is_refused(tiny_bundle: Bundle, hand_bundle: Bundle) -> None:
    for bundle, protocol in ((tiny_bundle, FREIHAND), (hand_bundle, HUMAN36M)):
        with pytest.raises(ConfigError, match=f"protocol {protocol.name}.*Hands are measured by freihand"):
            Regression(bundle, protocol)
    with pytest.raises(ConfigError, match=r"root regressor: expected \(258,\), got \(6890,\)"):
        Regression(tiny_bundle, HUMAN36M, np.zeros(6890))


def test_joints_are_matched_by_name_on_both_sides(hand_bundle: Bundle) -> None:
    order = np.random.RandomState(0).permutation(21)
    shuffled = dataclasses.replace(
        hand_bundle,
        skeleton=dataclasses.replace(HAND_21, names=tuple(HAND_21.names[i] for i in order), parents=(-1,) * 21),
        joint_regressor=hand_bundle.joint_regressor[order],
    )
    mesh = bent(hand_bundle)
    sample = hand_truth(hand_bundle, mesh)
    back = make_sample(sample.joints[::-1], vertices=mesh)
    score = scorer(shuffled, FREIHAND, HAND_21.names[::-1])(back, mesh)
    assert score.errors["mpjpe_mm"] == pytest.approx(0, abs=1e-3)


def test_means_are_over_the_samples_that_have_a_truth(tiny_bundle: Bundle) -> None:
    mesh = bent(tiny_bundle)
    score = scorer(tiny_bundle, THREEDPW, J24)
    off = body_truth(tiny_bundle, mesh)
    off.joints[0] += (0.028, 0, 0)
    scores = [score(sample, mesh) for sample in (body_truth(tiny_bundle, mesh), off, make_sample(joint_count=24))]
    result = summarize(THREEDPW, scores, unusable=4)
    assert (result.samples, result.unusable) == (3, 4)
    assert result.figures["mpjpe_mm"] == pytest.approx(1.0, abs=1e-2) and result.figures["mpvpe_mm"] is None
    assert result.joint_truth == {"dataset": 2, "none": 1} and result.mesh_truth == {"none": 3}
    with pytest.raises(SourceError, match=r"nothing to evaluate.*5 unusable rows"):
        summarize(THREEDPW, [], 5)
