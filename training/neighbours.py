"""Which tokens are neighbours: the mesh, the skeleton and what joins them, as one connected graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from metro_ros.core.errors import ConfigError
from training.mesh_spec import MeshSpec

EdgeArray = npt.NDArray[np.int64]

VERTICES_PER_JOINT = 6
"""A joint is joined to as many vertices as a vertex of a closed triangle mesh is on average."""


def unique_edges(faces: npt.NDArray[np.int32]) -> EdgeArray:
    """The undirected edges (E, 2) of faces (F, 3), each once, its smaller index first; a vertex twice makes none."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    sides = np.sort(sides[sides[:, 0] != sides[:, 1]], axis=1)
    return np.unique(sides, axis=0)


def token_neighbours(mesh: MeshSpec) -> npt.NDArray[np.bool_]:
    """(T, T), symmetric: whether two tokens touch. Each touches itself, and paths lead from each to every other.

    Vertices touch along the edges of the coarsest faces, joints along the skeleton, a joint its nearest vertices in the
    template. What is apart even then (sampling may leave a vertex no face, and a skeleton may have two roots) is joined
    by the shortest bridges.

    Raises:
        ConfigError: the mesh has no faces.
    """
    if not mesh.faces:
        raise ConfigError(
            f"mesh {mesh.name} for local attention",
            expected="faces, which say what is a neighbour",
            got="none",
            remedy="give the mesh its faces, or use attention 'free'",
        )
    joints, tokens = mesh.joint_count, mesh.token_count
    bones = [(joint, parent) for joint, parent in enumerate(mesh.joint_parents) if parent >= 0]
    vertices = cKDTree(mesh.template_tokens[joints:])
    near = vertices.query(mesh.template_tokens[:joints], k=range(1, min(VERTICES_PER_JOINT, vertices.n) + 1))[1]
    touch = np.eye(tokens, dtype=bool)
    for edges in (
        np.array(bones, np.int64).reshape(-1, 2),
        joints + unique_edges(mesh.faces[0]),
        np.stack([np.repeat(np.arange(joints), near.shape[1]), joints + near.ravel()], axis=1),
    ):
        touch[edges[:, 0], edges[:, 1]] = touch[edges[:, 1], edges[:, 0]] = True
    _bridge(touch, mesh.template_tokens)
    return touch


def _bridge(touch: npt.NDArray[np.bool_], points: npt.NDArray[np.float32]) -> None:
    """Join, in place, the part of the first token to the nearest other part until there is only one."""
    while True:
        parts, part = connected_components(coo_matrix(touch), directed=False)
        if parts == 1:
            return
        own, others = np.flatnonzero(part == part[0]), np.flatnonzero(part != part[0])
        distance, nearest = cKDTree(points[own]).query(points[others])
        closest = int(distance.argmin())
        one, other = own[nearest[closest]], others[closest]
        touch[one, other] = touch[other, one] = True
