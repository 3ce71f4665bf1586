"""METRO: a mesh from an image, by tokens of a template that attend to each other (arXiv 2012.09760, section 3)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbone import Backbone, Features
from training.heads import KeypointHead, features_at_joints, fit_camera
from training.masking import mask_tokens
from training.mesh_spec import MeshSpec
from training.precision import rounding
from training.reliability import ReliabilityHead, gather_clues
from training.transformer import TransformerBlock, repeat_over_batch

CameraSource = Literal["coarse", "tokens", "keypoints"]
"""Where (s, tx, ty) comes from: linear maps of the coarsest vertices (the paper's body) or of all tokens (its hand),
or the closed-form fit of the joints to the keypoints."""


class MetroOutput(NamedTuple):
    """Metres, root-relative, x right, y down, z forward. Of fixed length: what a network lacks is None.

    Attributes:
        camera: (N, 3) weak perspective (s, tx, ty).
        joints: (N, J, 3), the joint tokens.
        vertices: per level (N, V_level, 3), coarsest first; None for levels that were not asked for.
        keypoints: (N, J, 2) crop coordinates, or None.
        confidence: (N, J) logits of being in sight, or None.
        heatmaps: (N, J, H, W) logits, or None.
        mask: (N, 1, H, W) logits, or None.
        surface: (N, 3, H, W) template coordinates, metres, or None.
        reliability: (N, J) logits of a joint being right, see ReliabilityHead, or None.
    """

    camera: Tensor
    joints: Tensor
    vertices: tuple[Tensor | None, ...]
    keypoints: Tensor | None
    confidence: Tensor | None
    heatmaps: Tensor | None
    mask: Tensor | None
    surface: Tensor | None
    reliability: Tensor | None = None


class Metro(nn.Module):
    """Backbone, tokens, transformer blocks, camera and upsampling, for any mesh spec.

    Built by `training.build.build`, where every number is visible.

    Args:
        mesh: joints, levels and template.
        backbone: (N, 3, S, S) -> Features.
        grid_cells: h * w of the backbone's map, or None when it is pooled (then every token gets the same vector).
        keypoint_head: reads the heatmaps; its keypoints and confidences are then given to every token, or None.
        joint_features: P, to give every joint's token the backbone's fine map where that joint is, else 0.
        reliability_head: judges the answer, or None; only beside a keypoint head.
        blocks: transformer blocks, the last with 3 output features.
        camera: see CameraSource.
        camera_hidden: width inside the linear camera.
        train_upsampling: per step, whether the optimiser may change it.
    """

    template_tokens: Tensor
    joint_regressor: Tensor | None

    def __init__(
        self,
        *,
        mesh: MeshSpec,
        backbone: Backbone,
        grid_cells: int | None,
        keypoint_head: KeypointHead | None,
        joint_features: int,
        reliability_head: ReliabilityHead | None,
        blocks: list[TransformerBlock],
        camera: CameraSource,
        camera_hidden: int,
        train_upsampling: tuple[bool, ...],
    ) -> None:
        super().__init__()
        self.mesh = mesh
        self.rounded = False  # see training.precision
        self.backbone = backbone
        self.conv_learn_tokens = None if grid_cells is None else nn.Conv1d(grid_cells, mesh.token_count, 1)
        self.keypoint_head = keypoint_head
        self.joint_features = joint_features
        self.reliability_head = reliability_head
        self.trans_encoder = nn.ModuleList(blocks)
        self.camera_source: CameraSource = camera
        if camera != "keypoints":
            points = mesh.level_sizes[0] if camera == "coarse" else mesh.token_count
            self.cam_param_fc = nn.Linear(3, 1)
            self.cam_param_fc2 = nn.Linear(points, camera_hidden)
            self.cam_param_fc3 = nn.Linear(camera_hidden, 3)
        self._upsampling_names: list[str] = []
        for step, train in enumerate(train_upsampling):
            self._add_upsampling(step, train)
        self.register_buffer("template_tokens", torch.tensor(mesh.template_tokens), persistent=False)
        regressor = None if mesh.joint_regressor is None else torch.tensor(mesh.joint_regressor)
        self.register_buffer("joint_regressor", regressor, persistent=False)

    def forward(self, images: Tensor, token_mask: Tensor | None = None, levels: int | None = None) -> MetroOutput:
        """One pass over a batch of crops.

        Args:
            images: (N, 3, S, S) float32, RGB, normalised.
            token_mask: (N, T, 1), 0 where a token is hidden (masked vertex modelling), or None.
            levels: how many mesh levels to compute, coarsest first; None for all.
        """
        features = self.see(images)
        keypoints = confidence = None
        if self.keypoint_head is not None:
            keypoints, confidence = self.keypoint_head(features.heatmaps, features.image)

        at_joints = None
        if self.joint_features:
            assert features.heatmaps is not None and features.fine is not None
            at_joints = features_at_joints(features.heatmaps, features.fine)

        tokens = self.tokens(features.image, keypoints, confidence, at_joints)
        if token_mask is not None:
            tokens = mask_tokens(tokens, token_mask)
        tokens = self.attend(tokens)

        joints, coarse = tokens[:, : self.mesh.joint_count], tokens[:, self.mesh.joint_count :]
        camera = self.camera(tokens, keypoints, confidence)
        reliability = None
        if self.reliability_head is not None and keypoints is not None and confidence is not None:
            clues = gather_clues(features.heatmaps, features.mask, keypoints, confidence, joints, camera)
            reliability = self.reliability_head(clues)
        return MetroOutput(
            camera, joints, self.upsample(coarse, levels),
            keypoints, confidence, features.heatmaps, features.mask, features.surface, reliability,
        )  # fmt: skip

    def see(self, images: Tensor) -> Features:
        """The backbone, rounded where `rounded` says so and it pays; float32 comes out."""
        if not self.rounded or (images.device.type == "cpu" and not self.backbone.rounds_on_cpu):
            return self.backbone(images)
        with rounding(images.device):
            features = self.backbone(images)
        return Features(*(None if part is None else part.float() for part in features))  # type: ignore[arg-type]

    def attend(self, tokens: Tensor) -> Tensor:
        """(N, T, in_features) through every block to (N, T, 3); the last, which speaks in metres, is never rounded."""
        *wide, last = self.blocks()
        for block in wide:
            if self.rounded:
                with rounding(tokens.device):
                    tokens = block(tokens).float()
            else:
                tokens = block(tokens)
        return last(tokens)

    def tokens(
        self, image: Tensor, keypoints: Tensor | None, confidence: Tensor | None, at_joints: Tensor | None
    ) -> Tensor:
        """(N, T, in_features): template xyz first, then image features, what the keypoint head saw, and where the
        token is a joint's, what is at that joint (N, J, P); None there is as good as zeros."""
        if self.conv_learn_tokens is None:
            per_token = image.unsqueeze(1).expand(-1, self.mesh.token_count, -1)
        else:
            per_token = self.conv_learn_tokens(image.flatten(2).transpose(1, 2))
        parts = [repeat_over_batch(self.template_tokens, image), per_token]
        if keypoints is not None and confidence is not None:
            seen = global_vector(keypoints, confidence)
            parts.append(seen.unsqueeze(1).expand(-1, self.mesh.token_count, -1))
        if self.joint_features:
            parts.append(for_joints_alone(at_joints, self.mesh, self.joint_features, image))
        return torch.cat(parts, dim=2)

    def camera(self, tokens: Tensor, keypoints: Tensor | None, confidence: Tensor | None) -> Tensor:
        """(N, 3) from the final tokens (N, T, 3)."""
        if keypoints is not None and confidence is not None and self.camera_source == "keypoints":
            return fit_camera(tokens[:, : self.mesh.joint_count], keypoints, confidence)
        points = tokens[:, self.mesh.joint_count :] if self.camera_source == "coarse" else tokens
        return self.cam_param_fc3(self.cam_param_fc2(self.cam_param_fc(points).squeeze(2)))

    def upsample(self, coarse: Tensor, levels: int | None = None) -> tuple[Tensor | None, ...]:
        """Coarsest vertices (N, V_0, 3) -> one tensor per level, None beyond `levels`. Linear over the vertex axis."""
        wanted = len(self.mesh.level_sizes) if levels is None else levels
        vertices: list[Tensor | None] = [coarse]
        for level, linear in enumerate(self.upsamplings(), start=1):
            coarse = linear(coarse.transpose(1, 2)).transpose(1, 2) if level < wanted else coarse
            vertices.append(coarse if level < wanted else None)
        return tuple(vertices)

    def blocks(self) -> list[TransformerBlock]:
        """The transformer blocks, widest first."""
        return list(self.trans_encoder)  # type: ignore[arg-type]

    def upsamplings(self) -> list[nn.Linear]:
        """The linear maps between levels, coarsest first."""
        return [self.get_submodule(name) for name in self._upsampling_names]  # type: ignore[misc]

    def regress_joints(self, vertices: Tensor) -> Tensor:
        """Joints (N, J, 3) from the finest mesh (N, V, 3), by the mesh's regressor."""
        if self.joint_regressor is None:
            raise ValueError(f"mesh {self.mesh.name} has no joint regressor")
        return self.joint_regressor @ vertices

    def _add_upsampling(self, step: int, train: bool) -> None:
        """`upsampling`, `upsampling2`, ...: from the mesh's matrix where there is one, else PyTorch's default start."""
        linear = nn.Linear(self.mesh.level_sizes[step], self.mesh.level_sizes[step + 1])
        if self.mesh.upsampling:
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(self.mesh.upsampling[step]))
                linear.bias.zero_()
        linear.requires_grad_(train)
        name = "upsampling" if step == 0 else f"upsampling{step + 1}"
        self._upsampling_names.append(name)
        self.add_module(name, linear)


def for_joints_alone(at_joints: Tensor | None, mesh: MeshSpec, width: int, like: Tensor) -> Tensor:
    """(N, J, width) -> (N, T, width), zero for the vertices; None is zero for all. like: (N, ...) of the batch."""
    if at_joints is None:
        return like.new_zeros(len(like), mesh.token_count, width)
    return F.pad(at_joints, (0, 0, 0, mesh.token_count - mesh.joint_count))


def global_vector(keypoints: Tensor, confidence: Tensor) -> Tensor:
    """(N, 3 J): keypoints (N, J, 2) then probabilities, flattened; what every token knows of the picture's 2D."""
    return torch.cat([keypoints.flatten(1), confidence.sigmoid()], dim=1)
