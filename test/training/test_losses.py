"""Every term against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metro_ros.core.errors import ConfigError
from training.losses import (
    BODY_WEIGHTS,
    HAND_WEIGHTS,
    LossWeights,
    MetroLosses,
    Truth,
    joint_loss,
    keypoint_loss,
    mean_over_levels,
    metro_losses,
    vertex_errors,
)
from training.mesh_spec import MeshSpec
from training.network import MetroOutput


def vertices_loss(predicted, truth, weights, has_vertices=None) -> torch.Tensor:
    return mean_over_levels(vertex_errors, predicted, truth, weights, has_vertices)


def test_vertices_are_a_weighted_mean_absolute_error_over_levels() -> None:
    predicted = (torch.full((2, 3, 3), 2.0), torch.zeros(2, 4, 3))
    truth = (torch.zeros(2, 3, 3), torch.full((2, 4, 3), -0.5))
    assert vertices_loss(predicted, truth, (0.33, 0.5)) == pytest.approx(0.33 * 2 + 0.5 * 0.5)
    assert vertices_loss((predicted[0], None), truth, (0.33, 0.5)) == pytest.approx(0.33 * 2)


def test_levels_whose_truth_is_unknown_do_not_count_but_are_reached() -> None:
    """As every process that shares a step must reach the same parameters, whatever its samples know."""
    coarse, fine = torch.full((2, 3, 3), 2.0, requires_grad=True), torch.full((2, 4, 3), 9.0, requires_grad=True)
    truth = torch.zeros(2, 3, 3)
    loss = vertices_loss((coarse, fine), (truth, None), (0.33, 0.5))
    loss.backward()
    assert loss.item() == pytest.approx(0.33 * 2)
    torch.testing.assert_close(coarse.grad, torch.full((2, 3, 3), 0.33 / 18))
    assert fine.grad is not None and torch.all(fine.grad == 0)
    assert vertices_loss((coarse, fine), (None, None), (0.33, 0.5)) == 0


def test_vertices_count_only_samples_that_have_them() -> None:
    predicted, truth = torch.zeros(3, 2, 3), torch.zeros(3, 2, 3)
    predicted[0], predicted[1], predicted[2] = 1.0, 2.0, 100.0
    assert vertices_loss((predicted,), (truth,), (1.0,), torch.tensor([1.0, 1.0, 0.0])) == pytest.approx(1.5)


def test_no_sample_gives_zero_that_differentiates() -> None:
    predicted = torch.ones(2, 2, 3, requires_grad=True)
    loss = vertices_loss((predicted,), (torch.zeros(2, 2, 3),), (1.0,), torch.zeros(2))
    loss.backward()
    assert loss == 0
    assert torch.all(predicted.grad == 0)


def test_joints_are_compared_from_their_root() -> None:
    truth = torch.randn(1, 4, 3)
    shifted = truth + torch.tensor([5.0, -3.0, 1.0])
    assert joint_loss(shifted, truth, torch.ones(1, 4), (1, 2)) == pytest.approx(0, abs=1e-10)
    predicted = truth.clone()
    predicted[0, 3, 0] += 0.6
    assert joint_loss(predicted, truth, torch.ones(1, 4), (1, 2)) == pytest.approx(0.36 / 12)
    # Joint 1 is half of the root: it moves by 0.6 - 0.3, the others by -0.3.
    predicted = truth.clone()
    predicted[0, 1, 0] += 0.6
    assert joint_loss(predicted, truth, torch.ones(1, 4), (1, 2)) == pytest.approx(4 * 0.09 / 12)


def test_joints_without_confidence_are_averaged_in_as_zero() -> None:
    truth, predicted = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    predicted[0, 0], predicted[0, 3] = 1.0, 7.0
    confidence = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert joint_loss(predicted, truth, confidence, (1, 2)) == pytest.approx(3 / 12)
    assert joint_loss(predicted, truth, confidence, (1, 2), torch.tensor([0.0])) == 0


def test_keypoints_are_not_taken_relative_to_anything() -> None:
    predicted, truth = torch.full((1, 2, 2), 0.5), torch.zeros(1, 2, 2)
    assert keypoint_loss(predicted, truth, torch.tensor([[1.0, 0.0]])) == pytest.approx(0.125)


def test_totals_weigh_as_the_paper() -> None:
    losses = MetroLosses(*(torch.tensor(value) for value in (0.1, 0.2, 0.3, 0.4, 0.5)))
    assert losses.total(BODY_WEIGHTS) == pytest.approx(1000 * 0.3 + 100 * 0.3 + 100 * 0.9)
    assert losses.total(HAND_WEIGHTS) == pytest.approx(0.3 + 0.3 + 0.9)
    assert losses.total(LossWeights(0, 2, 0, ())) == pytest.approx(0.6)


MESH = MeshSpec("two joints", ("Root", "End"), (-1, 0), (0,), (3,), np.zeros((5, 3), np.float32))
WEIGHTS = LossWeights(joints=1.0, vertices=1.0, keypoints=1.0, levels=(2.0,))


def _twice(part: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
    return tuple(_twice(p) for p in part) if isinstance(part, tuple) else torch.cat([part, part])


def make_output() -> tuple[MetroOutput, Truth, torch.Tensor]:
    """Two joints regressed as the first two of three vertices; the camera doubles."""
    joints = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    vertices = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 2.0, 0.0], [9.0, 9.0, 9.0]]])
    output = MetroOutput(torch.tensor([[2.0, 0.5, 0.0]]), joints, (vertices,), *(None,) * 5)
    truth = Truth(
        joints=joints,
        vertices=(vertices + 0.25,),
        keypoints=torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]),
        joint_confidence=torch.ones(1, 2),
        keypoint_confidence=torch.ones(1, 2),
    )
    return output, truth, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_all_terms_together() -> None:
    output, truth, regressor = make_output()
    losses = metro_losses(output, truth, mesh=MESH, weights=WEIGHTS, regressor=regressor)
    assert losses.joints == 0
    assert losses.keypoints == 0, "2 * (x + 0.5) is the projection"
    assert losses.vertices == pytest.approx(0.5)
    assert losses.regressed_joints == pytest.approx(4 / 6)
    assert losses.regressed_keypoints == pytest.approx(16 / 4)


def test_without_a_regressor_its_terms_are_zero() -> None:
    output, truth, _ = make_output()
    losses = metro_losses(output, truth, mesh=MESH, weights=WEIGHTS, regressor=None)
    assert (losses.regressed_joints, losses.regressed_keypoints) == (0, 0)


def test_a_regressor_of_no_computed_level_is_refused() -> None:
    output, truth, _ = make_output()
    with pytest.raises(ValueError, match="5 vertices"):
        metro_losses(output, truth, mesh=MESH, weights=WEIGHTS, regressor=torch.zeros(2, 5))


def test_regressed_joints_are_taken_from_their_own_root() -> None:
    """The mesh is a metre off the tokens: the 3D terms don't see it, the projection does."""
    output, truth, regressor = make_output()
    away = output._replace(vertices=(output.vertices[0] + 1.0,))
    here, there = (metro_losses(o, truth, mesh=MESH, weights=WEIGHTS, regressor=regressor) for o in (output, away))
    assert there.regressed_joints == pytest.approx(here.regressed_joints.item())
    assert there.regressed_keypoints != pytest.approx(here.regressed_keypoints.item())


