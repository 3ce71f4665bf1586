"""Somebody who acts out a recording on a floor: paths with the soles on it, and outlines to place people by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.body import bone_transforms, skin
from training.motion import Motion
from training.synth.stage import Stage

_OUTLINE_POINTS = 300
_AIRBORNE = 8
"""Frames to either side in which a sole comes down: jumps leave the floor, but who climbs or hangs in the recording,
on things that nobody sees here, stays on it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One person and a whole recording. Floor axes: y down along gravity, the floor at y = 0, metres.

    Attributes:
        identity: in the bank.
        stature: metres from sole to crown when standing.
        motion: the recording; its rotations are in floor axes.
        path: (T, 3) float64, mid-hip.
        outline: (T, M, 3) float32, some points all over the surface, about the mid-hip.
    """

    identity: int
    stature: float
    motion: Motion
    path: NDArray[np.float64]
    outline: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.path)


def make_actor(stage: Stage, identity: int, motion: Motion) -> Actor:
    """Let an identity act out a recording: a child takes a child's steps, and whoever floats comes down."""
    bank = stage.bank
    surface = _surface(stage, identity, motion)
    stature = float(np.ptp(bank.rest_vertices[identity][:, 1]))
    path = motion.root.astype(np.float64) * (stature / float(np.ptp(bank.template[:, 1])))
    path[:, 1] -= _ground(path[:, 1] + surface[:, :, 1].max(axis=1))
    outline = surface[:, :: max(1, surface.shape[1] // _OUTLINE_POINTS)]
    return Actor(identity, stature, motion, path, outline)


def walks(motion: Motion, speed: float = 0.6) -> bool:
    """Whether somebody gets anywhere in a recording: `speed` metres or more within some second."""
    step = round(motion.fps)
    ground = motion.root[:, [0, 2]]
    return bool(np.linalg.norm(ground[step:] - ground[:-step], axis=1).max(initial=0) >= speed)


def _surface(stage: Stage, identity: int, motion: Motion) -> NDArray[np.float32]:
    """(T, V_1, 3), the mesh's middle level about the mid-hip."""
    bank, mesh = stage.bank, stage.mesh
    assert mesh.joint_regressor is not None
    hips = mesh.joint_regressor[list(mesh.root_joints)].mean(axis=0)
    columns = np.flatnonzero(hips)
    rows = np.concatenate([mesh.rows[1], columns])
    rest, indices, weights = bank.rest_vertices[identity][rows], bank.skin_indices[rows], bank.skin_weights[rows]
    surface = np.empty((len(motion), len(mesh.rows[1]), 3), np.float32)
    for frame, rotations in enumerate(motion.rotations):
        transforms = bone_transforms(rotations, bank.rest_heads[identity], bank.bone_parents)
        posed = skin(rest, transforms, indices, weights)
        surface[frame] = posed[: -len(columns)] - hips[columns] @ posed[-len(columns) :]
    return surface


def _ground(lowest: NDArray[np.floating]) -> NDArray[np.float64]:
    """(T,): the level under someone whose lowest point is at `lowest` (T,), y down, smoothly."""

    def around(values: NDArray[np.floating]) -> NDArray[np.float64]:
        padded = np.pad(values.astype(np.float64), _AIRBORNE, mode="edge")
        return np.lib.stride_tricks.sliding_window_view(padded, 2 * _AIRBORNE + 1)

    return around(around(lowest).max(axis=1)).mean(axis=1)
