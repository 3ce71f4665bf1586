"""Torch eager against every engine and precision: milliseconds a crop by batch, millimetres, megabytes."""

import contextlib
import itertools
import json
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.contenders import EAGER, EXACT, Infer, Network, load_network, names_of, opened
from benchmarks.crops import measured_crops
from benchmarks.gmac import count_gmac
from benchmarks.turns import take_turns
from metro_ros.core.errors import EngineError

BATCHES = (1, 4, 16)
GPU_BATCHES = (*BATCHES, 32)
ROUNDS, LIMIT_S = 15, 20.0
MEASURED = 8
"""Crops that errors are measured on."""


def bench_engines(name: str, quick: bool) -> dict[str, Any]:
    """Figures of one network by contender: `ms` by batch, `ratio` to eager, `mm`, `rss_mb`; or its `problem`."""
    network = load_network(name)
    batches = (1,) if quick else GPU_BATCHES if torch.cuda.is_available() else BATCHES
    rows: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        ready: dict[str, Infer] = {}
        for one in names_of(network.bundle):
            contender = stack.enter_context(opened(network, one))
            rows[one] = {"problem": contender.problem} if contender.infer is None else {"ms": {}, "ratio": {}}
            if contender.infer is not None:
                ready[one] = contender.infer
        crops = measured_crops(network.bundle.manifest.crop.size, MEASURED)
        expected = _answer(network, crops)
        _errors(network, ready, rows, crops, expected)
        for batch in batches:
            repeated = np.repeat(crops[:1], batch, axis=0)
            work = {one: partial(infer, repeated) for one, infer in ready.items()}
            times = take_turns(work, 5 if quick else ROUNDS, LIMIT_S)
            for one in ready:
                rows[one]["ms"][batch] = times.median_ms(one)
                rows[one]["ratio"][batch] = times.ratio(EAGER, one)
    for one in ready:
        rows[one] |= _memory(network, one, max(batches))
    return {
        "gmac": count_gmac(network.bundle),
        "spread_mm": spread_mm(expected),
        "variants": {key: variant.mean_vertex_mm for key, variant in network.bundle.manifest.variants.items()},
        "contenders": rows,
    }


def spread_mm(vertices: npt.NDArray[np.floating]) -> float:
    """Mean distance of a vertex between two of the answers (N, V, 3), metres, over all pairs. N is two or more."""
    pairs = itertools.combinations(vertices, 2)
    return 1e3 * float(np.mean([np.linalg.norm(first - second, axis=1).mean() for first, second in pairs]))


def _errors(
    network: Network,
    ready: dict[str, Infer],
    rows: dict[str, dict[str, Any]],
    crops: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.float32],
) -> None:
    """Add the mean distance of vertices to `expected`; who fails is taken out of `ready`."""
    for one, infer in list(ready.items()):
        if one.startswith("torch") and not network.same_weights:
            continue
        try:
            vertices = np.concatenate([infer(crop[None]).vertices for crop in crops])
        except EngineError as error:
            rows[one] = {"problem": str(error)}
            del ready[one]
            continue
        rows[one]["mm"] = 1e3 * float(np.linalg.norm(vertices - expected, axis=2).mean())


def _answer(network: Network, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Vertices by eager torch; by the exact engine where eager has other weights."""
    with opened(network, EAGER if network.same_weights else EXACT) as exact:
        if exact.infer is None:
            raise SystemExit(f"bench: {exact.problem}")
        return np.concatenate([exact.infer(crop[None]).vertices for crop in crops])


def _memory(network: Network, contender: str, batch: int) -> dict[str, float]:
    """Megabytes that a process takes which does nothing else."""
    command = [sys.executable, "-m", "benchmarks.memory", network.name, str(network.bundle.path), contender, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command[2:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])
