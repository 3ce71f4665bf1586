"""Training in bfloat16 on processors that multiply it natively: twice as fast through the convolutions.

Weights, gradients, sums and losses stay float32; only the backbone and the wide transformer blocks round their factors.
Soft-argmax, camera and the last block, which speaks in metres, do not: eight bits of a metre are four millimetres.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from training.backbone import Features
from training.network import Metro

Precision = Literal["auto", "fp32", "bf16"]
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def has_native_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    try:
        return any(flag in cpu_info.read_text() for flag in _CPU_FLAGS)
    except OSError:
        return False


def set_precision(metro: Metro, precision: Precision) -> Precision:
    """Make `metro` compute as asked from now on, in training and in eval mode; returns what `auto` came to.

    The state dict does not change: checkpoints are the same in both.
    """
    if precision == "auto":
        precision = "bf16" if has_native_bfloat16() else "fp32"
    if precision == "bf16":
        for module in (metro.backbone, *metro.blocks()[:-1]):
            module.forward = _rounded(module.forward)
    return precision


def _rounded(forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def run(x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            output = forward(x)
        if isinstance(output, Features):
            return Features(*(None if part is None else part.float() for part in output))
        return output.float()

    return run
