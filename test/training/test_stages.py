"""The stages of the default network's training."""

import numpy as np
import pytest
import torch
from tiny_network import make_mesh, small_config

from metro_ros.core.errors import ConfigError
from training.build import build
from training.datasets.mixture import Batch
from training.losses import BODY_WEIGHTS, LossWeights
from training.masking import sample_token_mask
from training.module import joint_errors
from training.network import Metro
from training.normalize import Normalize
from training.side_losses import SideWeights
from training.stages import Objective, disturb_keypoints, freeze_the_rest, stage_loss
from training.truth import TruthMaker

MESH = make_mesh()
OBJECTIVE = Objective(LossWeights(1.0, 1.0, 1.0, (1.0, 1.0, 0.0)), SideWeights(), levels=2, regressed=False)

ALL = list(range(MESH.joint_count))


def make_network() -> Metro:
    torch.manual_seed(0)
    return build(small_config("default"), MESH)


def make_batch(count: int = 6, dense: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, generator=generator)

    joints = MESH.joint_count
    return Batch(
        image=255 * random(64, 64, 3),
        keypoints=2 * random(joints, 2) - 1,
        keypoint_confidence=(random(joints) > 0.3).float(),
        joints=random(joints, 3),
        joint_confidence=torch.ones(count, joints),
        has_joints=torch.ones(count),
        vertices=random(10, 3),
        has_vertices=torch.ones(count),
        pose=None,
        betas=None,
        has_pose=torch.zeros(count),
        mask=random(16, 16) if dense else None,
        surface=random(3, 16, 16) if dense else None,
        has_dense=torch.full((count,), float(dense)),
        person=torch.ones(count),
        token_mask=sample_token_mask(count, joints, MESH.level_sizes[0], 0.0),
        first=0,
    )


def loss_of(stage, metro: Metro, batch: Batch, objective: Objective = OBJECTIVE) -> torch.Tensor:
    truth, images = TruthMaker(MESH, None, 10)(batch), Normalize()(batch.image)
    return stage_loss(stage, metro, batch, truth, images, torch.Generator().manual_seed(2), objective)[0]


@pytest.mark.parametrize("stage", ["backbone", "tokens", "all"])
def test_a_stage_reaches_every_weight_it_trains_and_no_other(stage) -> None:
    """Processes that share a step would wait for a gradient that never comes."""
    metro = make_network()
    freeze_the_rest(stage, metro)
    loss_of(stage, metro, make_batch()).backward()
    for name, parameter in metro.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {name.split(".")[0] for name, parameter in metro.named_parameters() if parameter.requires_grad}
    assert ("backbone" in trained) == (stage != "tokens") and ("trans_encoder" in trained) == (stage != "backbone")


def test_samples_without_dense_truth_do_not_teach_what_they_do_not_know() -> None:
    batch = make_batch()
    half = batch._replace(has_dense=torch.tensor([1.0, 1, 1, 0, 0, 0]))
    other = half._replace(mask=batch.mask.clone())  # type: ignore[union-attr]
    other.mask[3:] = 1 - other.mask[3:]  # type: ignore[index]
    metro = make_network().eval()
    body = SideWeights(surface=0.0)
    objective = Objective(OBJECTIVE.weights, body, levels=2, regressed=False)
    assert loss_of("backbone", metro, half, objective) == loss_of("backbone", metro, other, objective)
    assert loss_of("backbone", metro, batch, objective) != loss_of("backbone", metro, half, objective)
    assert torch.isfinite(loss_of("all", metro, make_batch(dense=False)))


def test_side_stages_need_side_tasks() -> None:
    plain = Objective(BODY_WEIGHTS, None, levels=None, regressed=False)
    with pytest.raises(ConfigError, match="side tasks"):
        loss_of("backbone", make_network(), make_batch(), plain)
    with pytest.raises(ConfigError, match="all levels"):
        Objective(BODY_WEIGHTS, None, levels=2, regressed=True)


def test_disturbed_keypoints_say_what_they_know() -> None:
    batch = make_batch(40)
    keypoints, belief = disturb_keypoints(batch, torch.Generator().manual_seed(0))
    seen = batch.keypoint_confidence > 0
    assert torch.equal(belief > 0, seen)
    off = (keypoints - batch.keypoints).abs()
    assert 0.01 < off[seen].mean() < 0.1 < off[~seen].mean()


def test_scores_are_measured_from_the_root() -> None:
    truth = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    moved = joint_errors(truth + np.float32([1, 2, 3]), truth, MESH, ALL)
    assert moved == {"mpjpe_mm": pytest.approx(0, abs=1e-3), "pa_mpjpe_mm": pytest.approx(0, abs=1e-3)}
    wrong = truth.copy()
    wrong[:, 4, 1] += 0.05
    assert joint_errors(wrong, truth, MESH, ALL)["mpjpe_mm"] == pytest.approx(10, abs=1e-3)
    assert joint_errors(truth[:0], truth[:0], MESH, ALL) == {"mpjpe_mm": 0.0, "pa_mpjpe_mm": 0.0}
