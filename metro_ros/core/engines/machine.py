"""What a measurement or a compiled model depends on besides the model: this processor, these cores, these GPUs."""

import hashlib
import os
import platform
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """The processor's name and what it can do, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)  # of the first processor
    told = {name.strip(): value.strip() for name, value in fields.items()}
    names = ("model name", "CPU part", "Model", "flags", "Features")
    return " ".join([platform.machine(), *(told[name] for name in names if name in told)])


@cache
def gpus() -> str:
    """Names of the NVIDIA GPUs and the driver's version, as far as the system tells."""
    folder = Path("/proc/driver/nvidia")
    try:
        return " ".join(file.read_text() for file in (folder / "version", *sorted(folder.glob("gpus/*/information"))))
    except OSError:
        return ""


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def key(*parts: object) -> str:
    """A short name of a file for what was made from all of `parts` on this machine."""
    text = "\0".join(map(str, (processor(), cores(), gpus(), *parts)))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
