"""Training in bfloat16 on hardware that multiplies it natively: on CPUs twice as fast through the convolutions.

Weights, gradients, sums and losses stay float32; only the backbone and the wide transformer blocks round their factors.
Soft-argmax, camera and the last block, which speaks in metres, do not: eight bits of a metre are four millimetres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def has_native_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    try:
        return any(flag in cpu_info.read_text() for flag in _CPU_FLAGS)
    except OSError:
        return False


def is_rounded(precision: Precision, device: str = "cpu") -> bool:
    """What `precision` comes to where a network computes ("cpu" or "cuda"); set `Metro.rounded` to it."""
    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device == "cuda" else has_native_bfloat16()
    return precision == "bf16"


def rounding(device: torch.device) -> torch.autocast:
    """Within it, matrix products round their factors to bfloat16."""
    return torch.autocast(device.type, torch.bfloat16)
