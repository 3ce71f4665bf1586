"""Trees of tensors, numbers and text in one safetensors file: nothing in it can run, no header is believed blindly.

The tensors lie in the file under running numbers; its metadata holds the tree as JSON, with a number in place of every
tensor. Dicts keep keys that are no strings, and tuples stay tuples, because an optimiser's state has both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from metro_ros.core.errors import ConfigError

_TREE = "tree"


def save_tree(tree: Mapping[str, Any], path: str | Path) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, text and None; a crash leaves the old file whole.

    Raises:
        ConfigError: something else lies in the tree.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(tree, tensors, ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata={_TREE: text})
    partial.replace(path)


def load_tree(path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """What `save_tree` wrote, whole also while a run replaces it by the next one.

    Raises ConfigError when the file is none of its, missing or damaged.
    """
    what = f"cannot read {path}"
    try:
        # safetensors opens its file twice, for the header and what that tells of; by then the path may be another file.
        with open(path, "rb") as held, safe_open(f"/dev/fd/{held.fileno()}", framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            if _TREE not in metadata:
                raise ConfigError(what, expected="a checkpoint of this project", got="another safetensors file")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        tree = _decode(json.loads(metadata[_TREE]), tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        got = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(what, expected="a safetensors file", got=got) from error
    if not isinstance(tree, dict):
        raise ConfigError(what, expected="a dict of tensors", got=type(tree).__name__)
    return tree


def _encode(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _encode(item, tensors, f"{where}/{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, tensors, f"{where}/{index}") for index, item in enumerate(value)]}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ConfigError(f"a checkpoint cannot hold {where}", expected="tensors, numbers, text", got=type(value).__name__)


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    if kind not in ("list", "tuple"):
        raise ValueError(f"unknown node {kind!r}")
    items = [_decode(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def non_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating tensors that hold a NaN or an infinity."""
    return [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
