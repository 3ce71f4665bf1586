"""True meshes from poses, by a body model of two triangles in a file as SMPL's is laid out."""

from pathlib import Path

import numpy as np
import pytest
from stand_ins import make_sample

from metro_ros.core.errors import ConfigError, SourceError
from training.mesh_truth import pelvis_regressor, posed_meshes

CORNERS = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)], np.float64)


@pytest.fixture
def body_model(tmp_path: Path) -> Path:
    """Two joints, both at the origin; the first shape is its size."""
    shapes = np.zeros((6, 3, 10))
    shapes[..., 0] = CORNERS
    weights = np.zeros((6, 2))
    weights[:5, 0] = weights[5:, 1] = 1
    np.savez(
        tmp_path / "model.npz",
        v_template=CORNERS,
        shapedirs=shapes,
        posedirs=np.zeros((6, 3, 9)),
        J_regressor=np.eye(6)[[0, 0]],
        weights=weights,
        kintree_table=np.array([(2**32 - 1, 0), (0, 1)], np.uint32),
        f=np.array([(0, 1, 2), (3, 4, 5)]),
    )
    return tmp_path / "model.npz"


def test_a_pose_becomes_a_mesh_and_none_stays_none(body_model: Path) -> None:
    mesh_of = posed_meshes(body_model)
    assert mesh_of(make_sample()) is None
    sample = make_sample(pose=np.array((0, 0, np.pi / 2, 0, 0, 0)))
    sample.betas[0] = 0.5
    quarter = np.array(((0, -1, 0), (1, 0, 0), (0, 0, 1)))
    found = mesh_of(sample)
    assert found is not None and found.dtype == np.float32
    np.testing.assert_allclose(found, 1.5 * CORNERS @ quarter.T, atol=1e-6)


def test_another_models_pose_is_told(body_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pose of sample for the body model .* expected 6 numbers, got 72"):
        posed_meshes(body_model)(make_sample(pose=np.zeros(72)))
    with pytest.raises(SourceError):
        posed_meshes(tmp_path / "none.npz")


def test_the_pelvis_is_the_first_row(tmp_path: Path) -> None:
    rows = np.random.RandomState(0).random((17, 6))
    np.save(tmp_path / "regressor.npy", rows)
    np.testing.assert_allclose(pelvis_regressor(tmp_path / "regressor.npy", 6), rows[0], atol=1e-7)
    with pytest.raises(SourceError, match="17, 7"):
        pelvis_regressor(tmp_path / "regressor.npy", 7)
