"""The mesh specs of the original networks, from the files of their users or, without these, from the network itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from metro_ros.core.errors import ConfigError
from training.levels import fit_joint_regressor, nearest_rows, voronoi_faces
from training.mesh_spec import MeshSpec, body_431, hand_195
from training.model_files import BodyModelArrays, FloatArray, IntArray
from training.network import Metro
from training.skinning import SkinnedModel

H36M_JOINTS = 17
H36M_PELVIS = 0
J14_OF_H36M = [3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10]
"""J14 among the 17 joints of Human3.6M's regressor."""
FLIP_RAD = 3.1416
"""The original's turn about x, of a body that stands up with y: not pi, and the weights were trained with it."""

HAND_ORDER = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
"""The 21 joints of the hand network among MANO's 16 and then five tips, thumb to little finger."""
REGRESSED_TIPS = [745, 317, 445, 556, 673]
TEMPLATE_TIPS = [745, 317, 444, 556, 673]
"""The original takes the middle finger's tip from one vertex in its template and from the next in its regressor."""

_CANDIDATES = 512
"""Vertices around a joint that may carry a stand-in regressor."""


def body_mesh(smpl: BodyModelArrays, rows: tuple[IntArray, ...], h36m_regressor: FloatArray) -> MeshSpec:
    """The body: SMPL at rest, turned to the camera's axes, relative to Human3.6M's pelvis.

    Args:
        rows: of 431, 1,723 and 6,890 vertices; see `read_sampling`. h36m_regressor: (17, 6890).
    """
    pose = torch.zeros(1, 3 * len(smpl.parents))
    pose[0, 0] = FLIP_RAD
    vertices = SkinnedModel(smpl)(pose, torch.zeros(1, 10)).vertices[0].numpy()
    regressor, pelvis = h36m_regressor[J14_OF_H36M], h36m_regressor[H36M_PELVIS]
    origin = pelvis @ vertices
    spec = body_431(_tokens(regressor @ vertices - origin, vertices - origin, rows), regressor, pelvis)
    return _with_surface(spec, vertices - origin, smpl.faces, rows)


def hand_mesh(mano: BodyModelArrays, rows: tuple[IntArray, ...]) -> MeshSpec:
    """The right hand: MANO's mean hand, relative to its wrist. rows: of 195 and 778 vertices."""
    posed = SkinnedModel(mano, flat_hand_mean=False)(torch.zeros(1, 3 * len(mano.parents)), torch.zeros(1, 10))
    vertices, skeleton = posed.vertices[0].numpy(), posed.joints[0].numpy()
    joints = np.concatenate([skeleton, vertices[TEMPLATE_TIPS]])[HAND_ORDER]
    tips = np.eye(len(vertices), dtype=np.float32)[REGRESSED_TIPS]
    regressor = np.concatenate([mano.joint_regressor, tips])[HAND_ORDER]
    origin = joints[0]
    spec = hand_195(_tokens(joints - origin, vertices - origin, rows), regressor)
    return _with_surface(spec, vertices - origin, mano.faces, rows)


@torch.no_grad()
def stand_in_mesh(metro: Metro, faces: IntArray | None) -> MeshSpec:
    """What a bundle needs beyond the template tokens, as far as it follows from the network, in eval mode.

    The finer templates are the coarse one through the learned upsampling; the rows of a level are the finest vertices
    nearest to it; the regressor is the sparse, non-negative one that rebuilds the template's joints. Without `faces`
    (F, 3) of the finest level there are none on any.
    """
    spec = metro.mesh
    coarse = torch.from_numpy(spec.template_tokens[spec.joint_count :])[None]
    templates = [level[0].numpy() for level in metro.upsample(coarse) if level is not None]
    finest = templates[-1]
    rows = tuple(_nearest(finest, template) for template in templates[:-1])
    rows += (np.arange(len(finest), dtype=np.int32),)
    spec = dataclasses.replace(
        spec, joint_regressor=_fitted_regressor(spec.template_tokens[: spec.joint_count], finest)
    )
    if faces is not None:
        return _with_surface(spec, finest, faces, rows)
    return dataclasses.replace(spec, template=finest, rows=rows, faces=(np.zeros((0, 3), np.int32),) * len(rows))


def level_faces(vertices: FloatArray, faces: IntArray, rows: IntArray) -> IntArray:
    """Faces of the level that keeps `rows` of a mesh: a triangle where three of their neighbourhoods meet.

    Neighbourhoods go along the surface; a part without a row joins the nearest one straight through.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    lengths = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    graph = coo_matrix((lengths, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2).tocsr()
    _, _, source = dijkstra(graph, directed=False, indices=rows, min_only=True, return_predecessors=True)
    position = np.zeros(len(vertices), np.int32)
    position[rows] = np.arange(len(rows), dtype=np.int32)
    _, straight = cKDTree(vertices[rows]).query(vertices)
    owner = np.where(source >= 0, position[np.maximum(source, 0)], straight).astype(np.int32)
    return voronoi_faces(owner, faces)


def _tokens(joints: NDArray, vertices: NDArray, rows: tuple[IntArray, ...]) -> FloatArray:
    return np.concatenate([joints, vertices[rows[0]]]).astype(np.float32)


def _with_surface(spec: MeshSpec, template: NDArray, faces: IntArray, rows: tuple[IntArray, ...]) -> MeshSpec:
    template = np.ascontiguousarray(template, np.float32)
    coarser = tuple(level_faces(template, faces, level) for level in rows[:-1])
    return dataclasses.replace(spec, template=template, faces=(*coarser, faces), rows=rows)


def _nearest(vertices: FloatArray, targets: FloatArray) -> IntArray:
    """For each target a vertex near it, each its own where the targets' neighbourhoods are rich enough."""
    try:
        return nearest_rows(vertices, targets)
    except ConfigError:
        return cKDTree(vertices).query(targets)[1].astype(np.int32)


def _fitted_regressor(joints: FloatArray, template: FloatArray) -> FloatArray:
    _, near = cKDTree(template).query(joints, k=min(_CANDIDATES, len(template)))
    fits = [
        fit_joint_regressor(joint[None], around, template[None]) for joint, around in zip(joints, near, strict=True)
    ]
    return np.stack(fits)
