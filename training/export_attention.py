"""The attention view of a network, a part of its bundle: what its last layer attends to, and where the tokens lie.

Following the paper (section 4.4 and figure 1), attention is that of the last layer of the last block, averaged over its
heads; row i tells how much token i attends to each token, the joints first, then the coarsest vertices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from training.folding import FoldedMetro
from training.network import Metro
from training.normalize import Normalize
from training.onnx_graph import ROUNDED_TOLERANCE, check_against, halve_weights, to_onnx
from training.transformer import SelfAttention

OUTPUT_NAMES = ("joints", "vertices", "camera", "attention")


class AttentionGraph(nn.Module):
    """uint8 (N, S, S, 3) RGB -> joints (N, J, 3), coarsest vertices (N, V_0, 3), camera (N, 3), attention (N, T, T)."""

    def __init__(self, folded: FoldedMetro) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.folded = folded

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        output = self.folded.coarse(self.normalize(image))
        return output.joints, output.vertices, output.camera, output.attention.mean(dim=1)


def checked_attention_view(
    metro: Metro, crops: npt.NDArray[np.uint8], compact: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """The ONNX model of the part `attention`, and what the manifest tells of it.

    Args:
        crops: (N, S, S, 3) uint8 RGB, to compare with torch on.
        compact: store the weights in float16; see onnx_graph.halve_weights.

    Raises:
        ExportError: ONNX Runtime and torch differ by more than TOLERANCE, or, with halved weights, ROUNDED_TOLERANCE.
    """
    model = to_onnx(AttentionGraph(FoldedMetro(metro)), crops.shape[1], OUTPUT_NAMES)
    differences = check_against(model, lambda images: attention_view(metro, images), crops)
    if compact:
        model = halve_weights(model, rounded=True)
        differences = check_against(model, lambda images: attention_view(metro, images), crops, ROUNDED_TOLERANCE)
    layer = f"last of block {len(metro.blocks())}"
    details = {"layer": layer, "heads": _last_attention(metro).heads, "largest_difference_onnx_torch": differences}
    return model, details


def attention_view(metro: Metro, images: Tensor) -> dict[str, Tensor]:
    """What AttentionGraph computes, by the unfolded network: normalised images (N, 3, S, S) to each output's value."""
    seen: list[Tensor] = []
    hook = _last_attention(metro).register_forward_hook(lambda module, tokens, _: seen.append(module.weights(*tokens)))
    try:
        output = metro(images, levels=1)
    finally:
        hook.remove()
    values = (output.joints, output.vertices[0], output.camera, seen[-1].mean(dim=1))
    return dict(zip(OUTPUT_NAMES, values, strict=True))


def _last_attention(metro: Metro) -> SelfAttention:
    """The self-attention of the network's last layer."""
    return [module for module in metro.modules() if isinstance(module, SelfAttention)][-1]
