"""Exact folding: the same function as an eval Metro with a fraction of its arithmetic and parameters.

Everything between the transformer encoders is linear, so with x the tokens, h_i the output of encoder i and M, B
matrices, what every later stage needs is

    e_k = M_k x + sum over i < k of B_ki h_i + constant        embedding of block k (k = 0 .. K-1)
    out = M_K x + sum over i < K of B_Ki h_i + constant        joints and coarse vertices

Hence: the M_k are stacked into one matrix, applied to the few grid cells before these are mixed into tokens; template,
biases and position tables become one constant; each encoder is followed by one stacked matrix; the upsamplings become
one matrix and so do the camera's linear layers. Products are formed in float64 and rounded once.

Each batch norm goes into the convolution before it.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.heads import features_at_joints, fit_camera
from training.network import Metro, for_joints_alone, global_vector
from training.reliability import gather_clues, sighting
from training.transformer import EncoderLayer


class FoldedOutput(NamedTuple):
    """joints (N, J, 3), vertices (N, V, 3) of the finest level, camera (N, 3); in [0, 1], (N, J) or None: confidence,
    and visibility, see reliability.sighting, where it is not all that the network knows of confidence."""

    joints: Tensor
    vertices: Tensor
    camera: Tensor
    confidence: Tensor | None
    visibility: Tensor | None


class CoarseOutput(NamedTuple):
    """FoldedOutput before the upsampling: vertices (N, V_0, 3), and how the tokens came about.

    attention: (N, heads, T, T) of the last layer; how much each token, a row, attends to each; rows sum to 1.
    """

    joints: Tensor
    vertices: Tensor
    camera: Tensor
    confidence: Tensor | None
    visibility: Tensor | None
    attention: Tensor


class FoldedMetro(nn.Module):
    """A trained Metro for inference only. Built from a Metro in eval mode; heads and feed-forwards are shared.

    Raises:
        ValueError: the network is in training mode (its batch norms and dropouts would not be constants).
    """

    project_image: Tensor
    project_global: Tensor
    project_joint: Tensor
    token_mix: Tensor
    constant: Tensor
    attention_mask: Tensor | None

    @torch.no_grad()
    def __init__(self, metro: Metro) -> None:
        super().__init__()
        if metro.training:
            raise ValueError("fold a network in eval mode: call metro.eval() first")
        self.mesh = metro.mesh
        self.joint_features = metro.joint_features
        self.backbone = copy.deepcopy(metro.backbone)
        _fold_batch_norms(self.backbone)
        self.keypoint_head = metro.keypoint_head
        self.reliability_head = metro.reliability_head
        self.encoders = nn.ModuleList(FoldedEncoder(block.bert.encoder.layer) for block in metro.blocks())
        self.register_buffer("attention_mask", metro.blocks()[0].attention_mask)
        self.widths = [block.bert.img_embedding.out_features for block in metro.blocks()] + [3]
        self._fold_tokens(metro)
        self.camera_source = metro.camera_source
        if metro.camera_source != "keypoints":
            self.camera = _fold_camera(metro)
        self.upsample = _fold_upsampling(metro)
        self.to(metro.template_tokens.dtype)

    def forward(self, images: Tensor) -> FoldedOutput:
        """images (N, 3, S, S), normalised."""
        joints, coarse, camera, confidence, visibility, _ = self.coarse(images)
        vertices = self.upsample(coarse.transpose(1, 2)).transpose(1, 2)
        return FoldedOutput(joints, vertices, camera, confidence, visibility)

    def coarse(self, images: Tensor) -> CoarseOutput:
        """As forward, up to the coarsest vertices."""
        features = self.backbone(images)
        keypoints = confidence = None
        if self.keypoint_head is not None:
            keypoints, confidence = self.keypoint_head(features.heatmaps, features.image)

        at_joints = None
        if self.joint_features:
            at_joints = features_at_joints(features.heatmaps, features.fine)  # type: ignore[arg-type]
        stages = list(self._project(features.image, keypoints, confidence, at_joints).split(self.widths, dim=2))
        for k, encoder in enumerate(self.encoders):
            encoded, attention = encoder(stages[k], self.attention_mask)
            later = self.spread[k](encoded).split(self.widths[k + 1 :], dim=2)
            stages[k + 1 :] = [stage + part for stage, part in zip(stages[k + 1 :], later, strict=True)]

        tokens = stages[-1]
        joint_count = self.mesh.joint_count
        joints, coarse = tokens[:, :joint_count], tokens[:, joint_count:]
        if keypoints is not None and confidence is not None and self.camera_source == "keypoints":
            camera = fit_camera(joints, keypoints, confidence)
        else:
            camera = self.camera((coarse if self.camera_source == "coarse" else tokens).flatten(1))
        if keypoints is None or confidence is None:
            return CoarseOutput(joints, coarse, camera, None, None, attention)
        if self.reliability_head is None:
            return CoarseOutput(joints, coarse, camera, confidence.sigmoid(), None, attention)
        clues = gather_clues(features.heatmaps, features.mask, keypoints, confidence, joints, camera)
        reliability = self.reliability_head(clues).sigmoid()
        seen = sighting(confidence, features.heatmaps, features.mask)
        return CoarseOutput(joints, coarse, camera, reliability, seen, attention)

    def _project(
        self, image: Tensor, keypoints: Tensor | None, confidence: Tensor | None, at_joints: Tensor | None
    ) -> Tensor:
        """(N, T, sum of widths): M_0 x .. M_K x with all constants, for a map (N, C, h, w) or a vector (N, C)."""
        if image.dim() == 2:
            stages = (image @ self.project_image).unsqueeze(1)
        else:
            stages = self.token_mix @ (image.flatten(2).transpose(1, 2) @ self.project_image)
        if keypoints is not None and confidence is not None:
            stages = stages + (global_vector(keypoints, confidence) @ self.project_global).unsqueeze(1)
        if at_joints is not None:
            stages = stages + for_joints_alone(at_joints @ self.project_joint, self.mesh, sum(self.widths), image)
        return stages + self.constant

    def _fold_tokens(self, metro: Metro) -> None:
        tokens, in_features = metro.mesh.token_count, metro.blocks()[0].residual.in_features
        # The input of block k is carry @ x + offset + sum over i of from_encoder[i] @ h_i.
        carry, offset = torch.eye(in_features, dtype=torch.float64), torch.zeros(in_features, dtype=torch.float64)
        from_encoder: list[Tensor] = []
        projections, constants = [], []
        spread: list[list[Tensor]] = [[] for _ in metro.blocks()]
        for block in metro.blocks():
            embed, positions = block.bert.img_embedding, block.bert.position_embeddings.weight[:tokens].double()
            weight = embed.weight.double()
            projections.append(weight @ carry)
            constants.append(weight @ offset + embed.bias.double() + positions)
            for i, matrix in enumerate(from_encoder):
                spread[i].append(weight @ matrix)
            head, residual = block.cls_head, block.residual
            weight = residual.weight.double()
            from_encoder = [weight @ matrix for matrix in from_encoder] + [head.weight.double()]
            offset = weight @ offset + residual.bias.double() + head.bias.double()
            carry = weight @ carry
        projections.append(carry)
        constants.append(offset.expand(tokens, 3))
        for i, matrix in enumerate(from_encoder):
            spread[i].append(matrix)
        self.spread = nn.ModuleList(_linear(torch.cat(matrices)) for matrices in spread)

        projection, constant = torch.cat(projections), torch.cat(constants, dim=1)
        image_end = 3 + metro.backbone.out_channels
        seen_end = in_features - metro.joint_features
        template, image = projection[:, :3], projection[:, 3:image_end]
        seen, at_joint = projection[:, image_end:seen_end], projection[:, seen_end:]
        constant = constant + metro.template_tokens.double() @ template.T
        mixer = metro.conv_learn_tokens
        if mixer is not None and mixer.bias is not None:
            # One bias per token, the same for every channel.
            constant = constant + mixer.bias.double()[:, None] * image.sum(dim=1)
            self.register_buffer("token_mix", mixer.weight.detach().squeeze(2).clone())
        self.register_buffer("project_image", image.T.contiguous())
        self.register_buffer("project_global", seen.T.contiguous())
        if metro.joint_features:
            self.register_buffer("project_joint", at_joint.T.contiguous())
        self.register_buffer("constant", constant)


class FoldedEncoder(nn.Module):
    """The layers of one block, with query, key and value as one matrix that also holds the 1 / sqrt(head width)."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FoldedLayer(layer) for layer in layers)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C), and the attention (N, heads, T, T) of the last layer."""
        for layer in self.layers:
            tokens, attention = layer(tokens, attention_mask)
        return tokens, attention


