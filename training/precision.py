"""Training in bfloat16 on hardware that multiplies it natively: on CPUs twice as fast through the convolutions.

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
    """Whether the CPU multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    try:
        return any(flag in cpu_info.read_text() for flag in _CPU_FLAGS)
    except OSError:
        return False


def set_precision(metro: Metro, precision: Precision, device: str = "cpu") -> Precision:
    """Make `metro` compute as asked from now on, in training and in eval mode; returns what `auto` came to.

    device: "cpu" or "cuda", where it will compute.

    The state dict does not change: checkpoints are the same in both.
    """
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device == "cuda" else has_native_bfloat16()
        precision = "bf16" if native else "fp32"
    if precision == "bf16":
        for module in (metro.backbone, *metro.blocks()[:-1]):
            module.forward = _rounded(module.forward, device)
    return precision


def _rounded(forward: Callable[[Tensor], Any], device: str) -> Callable[[Tensor], Any]:
    def run(x: Tensor) -> Any:
        with torch.autocast(device, torch.bfloat16):
            output = forward(x)
        if isinstance(output, Features):
            seen = {name: part.float() for name, part in output._asdict().items() if part is not None}
            return output._replace(**seen)
        return output.float()

    return run
