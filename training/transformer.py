"""The METRO transformer block: post-norm BERT layers that change the width of every token (paper, section 3.2).

Attribute names are those of the original state dict, so that its weights load by name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAR = -1e4
"""Added to the score of a token that is no neighbour: float16 and bfloat16 hold it, and softmax makes it 0."""


class TransformerBlock(nn.Module):
    """(N, T, in_features) -> (N, T, out_features): embed, attend, project; the residual takes the block's input.

    No LayerNorm follows the embedding and no attention mask is added: the original's mask of ones adds exactly 0.

    Args:
        neighbours: (T, T) bool, the tokens that each token attends to, or None for all. Not in the state dict.
    """

    def __init__(
        self,
        *,
        in_features: int,
        hidden: int,
        feed_forward: int,
        out_features: int,
        layers: int,
        heads: int,
        position_rows: int,
        dropout: float,
        layer_norm_eps: float,
        init_std: float,
        neighbours: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bert = Bert(in_features, hidden, feed_forward, layers, heads, position_rows, dropout, layer_norm_eps)
        self.cls_head = nn.Linear(hidden, out_features)
        self.residual = nn.Linear(in_features, out_features)
        self._initialise(init_std)
        if neighbours is not None:
            mask = torch.where(neighbours, 0.0, FAR)
            for attention in self._attentions():
                attention.mask = mask

    def forward(self, tokens: Tensor) -> Tensor:
        return self.cls_head(self.bert(tokens)) + self.residual(tokens)

    @property
    def attention_mask(self) -> Tensor | None:
        """(T, T), what every layer adds to its scores: 0 for a neighbour, else FAR; None where all are neighbours."""
        return self._attentions()[0].mask

    def _attentions(self) -> list[SelfAttention]:
        return [module for module in self.modules() if isinstance(module, SelfAttention)]

    def _initialise(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)


class Bert(nn.Module):
    """Token features and learned positions through a stack of encoder layers."""

    def __init__(
        self,
        in_features: int,
        hidden: int,
        feed_forward: int,
        layers: int,
        heads: int,
        position_rows: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.img_embedding = nn.Linear(in_features, hidden)
        self.position_embeddings = nn.Embedding(position_rows, hidden)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Encoder(hidden, feed_forward, layers, heads, dropout, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        return self.encoder(self.dropout(self.img_embedding(tokens) + positions))


class Encoder(nn.Module):
    """A stack of layers, kept as a module of its own for its name."""

    def __init__(self, hidden: int, feed_forward: int, layers: int, heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(EncoderLayer(hidden, feed_forward, heads, dropout, eps) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layer:
            tokens = layer(tokens)
        return tokens


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward with the exact (erf) GELU, each added and then normalised."""

    def __init__(self, hidden: int, feed_forward: int, heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.attention = Attention(hidden, heads, dropout, eps)
        self.intermediate = Intermediate(hidden, feed_forward)
        self.output = AddAndNorm(feed_forward, hidden, dropout, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        attended = self.attention(tokens)
        return self.output(self.intermediate(attended), attended)


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.self = SelfAttention(hidden, heads, dropout)
        self.output = AddAndNorm(hidden, hidden, dropout, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.self(tokens), tokens)


class SelfAttention(nn.Module):
    """softmax(q k' / sqrt(hidden / heads) + mask) v, per head; without a mask there is nothing to add."""

    mask: Tensor | None

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.register_buffer("mask", None, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self._heads(self.value, tokens)
        dropout = self.dropout if self.training else 0.0
        context = F.dropout(self.weights(tokens).to(value.dtype), dropout) @ value
        return context.transpose(1, 2).flatten(2)

    def weights(self, tokens: Tensor) -> Tensor:
        """(N, heads, T, T): how much each token, a row, attends to each, before dropout; rows sum to 1."""
        query, key = self._heads(self.query, tokens), self._heads(self.key, tokens)
        # Written out: torch's fused attention for CPUs takes five times as long, forward and backward, at 128 tokens.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        if self.mask is not None:
            scores = scores + self.mask
        return scores.softmax(dim=3)

    def _heads(self, linear: nn.Linear, tokens: Tensor) -> Tensor:
        """(N, heads, T, head width)."""
        return linear(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)


class Intermediate(nn.Module):
    def __init__(self, hidden: int, feed_forward: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, feed_forward)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.gelu(self.dense(tokens))


class AddAndNorm(nn.Module):
    """LayerNorm(dropout(dense(x)) + skip)."""

    def __init__(self, in_features: int, out_features: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, out_features)
        self.LayerNorm = nn.LayerNorm(out_features, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, skip: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(tokens)) + skip)


def repeat_over_batch(constant: Tensor, like: Tensor) -> Tensor:
    """(T, C) -> (N, T, C), with N of `like` (N, ...); a view, no copy."""
    return torch.broadcast_to(constant, (like.shape[0], *constant.shape))
