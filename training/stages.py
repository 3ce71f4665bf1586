"""Three stages of training the default network: its eyes, its idea of bodies, then both together.

`backbone` learns what is visible (the side tasks); `tokens` learns bodies from true keypoints, disturbed, with no image
at all, several times faster than with one; `all` is METRO's own training. The first two need nothing of each other and
run side by side, one core each.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from training.augment import Batch
from training.losses import LossWeights, Truth, metro_losses
from training.masking import mask_tokens
from training.network import Metro, MetroOutput
from training.side_losses import Seen, SideWeights, anchor_loss, side_loss

Stage = Literal["backbone", "tokens", "all"]


def whole_loss(output: MetroOutput, batch: Batch, mesh_roots: tuple[int, ...], weights: LossWeights) -> Tensor:
    """METRO's losses on the joints, the computed levels and the camera of a batch."""
    truth = Truth(
        joints=batch.joints,
        vertices=(batch.coarse, batch.middle, batch.middle),
        keypoints=batch.keypoints,
        joint_confidence=torch.ones_like(batch.visible),
        keypoint_confidence=batch.visible,
        has_joints=batch.person,
        has_vertices=batch.person,
    )
    losses = metro_losses(output, truth, root_joints=mesh_roots, level_weights=weights.levels, regressor=None)
    return losses.total(weights)


def look(metro: Metro, images: Tensor) -> Seen:
    """The backbone and its keypoint head alone."""
    features = metro.backbone(images)
    assert metro.keypoint_head is not None
    assert features.heatmaps is not None and features.mask is not None and features.surface is not None
    keypoints, confidence = metro.keypoint_head(features.heatmaps, features.image)
    return Seen(keypoints, confidence, features.heatmaps, features.mask, features.surface)


def imagine(metro: Metro, keypoints: Tensor, confidence: Tensor, token_mask: Tensor) -> MetroOutput:
    """The tokens alone, from keypoints (N, J, 2) and confidence logits (N, J); the image features are zero."""
    assert metro.conv_learn_tokens is not None
    cells = int(math.sqrt(metro.conv_learn_tokens.in_channels))
    image = keypoints.new_zeros(len(keypoints), metro.backbone.out_channels, cells, cells)
    tokens = mask_tokens(metro.tokens(image, keypoints, confidence), token_mask)
    for block in metro.trans_encoder:
        tokens = block(tokens)
    joints, coarse = tokens[:, : metro.mesh.joint_count], tokens[:, metro.mesh.joint_count :]
    camera = metro.camera(tokens, keypoints, confidence)
    return MetroOutput(camera, joints, metro.upsample(coarse, 2), keypoints, confidence, None, None, None)


def disturb_keypoints(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """True keypoints as a fair backbone would see them: a few pixels off, the unseen ones anywhere and not believed."""
    shape, device = batch.keypoints.shape, batch.keypoints.device
    sigma = 0.06 * torch.rand(shape[0], 1, 1, generator=generator).to(device)
    noise = torch.randn(shape, generator=generator).to(device)
    seen = batch.visible[..., None]
    guess = batch.keypoints.clamp(-1, 1) + 0.15 * noise
    keypoints = torch.where(seen > 0, batch.keypoints + sigma * noise, guess.clamp(-1, 1))
    belief = 1.0 + 4.0 * torch.rand(batch.visible.shape, generator=generator).to(device)
    return keypoints, torch.where(batch.visible > 0, belief, -belief)


def stage_loss(
    stage: Stage,
    metro: Metro,
    batch: Batch,
    images: Tensor,
    token_mask: Tensor,
    generator: torch.Generator,
    weights: LossWeights,
    side: SideWeights,
) -> Tensor:
    """The loss of one batch in one stage.

    Args:
        images: (N, 3, S, S) normalised.
        token_mask: (N, T, 1) of masked vertex modelling.
    """
    roots = metro.mesh.root_joints
    if stage == "backbone":
        return side_loss(look(metro, images), batch, side)
    if stage == "tokens":
        output = imagine(metro, *disturb_keypoints(batch, generator), token_mask)
        return whole_loss(output, batch, roots, weights) + side.anchored_joints * anchor_loss(output.joints, batch)
    output = metro(images, token_mask=token_mask, levels=2)
    assert output.keypoints is not None and output.confidence is not None
    assert output.heatmaps is not None and output.mask is not None and output.surface is not None
    seen = Seen(output.keypoints, output.confidence, output.heatmaps, output.mask, output.surface)
    return (
        whole_loss(output, batch, roots, weights)
        + side_loss(seen, batch, side)
        + side.anchored_joints * anchor_loss(output.joints, batch)
    )
