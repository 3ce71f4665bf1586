"""The original networks' state dicts: every key and shape, and weights that follow from the key alone.

Weights: integers are zero; else x is standard normal from a generator seeded by the key, and a running variance is
1 + 0.1 |x|, a running mean 0.1 x, another vector 1 + 0.1 x when it is a `weight` and 0.05 x when not, and everything
else x · 0.7 / sqrt(product of all lengths but the first).
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).resolve().parents[1] / "data"
SALT, GAIN = "a", 0.7
UNUSED = ("bert.embeddings.", "bert.pooler.", "backbone.classifier.")
WORDS, POSITIONS, LAYERS = 30522, 512, 4

Shapes = dict[str, tuple[int, ...]]


def body_shapes() -> Shapes:
    """The 2,202 keys of the original body, in order."""
    return {key: tuple(shape) for key, shape in json.loads((DATA / "body_keys.json").read_text()).items()}


def hand_shapes() -> Shapes:
    """The 2,198 keys of the original hand: its own blocks and head, the body's backbone."""
    shapes: Shapes = {}
    for index, (width, hidden, out) in enumerate(((2051, 1024, 512), (512, 256, 128), (128, 64, 3))):
        shapes |= {f"trans_encoder.{index}.{key}": shape for key, shape in block_shapes(width, hidden, out).items()}
    for name, out, width in (
        ("upsampling", 778, 195), ("cam_param_fc", 1, 3), ("cam_param_fc2", 150, 216), ("cam_param_fc3", 3, 150)
    ):  # fmt: skip
        shapes |= linear(name, out, width)
    return shapes | {key: shape for key, shape in body_shapes().items() if key.startswith("backbone.")}


def block_shapes(width: int, hidden: int, out: int) -> Shapes:
    """One transformer block whose feed-forward is four times as wide as its tokens."""
    tables = "bert.embeddings."
    shapes: Shapes = {
        f"{tables}word_embeddings.weight": (WORDS, hidden),
        f"{tables}position_embeddings.weight": (POSITIONS, hidden),
        f"{tables}token_type_embeddings.weight": (2, hidden),
        **norm(f"{tables}LayerNorm", hidden),
    }
    for layer in range(LAYERS):
        name = f"bert.encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            shapes |= linear(f"{name}attention.self.{part}", hidden, hidden)
        shapes |= linear(f"{name}attention.output.dense", hidden, hidden)
        shapes |= norm(f"{name}attention.output.LayerNorm", hidden)
        shapes |= linear(f"{name}intermediate.dense", 4 * hidden, hidden)
        shapes |= linear(f"{name}output.dense", hidden, 4 * hidden)
        shapes |= norm(f"{name}output.LayerNorm", hidden)
    shapes |= linear("bert.pooler.dense", hidden, hidden)
    shapes["bert.position_embeddings.weight"] = (POSITIONS, hidden)
    shapes |= linear("bert.img_embedding", hidden, width)
    return shapes | linear("cls_head", out, hidden) | linear("residual", out, width)


def linear(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def reference_state(shapes: Shapes) -> dict[str, torch.Tensor]:
    """A whole state dict; both networks share the backbone's tensors."""
    return {
        key: backbone_weight(key, shape) if key.startswith("backbone.") else reference_weight(key, shape)
        for key, shape in shapes.items()
    }


def reference_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if any(part in key for part in UNUSED):
        return torch.zeros(1).expand(shape)  # 45 M numbers that nothing reads
    random = np.random.RandomState(zlib.crc32((SALT + key).encode()) & 0x7FFFFFFF)
    x = random.standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        x = 1 + 0.1 * np.abs(x)
    elif key.endswith("running_mean"):
        x = 0.1 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x if key.endswith("weight") else 0.05 * x
    else:
        x = x * GAIN / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


backbone_weight = cache(reference_weight)


def parameter_count(shapes: Shapes) -> int:
    """Numbers that an optimiser would change: all but the batch norms' statistics."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(int(np.prod(shape)) for key, shape in shapes.items() if not key.endswith(buffers))
