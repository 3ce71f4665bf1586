"""Three stages of training the default network: its eyes, its idea of bodies, then both together.

`backbone` learns what is visible (the side tasks); `tokens` learns bodies from true keypoints, disturbed, with no image
at all, several times faster than with one; `all` is METRO's own training. The first two need nothing of each other and
run side by side, one core each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metro_ros.core.errors import ConfigError
from training.datasets.mixture import Batch
from training.losses import LossWeights, Truth, metro_losses
from training.masking import mask_tokens
from training.mesh_spec import MeshSpec
from training.network import Metro, MetroOutput
from training.side_losses import Seen, SideWeights, anchor_loss, side_loss

Stage = Literal["backbone", "tokens", "all"]
BACKBONE_WEIGHTS = ("backbone.", "keypoint_head.")
TOKEN_WEIGHTS = ("conv_learn_tokens.", "trans_encoder.", "upsampling")
"""Which weights the first two stages train, by the beginnings of their names."""


def whole_loss(
    output: MetroOutput, truth: Truth, mesh: MeshSpec, weights: LossWeights, regressor: Tensor | None
) -> Tensor:
    """METRO's losses on joints, camera and every level that was computed and is known; see `losses.metro_losses`."""
    losses = metro_losses(output, truth, mesh=mesh, weights=weights, regressor=regressor)
    return losses.total(weights)


def look(metro: Metro, images: Tensor) -> Seen:
    """The backbone and its keypoint head alone."""
    features = metro.see(images)
    assert metro.keypoint_head is not None
    assert features.heatmaps is not None and features.mask is not None and features.surface is not None
    keypoints, confidence = metro.keypoint_head(features.heatmaps, features.image)
    return Seen(keypoints, confidence, features.heatmaps, features.mask, features.surface)


def imagine(metro: Metro, keypoints: Tensor, confidence: Tensor, token_mask: Tensor) -> MetroOutput:
    """The tokens alone, from keypoints (N, J, 2) and confidence logits (N, J); the image's features are zero."""
    assert metro.conv_learn_tokens is not None
    cells = int(math.sqrt(metro.conv_learn_tokens.in_channels))
    image = keypoints.new_zeros(len(keypoints), metro.backbone.out_channels, cells, cells)
    tokens = mask_tokens(metro.tokens(image, keypoints, confidence, None), token_mask)
    tokens = metro.attend(tokens)
    joints, coarse = tokens[:, : metro.mesh.joint_count], tokens[:, metro.mesh.joint_count :]
    camera = metro.camera(tokens, keypoints, confidence)
    return MetroOutput(camera, joints, metro.upsample(coarse, 2), keypoints, confidence, None, None, None)


def disturb_keypoints(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """True keypoints as a fair backbone would see them: a few pixels off, the unseen ones anywhere and not believed."""
    shape, device = batch.keypoints.shape, batch.keypoints.device
    sigma = 0.06 * torch.rand(shape[0], 1, 1, generator=generator).to(device)
    noise = torch.randn(shape, generator=generator).to(device)
    seen = batch.keypoint_confidence[..., None]
    guess = batch.keypoints.clamp(-1, 1) + 0.15 * noise
    keypoints = torch.where(seen > 0, batch.keypoints + sigma * noise, guess.clamp(-1, 1))
    belief = 1.0 + 4.0 * torch.rand(batch.keypoint_confidence.shape, generator=generator).to(device)
    return keypoints, torch.where(batch.keypoint_confidence > 0, belief, -belief)


@dataclass(frozen=True, slots=True)
class Objective:
    """What a network is trained to do.

    Attributes:
        weights: of METRO's own terms.
        side: of the side tasks, or None for a network whose backbone has none.
        levels: how many mesh levels are computed, coarsest first; None for all.
        regressed: whether joints regressed from the finest mesh count too, as in the paper.
        joints_from_mesh: whether samples without usable 3D joints take them from their true mesh; in the
            paper's sets, 3D joints are labelled or do not count.
    """

    weights: LossWeights
    side: SideWeights | None
    levels: int | None
    regressed: bool
    joints_from_mesh: bool = False

    def __post_init__(self) -> None:
        if self.regressed and self.levels is not None:
            raise ConfigError("regressed joints", expected="all levels computed", got=f"{self.levels} of them")


def stage_loss(
    stage: Stage,
    metro: Metro,
    batch: Batch,
    truth: Truth,
    images: Tensor,
    generator: torch.Generator,
    objective: Objective,
) -> tuple[Tensor, MetroOutput | None]:
    """The loss of one batch in one stage, and what the network answered where it answered in full.

    Args:
        truth: of the batch, see `training.truth`.
        images: (N, 3, S, S) normalised.
        generator: of the CPU, for what the stage draws.

    Raises:
        ConfigError: a stage of the side tasks for a network without them.
    """
    side, mesh = objective.side, metro.mesh
    regressor = metro.joint_regressor if objective.regressed else None
    if stage == "all":
        output = metro(images, token_mask=batch.token_mask, levels=objective.levels)
        loss = whole_loss(output, truth, mesh, objective.weights, regressor)
        if side is not None:
            assert output.keypoints is not None and output.confidence is not None
            assert output.heatmaps is not None and output.mask is not None and output.surface is not None
            seen = Seen(output.keypoints, output.confidence, output.heatmaps, output.mask, output.surface)
            loss = loss + side_loss(seen, batch, side) + side.anchored_joints * anchor_loss(output.joints, truth)
        return loss, output
    if side is None:
        raise ConfigError(f"stage {stage}", expected="a network with side tasks", got="one without")
    if stage == "backbone":
        return side_loss(look(metro, images), batch, side), None
    output = imagine(metro, *disturb_keypoints(batch, generator), batch.token_mask)
    loss = whole_loss(output, truth, mesh, objective.weights, regressor)
    return loss + side.anchored_joints * anchor_loss(output.joints, truth), output


def freeze_the_rest(stage: Stage, metro: Metro) -> None:
    """No gradient for parameters that a stage never reaches: processes that share a step wait for every other one."""
    if stage == "all":
        return
    for name, parameter in metro.named_parameters():
        seen = name.startswith(BACKBONE_WEIGHTS)
        if seen != (stage == "backbone"):
            parameter.requires_grad_(False)


def freeze(metro: Metro, names: Sequence[str]) -> None:
    """No gradient for parameters whose names begin with one of `names`. Raises ConfigError where none does."""
    for name in names:
        chosen = [parameter for own, parameter in metro.named_parameters() if own.startswith(name)]
        if not chosen:
            raise ConfigError("weights to freeze", expected="the beginning of a weight's name", got=name)
        for parameter in chosen:
            parameter.requires_grad_(False)
