"""Which tokens are neighbours, on meshes small enough to draw."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from metro_ros.core.errors import ConfigError
from training.mesh_spec import MeshSpec
from training.neighbours import VERTICES_PER_JOINT, token_neighbours, unique_edges


def strip(vertices: int = 10, joints: int = 2, **changes: object) -> MeshSpec:
    """A zigzag strip of triangles along x, a joint under each end; neighbours in the mesh differ by 1 or 2."""
    along = np.arange(vertices, dtype=np.float32)
    points = np.stack([along, along % 2, 0 * along], axis=1)
    ends = np.array([[-1, 0, 0], [vertices, 0, 0]], np.float32)[:joints]
    faces = np.stack([np.arange(vertices - 2) + corner for corner in range(3)], axis=1).astype(np.int32)
    spec = MeshSpec(
        name="strip",
        joint_names=("Start", "End")[:joints],
        joint_parents=(-1, 0)[:joints],
        root_joints=(0,),
        level_sizes=(vertices,),
        template_tokens=np.concatenate([ends, points]),
        faces=(faces,),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def test_every_edge_comes_once() -> None:
    faces = np.array([[0, 1, 2], [2, 1, 3], [3, 3, 4]], np.int32)
    assert unique_edges(faces).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [3, 4]]


def test_tokens_touch_along_mesh_and_skeleton_and_joints_their_nearest_vertices() -> None:
    touch = token_neighbours(strip())
    mesh = touch[2:, 2:]
    apart = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    assert np.array_equal(mesh, apart <= 2)
    assert touch[0, 1] and touch[1, 0], "joint 0 is the parent of joint 1"
    assert np.flatnonzero(touch[0, 2:]).tolist() == list(range(VERTICES_PER_JOINT))
    assert np.flatnonzero(touch[1, 2:]).tolist() == list(range(10 - VERTICES_PER_JOINT, 10))
    assert np.array_equal(touch, touch.T)
    assert touch.diagonal().all()


def test_a_vertex_without_a_face_is_bridged_to_its_nearest() -> None:
    mesh = strip(30, 1)
    touch = token_neighbours(replace(mesh, faces=(mesh.faces[0][:-1],)))  # 29 has lost its only face
    assert np.flatnonzero(touch[1:, 30]).tolist() == [28, 29], "its nearest, and itself"
    assert connected_components(touch, directed=False)[0] == 1


def test_parts_of_a_mesh_and_two_roots_end_up_as_one_graph() -> None:
    mesh = strip(40, 2, joint_parents=(-1, -1))
    halves = mesh.faces[0][(mesh.faces[0].max(axis=1) < 20) | (mesh.faces[0].min(axis=1) >= 20)]
    touch = token_neighbours(replace(mesh, faces=(halves,)))
    assert connected_components(touch, directed=False)[0] == 1
    assert np.argwhere(touch[2:22, 22:]).tolist() == [[19, 0]], "one bridge, the shortest"


def test_a_mesh_smaller_than_a_joints_reach_is_no_problem() -> None:
    touch = token_neighbours(strip(3, 1))
    assert touch.all()


def test_a_mesh_without_faces_is_refused() -> None:
    with pytest.raises(ConfigError, match="faces"):
        token_neighbours(strip(faces=()))
