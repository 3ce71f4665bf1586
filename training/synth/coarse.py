"""Bodies with the vertices of their mesh's middle level alone: people who stand far away, ten times as fast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.body import BodyBank
from training.mesh_spec import MeshSpec


def middle_bank(bank: BodyBank, mesh: MeshSpec) -> tuple[BodyBank, MeshSpec]:
    """The bank and its mesh with two levels, the coarsest and the middle one, of M vertices.

    The joint regressor takes the vertex nearest in the template in place of each that is gone: joints are off by
    millimetres, enough to stand a body in its place.
    """
    assert mesh.joint_regressor is not None and mesh.template is not None
    rows = mesh.rows[1]
    used = np.flatnonzero(mesh.joint_regressor.any(axis=0))
    apart = np.linalg.norm(bank.template[used][:, None] - bank.template[rows][None], axis=2)
    regressor = np.zeros((len(mesh.joint_regressor), len(rows)), np.float32)
    for column, nearest in zip(used, apart.argmin(axis=1), strict=True):
        regressor[:, nearest] += mesh.joint_regressor[:, column]
    place = np.full(len(bank.template), -1, np.int64)
    place[rows] = np.arange(len(rows))
    coarse = replace(
        bank,
        faces=mesh.faces[1],
        skin_indices=bank.skin_indices[rows],
        skin_weights=bank.skin_weights[rows],
        rest_vertices=np.ascontiguousarray(bank.rest_vertices[:, rows]),
        template=bank.template[rows],
    )
    levels = replace(
        mesh,
        level_sizes=(mesh.level_sizes[0], len(rows)),
        faces=mesh.faces[:2],
        rows=(place[mesh.rows[0]].astype(np.int32), np.arange(len(rows), dtype=np.int32)),
        template=mesh.template[rows],
        joint_regressor=regressor,
        upsampling=mesh.upsampling[:1],
    )
    return coarse, levels
