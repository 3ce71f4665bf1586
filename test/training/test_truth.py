"""What a batch knows, as losses compare it."""

import dataclasses

import numpy as np
import pytest
import torch
from model_fixtures import BODY_PARENTS, model_fields, published
from stand_ins import ListDataset, make_sample
from tiny_network import make_mesh

from metro_ros.core.errors import ConfigError
from training.datasets.augment import NONE
from training.datasets.mixture import Batch, Mixture, Source
from training.model_files import read_body_model
from training.skinning import SkinnedModel
from training.truth import TruthMaker

MESH = dataclasses.replace(
    make_mesh((6, 10, 20), joints=4), rows=tuple(np.array(rows, np.int32) for rows in
    ([7, 3, 15, 1, 9, 11], [1, 3, 5, 7, 9, 11, 13, 15, 17, 19], range(20)))
)  # fmt: skip

AWAY = np.float32([5, 6, 7])


def make_batch(*samples) -> Batch:
    mix = Mixture([Source(ListDataset(samples, MESH.joint_names))], MESH, NONE, "smooth", 8, pose_size=72)
    items = {mix.order(position)[1]: mix[position] for position in range(len(samples))}
    return mix.collate([items[row] for row in range(len(samples))])


def test_coarser_levels_are_rows_and_finer_ones_are_unknown() -> None:
    middle = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    batch = make_batch(make_sample(joint_count=4, vertices=middle), make_sample(joint_count=4))
    truth = TruthMaker(MESH, None, 10)(batch)
    coarse, given, finest = truth.vertices
    assert finest is None and coarse is not None and given is not None
    np.testing.assert_array_equal(given[0], middle)
    np.testing.assert_array_equal(coarse[0], middle[[3, 1, 7, 0, 4, 5]])
    assert truth.has_vertices.tolist() == [1, 0]  # type: ignore[union-attr]


def test_a_finest_mesh_is_taken_relative_to_its_own_root() -> None:
    finest = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    batch = make_batch(make_sample(joint_count=4, vertices=finest + AWAY))
    regressor = np.zeros(20, np.float32)
    regressor[4] = 1
    for mesh, root in (
        (MESH, (MESH.joint_regressor @ (finest + AWAY))[[1, 2]].mean(axis=0)),  # type: ignore[operator]
        (dataclasses.replace(MESH, root_regressor=regressor), finest[4] + AWAY),
    ):
        truth = TruthMaker(mesh, None, 20)(batch)
        np.testing.assert_allclose(truth.vertices[2][0], finest + AWAY - root, atol=1e-4)
        np.testing.assert_allclose(truth.vertices[0][0], (finest + AWAY - root)[MESH.rows[0]], atol=1e-4)


def test_poses_become_meshes_where_there_are_poses(tmp_path) -> None:
    path = tmp_path / "smpl.pkl"
    path.write_bytes(published(model_fields(20, BODY_PARENTS, 1)))
    model = SkinnedModel(read_body_model(path))
    pose = np.random.default_rng(2).normal(0, 0.3, 72).astype(np.float32)
    given = np.random.default_rng(3).normal(size=(20, 3)).astype(np.float32)
    samples = (
        make_sample(joint_count=4, pose=pose),
        make_sample(joint_count=4, vertices=given),
        make_sample(joint_count=4),
    )
    maker = TruthMaker(MESH, model, 20)
    truth = maker(make_batch(*samples))
    posed = model(torch.from_numpy(pose)[None], torch.zeros(1, 10)).vertices[0].numpy()
    row = MESH.root_row
    np.testing.assert_allclose(truth.vertices[2][0], posed - row @ posed, atol=1e-5)
    np.testing.assert_allclose(truth.vertices[2][1], given - row @ given, atol=1e-5)
    assert truth.has_vertices.tolist() == [1, 1, 0]  # type: ignore[union-attr]
    assert not maker.state_dict(), "licensed files stay out of checkpoints"


def test_nothing_known_of_the_mesh_is_nothing_compared() -> None:
    truth = TruthMaker(MESH, None, None)(make_batch(make_sample(np.ones((4, 3)))))
    assert truth.vertices == (None, None, None)


def test_levels_that_do_not_lie_in_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="rows"):
        TruthMaker(dataclasses.replace(MESH, rows=()), None, 10)
    other = dataclasses.replace(MESH, rows=(np.arange(6, dtype=np.int32), *MESH.rows[1:]))
    with pytest.raises(ConfigError, match="lie in each other"):
        TruthMaker(other, None, 10)


def test_joints_without_their_root_come_from_the_mesh() -> None:
    """Some sets know limbs only: a loss from the mid-hip would take the unknown hips for the origin."""
    finest = np.random.default_rng(4).normal(size=(20, 3)).astype(np.float32)
    joints = np.random.default_rng(5).normal(size=(4, 3))
    limbs = np.array([1, 0, 1, 1])  # root joints are 1 and 2
    rows = [
        make_sample(joints, confidence=limbs, vertices=finest),
        make_sample(joints, confidence=limbs),
        make_sample(joints, vertices=finest),
        make_sample(joint_count=4),
    ]
    paper = TruthMaker(MESH, None, 20)(make_batch(*rows))
    assert paper.has_joints.tolist() == [0, 0, 1, 0], "its sets have 3D joints or do not"  # type: ignore[union-attr]
    truth = TruthMaker(MESH, None, 20, joints_from_mesh=True)(make_batch(*rows))
    assert truth.has_joints.tolist() == [1, 0, 1, 0]  # type: ignore[union-attr]
    regressed = MESH.joint_regressor @ (finest - MESH.root_row @ finest)  # type: ignore[operator]
    np.testing.assert_allclose(truth.joints[0], regressed, atol=1e-4)
    np.testing.assert_allclose(truth.joints[2], joints, atol=1e-6)
    assert torch.all(truth.joint_confidence[0] == 1)
