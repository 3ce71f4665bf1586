"""Mesh levels: which vertices are kept, how they join and how they are upsampled."""

import numpy as np
import trimesh

from training.levels import (
    farthest_points,
    fit_dense_upsampling,
    fit_joint_regressor,
    fit_sparse_upsampling,
    geodesic_neighbours,
    nearest_rows,
    voronoi_faces,
)

SPHERE = trimesh.creation.icosphere(subdivisions=3)
VERTICES, FACES = SPHERE.vertices.astype(np.float32), SPHERE.faces.astype(np.int32)


def _samples(count: int = 40) -> np.ndarray:
    """The sphere squeezed and moved at random: (count, V, 3)."""
    rng = np.random.default_rng(0)
    return (VERTICES @ rng.normal(0, 1, (count, 3, 3)) + rng.normal(0, 1, (count, 1, 3))).astype(np.float32)


def test_nearest_rows_are_different_rows() -> None:
    targets = np.repeat(VERTICES[5:9], 2, axis=0)  # each twice: the second must settle for a neighbour
    rows = nearest_rows(VERTICES, targets)
    assert len(set(rows.tolist())) == 8
    assert {5, 6, 7, 8} <= set(rows.tolist())
    assert np.linalg.norm(VERTICES[rows] - targets, axis=1).max() < 0.4


def test_farthest_points_cover_the_surface_and_their_faces_close_it() -> None:
    rows, owner = farthest_points(VERTICES, FACES, 40)
    assert len(set(rows.tolist())) == 40 and (np.diff(rows) > 0).all()
    assert np.array_equal(owner[rows], np.arange(40))
    assert np.linalg.norm(VERTICES - VERTICES[rows][owner], axis=1).max() < 0.6
    coarse = trimesh.Trimesh(VERTICES[rows], voronoi_faces(owner, FACES), process=False)
    assert coarse.is_watertight
    assert 0.6 * SPHERE.volume < coarse.volume < SPHERE.volume  # positive: it keeps the winding


def test_upsampling_rebuilds_linear_deformations_exactly() -> None:
    samples = _samples()
    rows, _ = farthest_points(VERTICES, FACES, 60)
    dense = fit_dense_upsampling(samples[:, rows], samples)
    np.testing.assert_allclose(np.einsum("vc,nck->nvk", dense, samples[:, rows]), samples, atol=0.01)
    neighbours = geodesic_neighbours(0.1 * VERTICES, FACES, rows, count=6)
    sparse = fit_sparse_upsampling(VERTICES, rows, neighbours, samples)
    assert (np.count_nonzero(sparse, axis=1) <= 6).all()
    np.testing.assert_allclose(sparse.sum(axis=1), 1.0, atol=1e-3)
    np.testing.assert_allclose(np.einsum("vc,nck->nvk", sparse, samples[:, rows]), samples, atol=0.02)
    assert np.array_equal(sparse[rows], np.eye(60, dtype=np.float32))


def test_joint_regressor_finds_the_centre() -> None:
    samples = _samples()
    row = fit_joint_regressor(samples.mean(axis=1), np.arange(0, len(VERTICES), 3), samples)
    assert (row >= 0).all()
    np.testing.assert_allclose(row.sum(), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.einsum("v,nvk->nk", row, samples), samples.mean(axis=1), atol=1e-3)
