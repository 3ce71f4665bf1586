"""`python -m benchmarks.memory NETWORK BUNDLE CONTENDER BATCH`: run one contender, print what the process holds."""

import json
import sys
from pathlib import Path

import numpy as np


def resident_mb() -> float:
    """Megabytes of this process that lie in memory now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("bench: /proc/self/status names no VmRSS")


def main() -> int:
    """Command line."""
    network, bundle, contender, batch = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    if contender.startswith("torch"):
        held: object = _run_torch(network, contender, batch)
    else:
        name, precision = contender.split()
        held = _run_engine(bundle, name, precision, batch)
    figures = {"rss_mb": resident_mb()}
    gpu_mb = _gpu_mb()
    if gpu_mb is not None:
        figures["gpu_mb"] = gpu_mb
    del held
    print(json.dumps(figures))
    return 0


def _run_torch(network: str, contender: str, batch: int) -> object:
    from benchmarks.contenders import load_network, opened

    loaded = load_network(network)
    with opened(loaded, contender) as opened_contender:
        if opened_contender.infer is None:
            raise SystemExit(f"bench: {opened_contender.problem}")
        for crops in _crops(loaded.bundle.manifest.crop.size, batch):
            opened_contender.infer(crops)
        return loaded, opened_contender


def _run_engine(path: Path, name: str, precision: str, batch: int) -> object:
    """Without torch, which would count."""
    from metro_ros.core.bundle import load_bundle
    from metro_ros.core.engines import open_engine

    bundle = load_bundle(path)
    engine = open_engine(bundle, name, precision)  # type: ignore[arg-type]
    for crops in _crops(bundle.manifest.crop.size, batch):
        engine.infer(crops)
    return engine


def _crops(size: int, batch: int) -> list[np.ndarray]:
    return [np.full((count, size, size, 3), 127, np.uint8) for count in (1, batch)]


def _gpu_mb() -> float | None:
    """Megabytes in use on the first GPU, by all processes; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


if __name__ == "__main__":
    sys.exit(main())