def test_what_only_some_samples_have_is_averaged_over_those() -> None:
    output, truth, regressor = make_output()
    pair = MetroOutput(*(part if part is None else _twice(part) for part in output))
    wrong = pair._replace(joints=pair.joints + torch.tensor([[[0.0] * 3] * 2, [[0.0] * 3, [0.0, 0.0, 6.0]]]))
    both = Truth(*(part if part is None else _twice(part) for part in truth))
    for has, expected in ((None, 3), ([1.0, 1.0], 3), ([0.0, 1.0], 6), ([1.0, 0.0], 0), ([0.0, 0.0], 0)):
        known = both._replace(has_joints=None if has is None else torch.tensor(has))
        losses = metro_losses(wrong, known, mesh=MESH, weights=WEIGHTS, regressor=regressor)
        assert losses.joints == pytest.approx(expected)
        assert losses.regressed_joints == pytest.approx(4 / 6 if has is None or sum(has) else 0)


def test_weights_for_another_number_of_levels_are_refused() -> None:
    output, truth, _ = make_output()
    with pytest.raises(ConfigError, match="level"):
        metro_losses(output, truth, mesh=MESH, weights=BODY_WEIGHTS, regressor=None)


@pytest.mark.parametrize("change", [{"joints": -1.0}, {"levels": (0.5, float("nan"))}, {"edges": float("inf")}])
def test_impossible_weights_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match="loss weights"):
        replace(HAND_WEIGHTS, **change)
