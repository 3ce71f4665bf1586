"""The state dict of an original checkpoint, from a file by torch (old or new) or by safetensors; no code in it runs."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metro_ros.core.errors import SourceError
from training.unpickler import check_file

MAX_BYTES = 8 << 30
"""Largest checkpoint taken: 8 GiB, eight times the original body's."""
_REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]{1,100})")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU; of a file in torch's zip format they are mapped, not read.

    Raises:
        SourceError: no such file, damaged, or it holds anything but tensors by name.
    """
    check_file(path, MAX_BYTES)
    try:
        if _is_safetensors(path):
            return load_file(path)
        # Files by torch before 1.6, as the original ones are, cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError, MemoryError,
            SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error) as cause:  # fmt: skip
        raise SourceError(
            f"cannot read {path}",
            expected="a state dict, saved by torch or safetensors",
            got=_reason(cause),
            remedy="give the *_state_dict.bin, not the file of a whole model",
        ) from cause
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # as trainers keep it, beside the epoch
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise SourceError(f"{path} is no state dict", expected="tensors by name", got=_describe(content))
    return dict(content)


def _is_safetensors(path: Path) -> bool:
    """By its extension, or by its first bytes: the length of a JSON object, and that."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size


def _reason(cause: Exception) -> str:
    refused = _REFUSED_GLOBAL.search(str(cause))
    if refused:
        return f"the global {refused[1]}, which is not on torch's allow-list"
    return f"{type(cause).__name__} {str(cause).splitlines()[0][:120] if str(cause) else ''}"


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    strange = next(
        name for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)
    )
    return f"{str(strange)[:80]!a} of type {type(content[strange]).__name__}"
