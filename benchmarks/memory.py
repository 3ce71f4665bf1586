"""`python -m benchmarks.memory NETWORK CONTENDER BATCH`: run one contender, print what the process holds, as JSON."""

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
    network_name, contender_name, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    from benchmarks.contenders import load_network, opened
    from benchmarks.crops import person_crops_of

    network = load_network(network_name)
    if not contender_name.startswith("torch"):
        network.metro.to("meta")  # it is not what is measured
    with opened(network, contender_name) as contender:
        if contender.infer is None:
            print(contender.problem, file=sys.stderr)
            return 1
        crops = person_crops_of(network.bundle.manifest.crop.size, 1)
        for count in (1, batch):
            contender.infer(np.repeat(crops, count, axis=0))
        figures = {"rss_mb": resident_mb()}
        gpu_mb = _gpu_mb()
        if gpu_mb is not None:
            figures["gpu_mb"] = gpu_mb
        print(json.dumps(figures))
    return 0


def _gpu_mb() -> float | None:
    """Megabytes in use on the first GPU, by all processes; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


if __name__ == "__main__":
    sys.exit(main())
