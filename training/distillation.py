"""Knowledge distillation: a student also learns what a larger network, trained by the same code, answers.

Response distillation (Hinton et al., 2015, for regression): where the truth is one pose, the teacher's answer says what
can be told from these pixels, and its heatmaps say how surely. The teacher sees the same augmented crops, whole.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metro_ros.core.errors import ConfigError
from training.checkpoint import load_checkpoint
from training.mesh_spec import MeshSpec
from training.network import Metro, MetroOutput
from training.network_config import MetroConfig

HEATMAPS = 0.01
"""Weight of the heatmaps' cross-entropy, in nats, beside L1 distances in metres."""


class Teacher(nn.Module):
    """A frozen network that answers; its weights are no part of the student's checkpoint."""

    def __init__(self, metro: Metro) -> None:
        super().__init__()
        self._held = [metro.eval().requires_grad_(False)]  # in a list: not a submodule

    def to_device_of(self, like: Tensor) -> Metro:
        (metro,) = self._held
        return metro.to(like.device)

    @torch.no_grad()
    def forward(self, images: Tensor, levels: int | None) -> MetroOutput:
        return self.to_device_of(images)(images, levels=levels)


def load_teacher(path: Path, mesh: MeshSpec, network: MetroConfig, rounded: bool) -> Teacher:
    """The network of a checkpoint; rounded: as the student, see `network.Metro`.

    Raises ConfigError unless it has the student's mesh and sees crops of its size.
    """
    metro, config, _ = load_checkpoint(path)
    ours = (mesh.joint_names, mesh.level_sizes, network.image_size)
    theirs = (metro.mesh.joint_names, metro.mesh.level_sizes, config.image_size)
    if ours != theirs:
        expected = f"{len(ours[0])} joints, levels {ours[1]}, {ours[2]} px, as the student"
        got = f"{len(theirs[0])} joints, levels {theirs[1]}, {theirs[2]} px"
        raise ConfigError(f"the teacher {path}", expected=expected, got=got)
    metro.rounded = rounded
    return Teacher(metro)


def distillation_loss(student: MetroOutput, teacher: MetroOutput, person: Tensor) -> Tensor:
    """Mean absolute distance of joints, of every level that both computed, and of keypoints, metres and crop units; and
    the cross-entropy of the heatmaps. person: (N,) 0 for images without anyone, which teach nothing here."""
    shares = person / person.sum().clamp(min=1.0)

    def apart(ours: Tensor, theirs: Tensor) -> Tensor:
        return ((ours - theirs).abs().flatten(1).mean(dim=1) * shares).sum()

    levels = [
        apart(near, far)
        for near, far in zip(student.vertices, teacher.vertices, strict=True)
        if near is not None and far is not None
    ]
    total = apart(student.joints, teacher.joints) + torch.stack(levels).mean()
    if student.keypoints is not None and teacher.keypoints is not None:
        total = total + apart(student.keypoints, teacher.keypoints)
    ours, theirs = student.heatmaps, teacher.heatmaps
    if ours is not None and theirs is not None and ours.shape == theirs.shape:
        target = theirs.flatten(2).softmax(dim=2)
        crossed = -(target * F.log_softmax(ours.flatten(2), dim=2)).sum(dim=2).mean(dim=1)
        total = total + HEATMAPS * (crossed * shares).sum()
    return total
