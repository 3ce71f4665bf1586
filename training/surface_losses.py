"""Losses on the surface between the vertices: edges as long, and faces turned, as the true ones.

Not of METRO: Pixel2Mesh and I2L-MeshNet brought them, and FastMETRO trains with both. The vertices' own error says
little of a rough surface: a millimetre off at one end of an edge of ten turns it by six degrees.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from metro_ros.core.errors import ConfigError
from training.mesh_spec import MeshSpec
from training.neighbours import unique_edges

SHORTEST_M = 1e-4
"""A tenth of a millimetre: a body has no shorter edges. Below it a direction's gradient, which grows as 1 / length up
to infinity, is held."""


class Surface(NamedTuple):
    """One level: edges (E, 2), each once, and faces (F, 3) of three different vertices; int64."""

    edges: Tensor
    faces: Tensor


@lru_cache(maxsize=8)
def surfaces(mesh: MeshSpec, device: torch.device) -> tuple[Surface, ...]:
    """The surface of every level, coarsest first, made once for a mesh and device.

    Raises:
        ConfigError: the mesh has no faces, or a level's have no surface.
    """
    if not mesh.faces:
        raise ConfigError(
            f"mesh {mesh.name} for losses on edges and normals",
            expected="faces",
            got="none",
            remedy="give the mesh its faces, or leave both weights 0",
        )
    found = []
    for level, faces in enumerate(mesh.faces):
        first, second, third = faces.T
        faces = faces[(first != second) & (second != third) & (third != first)]
        if not len(faces):
            raise ConfigError(
                f"faces of level {level} of mesh {mesh.name}", expected="triangles", got="lines or points"
            )
        edges = torch.from_numpy(unique_edges(faces)).to(device)
        found.append(Surface(edges, torch.from_numpy(faces).to(device, torch.int64)))
    return tuple(found)


def edge_errors(predicted: Tensor, truth: Tensor, edges: Tensor) -> Tensor:
    """How far predicted edges are from their true length: (N, E) metres, from vertices (N, V, 3) and edges (E, 2)."""
    ours, theirs = (_vectors(vertices, edges[:, 0], edges[:, 1]).norm(dim=2) for vertices in (predicted, truth))
    return (ours - theirs).abs()


def normal_errors(predicted: Tensor, truth: Tensor, faces: Tensor) -> Tensor:
    """How far predicted edges lean out of their true face: (N, 3 F) in [0, 1], |cosine| with the true face's normal.

    A true face without area has no normal and costs 0.

    Args:
        predicted, truth: vertices (N, V, 3). faces: (F, 3).
    """
    first, second, third = faces.unbind(dim=1)
    normal = torch.linalg.cross(_vectors(truth, first, second), _vectors(truth, first, third))
    normal = _direction(normal, SHORTEST_M**2)
    sides = [_vectors(predicted, start, end) for start, end in ((first, second), (second, third), (third, first))]
    return torch.cat([(_direction(side, SHORTEST_M) * normal).sum(dim=2).abs() for side in sides], dim=1)


def _vectors(vertices: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return vertices.index_select(1, end) - vertices.index_select(1, start)


def _direction(vectors: Tensor, shortest: float) -> Tensor:
    """Unit vectors along the last axis; shorter than `shortest`, the vector over that."""
    return vectors / vectors.norm(dim=2, keepdim=True).clamp(min=shortest)
