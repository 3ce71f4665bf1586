"""Edges and normals: numbers worked out by hand, and surfaces that have no length or area."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_network import make_mesh

from metro_ros.core.errors import ConfigError
from training.losses import LossWeights, MetroLosses, Truth, metro_losses
from training.mesh_spec import MeshSpec
from training.network import MetroOutput
from training.surface_losses import SHORTEST_M, edge_errors, normal_errors, surfaces

EDGES = torch.tensor([[0, 1], [0, 2], [1, 2]])
FACE = torch.tensor([[0, 1, 2]])
TRIANGLE = torch.tensor([[[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 3.0, 0.0]]])
"""Edges of 4, 3 and 5 in the plane z = 0."""


def turn(points: torch.Tensor) -> torch.Tensor:
    """A quarter turn about x: the plane z = 0 becomes y = 0."""
    return torch.stack([points[..., 0], -points[..., 2], points[..., 1]], dim=-1)


def test_edges_are_compared_by_length() -> None:
    longer = TRIANGLE.clone()
    longer[0, 1, 0] = 1.0
    errors = edge_errors(longer, TRIANGLE, EDGES)
    torch.testing.assert_close(errors, torch.tensor([[3.0, 0.0, 5 - 10**0.5]]))
    torch.testing.assert_close(edge_errors(turn(TRIANGLE) + 7, TRIANGLE, EDGES), torch.zeros(1, 3))


def test_normals_see_how_far_an_edge_leaves_the_true_plane() -> None:
    torch.testing.assert_close(normal_errors(2 * TRIANGLE + 1, TRIANGLE, FACE), torch.zeros(1, 3))
    lifted = TRIANGLE.clone()
    lifted[0, 2] = torch.tensor([0.0, 3.0, 4.0])  # the edges to it: (0, 3, 4), and (-4, 3, 4) from vertex 1
    expected = torch.tensor([[0.0, 4 / 41**0.5, 4 / 5]])
    torch.testing.assert_close(normal_errors(lifted, TRIANGLE, FACE), expected)
    torch.testing.assert_close(normal_errors(lifted, TRIANGLE, FACE.flip(1)).sort().values, expected.sort().values)


def test_a_face_of_millimetres_counts_as_much_as_one_of_metres() -> None:
    errors = normal_errors(1e-3 * turn(TRIANGLE), 1e-3 * TRIANGLE, FACE)
    torch.testing.assert_close(errors, normal_errors(turn(TRIANGLE), TRIANGLE, FACE))
    assert errors.max() == pytest.approx(1.0)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-9])
def test_no_length_and_no_area_give_finite_values_and_gradients(length: float) -> None:
    """Also where truth and prediction are points, as in a sample without a mesh."""
    for truth in (TRIANGLE, torch.zeros(1, 3, 3), length * TRIANGLE):
        predicted = (length * turn(TRIANGLE) + 0.5 * length).requires_grad_()
        loss = edge_errors(predicted, truth, EDGES).sum() + normal_errors(predicted, truth, FACE).sum()
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(predicted.grad).all()
        assert predicted.grad.abs().max() < 10 / SHORTEST_M


def test_a_true_face_without_area_costs_nothing() -> None:
    line = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    torch.testing.assert_close(normal_errors(TRIANGLE, line, FACE), torch.zeros(1, 3))


def two_levels() -> tuple[MeshSpec, MetroOutput, Truth]:
    """The triangle, then a square of two, at two samples; the prediction is the truth turned out of its plane."""
    mesh = replace(
        make_mesh((3, 4), 3),
        root_joints=(0,),
        faces=(np.array([[0, 1, 2], [1, 1, 2]], np.int32), np.array([[0, 1, 2], [1, 2, 3]], np.int32)),
    )
    coarse = TRIANGLE.repeat(2, 1, 1)
    fine = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]]).repeat(2, 1, 1)
    joints = torch.zeros(2, 3, 3)
    predicted = (2 * turn(coarse), 2 * turn(fine))
    predicted[0][1], predicted[1][1] = coarse[1], fine[1]  # sample 1 is perfect
    output = MetroOutput(torch.ones(2, 3), joints, predicted, *(None,) * 5)
    ones = torch.ones(2, 3)
    return mesh, output, Truth(joints, (coarse, fine), torch.zeros(2, 3, 2), ones, ones)


def losses_of(mesh: MeshSpec, output: MetroOutput, truth: Truth, **weights: float) -> MetroLosses:
    chosen = LossWeights(joints=0, vertices=0, keypoints=0, levels=(0.5, 0.25), **weights)
    return metro_losses(output, truth, mesh=mesh, weights=chosen, regressor=None)


def test_terms_are_means_over_samples_weighted_over_levels() -> None:
    mesh, output, truth = two_levels()
    losses = losses_of(mesh, output, truth, edges=2.0, normals=3.0)
    # Twice as long: errors are the lengths. The square has four sides and one diagonal, each edge once.
    edges = 0.5 * (4 + 3 + 5) / 3 + 0.25 * (4 + 2**0.5) / 5
    # Turned about x, an edge leaves the plane by its share of y.
    normals = 0.5 * (0 + 3 / 3 + 3 / 5) / 3 + 0.25 * (0 + 1 + 0.5**0.5) / 3
    assert losses.edges == pytest.approx(edges / 2)
    assert losses.normals == pytest.approx(normals / 2)
    weights = LossWeights(joints=0, vertices=0, keypoints=0, levels=(0.5, 0.25), edges=2.0, normals=3.0)
    assert losses.total(weights) == pytest.approx(edges + 1.5 * normals)


def test_only_samples_with_vertices_and_known_levels_count() -> None:
    mesh, output, truth = two_levels()
    every = losses_of(mesh, output, truth, edges=1.0)
    first = losses_of(mesh, output, truth._replace(has_vertices=torch.tensor([1.0, 0.0])), edges=1.0)
    none = losses_of(mesh, output, truth._replace(has_vertices=torch.zeros(2)), edges=1.0, normals=1.0)
    coarse = losses_of(mesh, output, truth._replace(vertices=(truth.vertices[0], None)), edges=1.0)
    assert first.edges == pytest.approx(2 * every.edges.item())
    assert (none.edges, none.normals) == (0, 0)
    assert coarse.edges == pytest.approx(0.5 * 4 / 2)


def test_without_a_weight_nothing_is_computed() -> None:
    mesh, output, truth = two_levels()
    losses = losses_of(replace(mesh, faces=()), output, truth)
    assert (losses.edges, losses.normals) == (None, None)
    assert losses_of(mesh, output, truth, edges=1.0).normals is None


def test_surfaces_leave_out_faces_that_name_a_vertex_twice() -> None:
    mesh, _, _ = two_levels()
    coarse, fine = surfaces(mesh, torch.device("cpu"))
    assert coarse.faces.tolist() == [[0, 1, 2]]
    assert len(fine.edges) == 5
    assert surfaces(mesh, torch.device("cpu"))[0] is coarse, "made once"


def test_a_mesh_without_a_surface_is_refused() -> None:
    mesh, output, truth = two_levels()
    with pytest.raises(ConfigError, match="faces"):
        losses_of(replace(mesh, faces=()), output, truth, normals=1.0)
    lines = replace(mesh, faces=(np.array([[0, 1, 1]], np.int32), mesh.faces[1]))
    with pytest.raises(ConfigError, match="level 0"):
        losses_of(lines, output, truth, edges=1.0)
