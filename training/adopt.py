"""The tokens' weights of a network with another backbone: bodies are the same, whatever looks at them."""

from __future__ import annotations

from torch import Tensor

from training.network import Metro

_EMBEDDINGS = ("trans_encoder.0.bert.img_embedding.weight", "trans_encoder.0.residual.weight")
"""What reads the tokens as they come in, (features out, features in)."""
_TEMPLATE = 3


def adopt_tokens(metro: Metro, source: Metro, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` of `source`, of its tokens, as far as they mean the same in `metro`.

    Where the backbones differ, so do the map that is mixed into tokens and the columns of the first embedding that read
    it: the mixing stays as it is in `metro`, and these columns begin at zero, as if there were no image yet. What is
    left, template and keypoints, is in the same order in both.
    """
    if source.backbone.out_channels == metro.backbone.out_channels and source.joint_features == metro.joint_features:
        return weights
    adopted = {name: value for name, value in weights.items() if not name.startswith("conv_learn_tokens.")}
    for name in _EMBEDDINGS:
        theirs, ours = weights[name], metro.get_parameter(name).detach().clone()
        columns = _TEMPLATE + source.backbone.out_channels
        seen = theirs[:, columns : theirs.shape[1] - source.joint_features]
        first = _TEMPLATE + metro.backbone.out_channels
        ours[:, :_TEMPLATE] = theirs[:, :_TEMPLATE]
        ours[:, _TEMPLATE:] = 0.0
        ours[:, first : first + seen.shape[1]] = seen
        adopted[name] = ours
    return adopted