class FoldedLayer(nn.Module):
    """See transformer.EncoderLayer."""

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        attention = layer.attention.self
        self.heads = attention.heads
        scale = (attention.query.out_features / attention.heads) ** -0.5
        scaled = [(attention.query, scale), (attention.key, 1.0), (attention.value, 1.0)]
        self.query_key_value = _linear(
            torch.cat([linear.weight.double() * factor for linear, factor in scaled]),
            torch.cat([linear.bias.double() * factor for linear, factor in scaled]),
        )
        self.attention_output = layer.attention.output
        self.intermediate = layer.intermediate
        self.output = layer.output

    def forward(self, tokens: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.query_key_value(tokens).chunk(3, dim=2)
        )
        scores = query @ key.transpose(2, 3)
        if attention_mask is not None:
            scores = scores + attention_mask
        attention = scores.softmax(dim=3)
        attended = self.attention_output((attention @ value).transpose(1, 2).flatten(2), tokens)
        return self.output(self.intermediate(attended), attended), attention


def _fold_camera(metro: Metro) -> nn.Linear:
    """(N, 3 P) flattened points -> (N, 3): the three linear layers as one."""
    first, second, third = metro.cam_param_fc, metro.cam_param_fc2, metro.cam_param_fc3
    points = third.weight.double() @ second.weight.double()
    weight = (points[:, :, None] * first.weight.double()).flatten(1)
    bias = points.sum(dim=1) * first.bias.double() + third.weight.double() @ second.bias.double() + third.bias.double()
    return _linear(weight, bias)


def _fold_upsampling(metro: Metro) -> nn.Linear:
    """Coarsest straight to finest."""
    size = metro.mesh.level_sizes[0]
    weight, bias = torch.eye(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for linear in metro.upsamplings():
        weight, bias = linear.weight.double() @ weight, linear.weight.double() @ bias + linear.bias.double()
    return _linear(weight, bias)


def _fold_batch_norms(module: nn.Module) -> None:
    """In place: a batch norm becomes an Identity where it follows a convolution, as child or as `bn2` after `conv2`."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norms(child)
        previous = (name, child)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A frozen linear layer with these values."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
