"""Skinning against a case worked by hand, against SciPy's rotations, and its gradient against finite differences."""

import numpy as np
import pytest
import torch
from model_fixtures import BODY_PARENTS, hand_fields, model_fields, published
from scipy.spatial.transform import Rotation

from training.model_files import BodyModelArrays, read_body_model
from training.skinning import SkinnedModel, rotation_matrices

QUARTER = np.pi / 2


def two_bones(**changes: np.ndarray) -> BodyModelArrays:
    """A stick along x: root at 0, elbow at 1, vertices at 0, 1 and 2; the last two hang on the elbow's bone."""
    fields = {
        "v_template": np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]]),
        "shapedirs": np.zeros((3, 3, 10)),
        "posedirs": np.zeros((3, 3, 9)),
        "joint_regressor": np.array([[1, 0, 0], [0, 1, 0]]),
        "weights": np.array([[1, 0], [0.5, 0.5], [0, 1]]),
    } | changes
    floats = {name: array.astype(np.float32) for name, array in fields.items()}
    return BodyModelArrays(**floats, parents=np.array([-1, 0]), faces=np.array([[0, 1, 2]], np.int32))


def posed(arrays: BodyModelArrays, pose: list[float], betas: list[float] | None = None):
    betas = (betas or []) + [0.0] * (10 - len(betas or []))
    return SkinnedModel(arrays)(torch.tensor([pose]), torch.tensor([betas]))


def test_two_bones_by_hand() -> None:
    bent = posed(two_bones(), [0, 0, 0, 0, 0, QUARTER])  # the elbow turns x to y
    np.testing.assert_allclose(bent.vertices[0], [[0, 0, 0], [1, 0, 0], [1, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(bent.joints[0], [[0, 0, 0], [1, 0, 0]], atol=1e-6)
    turned = posed(two_bones(), [0, 0, QUARTER, 0, 0, QUARTER])  # and so does the root
    np.testing.assert_allclose(turned.vertices[0], [[0, 0, 0], [0, 1, 0], [-1, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(turned.joints[0], [[0, 0, 0], [0, 1, 0]], atol=1e-6)


def test_shape_moves_joints_and_pose_blend_shapes_follow_the_rotation() -> None:
    shapedirs = np.zeros((3, 3, 10))
    shapedirs[:, 0, 1] = [0, 1, 2]  # the second shape stretches the stick
    posedirs = np.zeros((3, 3, 9))
    posedirs[2, 2, 1] = 0.5  # along z by half the entry R[0, 1] of the elbow, which is -sin
    bent = posed(two_bones(shapedirs=shapedirs, posedirs=posedirs), [0, 0, 0, 0, 0, QUARTER], [0, 1])
    np.testing.assert_allclose(bent.joints[0], [[0, 0, 0], [2, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(bent.vertices[0], [[0, 0, 0], [2, 0, 0], [2, 2, -0.5]], atol=1e-6)


def test_a_vertex_between_two_bones_is_blended() -> None:
    arrays = two_bones(v_template=np.array([[0, 0, 0], [1, 1, 0], [2, 0, 0]]), joint_regressor=np.array(
        [[1, 0, 0], [0.5, 0, 0.5]]))  # fmt: skip
    bent = posed(arrays, [0, 0, 0, 0, 0, QUARTER])  # half stays at (1, 1), half goes to (0, 0)
    np.testing.assert_allclose(bent.vertices[0, 1], [0.5, 0.5, 0], atol=1e-6)


def test_rotations_are_scipy_s() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 3)) * np.geomspace(1e-9, 3, 200)[:, None]
    vectors[0] = 0
    got = rotation_matrices(torch.tensor(vectors)).numpy()
    np.testing.assert_allclose(got, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-14)


@pytest.mark.parametrize("scale", [0.0, 1e-8, 0.03, 0.032, 1.0])
def test_rotation_s_gradient_at_zero_and_beside_it(scale: float) -> None:
    vector = torch.tensor([[0.6, -0.64, 0.48]], dtype=torch.float64) * scale
    vector.requires_grad_(True)
    assert torch.autograd.gradcheck(rotation_matrices, (vector,), atol=1e-7)
    small = torch.zeros(1, 3, requires_grad=True)
    rotation_matrices(small).sum().backward()
    assert torch.isfinite(small.grad).all()


def test_gradients_meet_finite_differences(tmp_path) -> None:
    (tmp_path / "body.pkl").write_bytes(published(model_fields(24, BODY_PARENTS)))
    model = SkinnedModel(read_body_model(tmp_path / "body.pkl")).double()
    random = np.random.default_rng(3)
    pose = torch.tensor(random.normal(0, 0.4, (1, 72)))
    pose[0, 3:9] = 0
    betas = torch.tensor(random.normal(size=(1, 10)))
    ways = [torch.tensor(random.normal(size=value.shape)) for value in (pose, betas)]

    def along(step: torch.Tensor) -> torch.Tensor:
        skinned = model(pose + step * ways[0], betas + step * ways[1])
        return torch.cat([skinned.vertices, skinned.joints], dim=1)

    _, gradient = torch.autograd.functional.jvp(along, torch.zeros((), dtype=torch.float64), torch.ones(()).double())
    difference = (along(torch.tensor(1e-6)) - along(torch.tensor(-1e-6))) / 2e-6
    torch.testing.assert_close(gradient, difference, rtol=0, atol=1e-8)
    assert difference.abs().max() > 0.1


def test_zero_pose_of_a_hand_is_its_mean_and_batches_agree(tmp_path) -> None:
    fields = hand_fields()
    (tmp_path / "hand.pkl").write_bytes(published(fields))
    arrays = read_body_model(tmp_path / "hand.pkl")
    mean, flat = SkinnedModel(arrays), SkinnedModel(arrays, flat_hand_mean=True)
    pose = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    betas = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    pose[0], betas[0] = 0, 0
    shifted = pose.clone()
    shifted[:, 3:] += torch.tensor(fields["hands_mean"], dtype=torch.float32)
    for got, want in zip(mean(pose, betas), flat(shifted, betas), strict=True):
        torch.testing.assert_close(got, want)
        assert got.dtype == torch.float32
    np.testing.assert_allclose(flat(pose, betas).vertices[0], fields["v_template"], atol=1e-6)
    assert (mean(pose, betas).vertices[0] - flat(pose, betas).vertices[0]).abs().max() > 0.01
    torch.testing.assert_close(mean(pose[1:2], betas[1:2]).vertices[0], mean(pose, betas).vertices[1])
