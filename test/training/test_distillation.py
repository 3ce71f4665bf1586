"""A student learns what its teacher answers, and nothing else of the teacher changes or is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_network import make_mesh, scramble, small_config

from metro_ros.core.errors import ConfigError
from training.build import build
from training.checkpoint import save_checkpoint
from training.distillation import distillation_loss, load_teacher


def test_the_loss_is_least_where_the_teacher_is(tmp_path: Path) -> None:
    mesh, config = make_mesh(), small_config("default")
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "t.safetensors", scramble(build(config, mesh)), config)
    teacher = load_teacher(tmp_path / "t.safetensors", mesh, config, rounded=False)
    assert not list(teacher.parameters())  # no part of the student's optimiser or checkpoint
    images, person = torch.randn(4, 3, 64, 64), torch.ones(4)
    taught = teacher(images, levels=2)
    assert taught.vertices[2] is None
    assert not taught.joints.requires_grad
    same = distillation_loss(taught, taught, person)
    other = taught._replace(joints=taught.joints + torch.tensor([0.3, 0.0, 0.0]))
    assert distillation_loss(other, taught, person) - same == pytest.approx(0.1, abs=1e-5)
    blurred = taught._replace(heatmaps=torch.zeros_like(taught.heatmaps))
    assert distillation_loss(blurred, taught, person) > same
    # An image without anyone teaches nothing.
    wrong = other._replace(joints=torch.cat([other.joints[:1] + 9.0, taught.joints[1:]]))
    kept = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert distillation_loss(wrong, taught, kept) == pytest.approx(float(distillation_loss(taught, taught, kept)))

    student = build(config, mesh)
    before = float(distillation_loss(student(images, levels=2), taught, person))
    optimiser = torch.optim.Adam(student.parameters(), 3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        distillation_loss(student(images, levels=2), taught, person).backward()
        optimiser.step()
    assert float(distillation_loss(student(images, levels=2), taught, person)) < 0.8 * before


def test_a_teacher_of_another_mesh_or_crop_is_refused(tmp_path: Path) -> None:
    mesh, config = make_mesh(), small_config("default")
    save_checkpoint(tmp_path / "t.safetensors", build(config, mesh), config)
    with pytest.raises(ConfigError, match="128 px, as the student"):
        load_teacher(tmp_path / "t.safetensors", mesh, replace(config, image_size=128), rounded=False)
    with pytest.raises(ConfigError, match="4 joints"):
        load_teacher(tmp_path / "t.safetensors", make_mesh(joints=4), config, rounded=False)
