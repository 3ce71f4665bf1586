"""Linear blend skinning with shape and pose blend shapes: the SMPL family of bodies and hands, differentiable.

Source: Loper et al., "SMPL: A Skinned Multi-Person Linear Model" (2015), section 3; Romero et al., "Embodied Hands"
(2017), section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.model_files import HAND_POSE, SHAPES, BodyModelArrays

SMALL_ANGLE_SQUARED = 1e-3
"""Below it Rodrigues' coefficients come from their series, whose next terms are under 1e-12."""


class Skinned(NamedTuple):
    """vertices (N, V, 3) and joints (N, K, 3), metres, axes of the model."""

    vertices: Tensor
    joints: Tensor


class SkinnedModel(nn.Module):
    """Pose and shape in, vertices and joints out. Float32; `.double()` works too.

    Args:
        arrays: of SMPL or MANO.
        flat_hand_mean: of a hand: zero finger pose is the flat hand; False, as METRO uses it, makes it the mean hand.
    """

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    joint_regressor: Tensor
    weights: Tensor
    mean_pose: Tensor

    def __init__(self, arrays: BodyModelArrays, flat_hand_mean: bool = False) -> None:
        super().__init__()
        self.parents = arrays.parents.tolist()
        mean_pose = torch.zeros(3 * len(self.parents))
        if arrays.hands_mean is not None and not flat_hand_mean:
            mean_pose[-HAND_POSE:] = torch.tensor(arrays.hands_mean)
        for name, tensor in (
            ("v_template", torch.tensor(arrays.v_template)),
            ("shapedirs", torch.tensor(arrays.shapedirs[..., :SHAPES])),
            ("posedirs", torch.tensor(arrays.posedirs)),
            ("joint_regressor", torch.tensor(arrays.joint_regressor)),
            ("weights", torch.tensor(arrays.weights)),
            ("mean_pose", mean_pose),
        ):
            self.register_buffer(name, tensor, persistent=False)  # licensed: no part of a checkpoint

    def forward(self, pose: Tensor, betas: Tensor) -> Skinned:
        """Args: pose (N, 3 K) axis-angle, radians, the root's first; betas (N, 10)."""
        rotations = rotation_matrices((pose + self.mean_pose).unflatten(1, (-1, 3)))
        shaped = self.v_template + torch.einsum("vcb,nb->nvc", self.shapedirs, betas)
        joints = self.joint_regressor @ shaped
        bend = (rotations[:, 1:] - torch.eye(3, dtype=pose.dtype, device=pose.device)).flatten(1)
        posed = shaped + torch.einsum("vcp,np->nvc", self.posedirs, bend)
        turns, shifts = self._chain(rotations, joints)

        # A vertex at rest, seen from a joint at rest, is carried to where that joint has gone.
        offsets = shifts - (turns @ joints.unsqueeze(3)).squeeze(3)
        blended = torch.einsum("vk,nkij->nvij", self.weights, turns)
        vertices = (blended @ posed.unsqueeze(3)).squeeze(3) + self.weights @ offsets
        return Skinned(vertices, shifts)

    def _chain(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Down the joint tree: world rotations (N, K, 3, 3) and positions (N, K, 3); the root stays where it was."""
        turns, shifts = [rotations[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self.parents[1:], start=1):
            bone = (joints[:, joint] - joints[:, parent]).unsqueeze(2)
            shifts.append(shifts[parent] + (turns[parent] @ bone).squeeze(2))
            turns.append(turns[parent] @ rotations[:, joint])
        return torch.stack(turns, dim=1), torch.stack(shifts, dim=1)


def rotation_matrices(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula, (..., 3) radians -> (..., 3, 3); smooth at zero, and so is its gradient.

    R = I + a K + b K², with K the cross-product matrix of the vector, a = sin(t) / t and b = (1 - cos(t)) / t².
    """
    squared = (axis_angle * axis_angle).sum(dim=-1)
    small = squared < SMALL_ANGLE_SQUARED
    # The branch that is not taken must be finite too, or its gradient would be NaN.
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    a = torch.where(small, 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42)), angle.sin() / angle)
    half = angle / 2
    b = torch.where(small, 0.5 - squared / 24 * (1 - squared / 30 * (1 - squared / 56)), 0.5 * (half.sin() / half) ** 2)
    x, y, z = axis_angle.unbind(dim=-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + a[..., None, None] * cross + b[..., None, None] * (cross @ cross)
