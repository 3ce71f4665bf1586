"""Everything that can run a network here: torch as the original computes, and every engine in every precision."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.paper import paper_network
from benchmarks.variants import default_with_variants, refused
from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import Output, available_engines, open_engine
from metro_ros.core.errors import EngineError
from training.bench_train import default_mesh
from training.build import build, default
from training.network import Metro
from training.normalize import Normalize

EAGER = "torch eager fp32"
EXACT = "onnxruntime fp32"


class Infer(Protocol):
    """Crops uint8 (N, S, S, 3) RGB to the network's answers; on a GPU it returns when they have arrived."""

    def __call__(self, crops: npt.NDArray[np.uint8]) -> Output: ...


class Network(NamedTuple):
    """One network as a torch module, unfolded, float32, in eval mode, and as a bundle with its variants.

    same_weights: whether both have the same; the default's checkpoint does not come with its bundle.
    """

    name: str
    metro: Metro
    bundle: Bundle
    same_weights: bool


@dataclass(frozen=True, slots=True)
class Contender:
    """An opened way to run the network, or why there is none."""

    infer: Infer | None = None
    problem: str = ""


def load_network(name: str) -> Network:
    """`paper` or `default`; made and kept in the cache the first time."""
    if name == "paper":
        return Network(name, *paper_network(), same_weights=True)
    torch.manual_seed(0)
    return Network(name, build(default(), default_mesh()).eval(), default_with_variants(), same_weights=False)


def names_of(bundle: Bundle) -> list[str]:
    """All contenders, whether they can run here or not."""
    names = [EAGER]
    if torch.cuda.is_available():
        names += ["torch eager fp32 cuda", "torch compiled fp16 cuda"]
    for info in available_engines():
        names += [f"{info.name} {precision}" for precision in info.precisions] or [info.name]
    return names


@contextlib.contextmanager
def opened(network: Network, name: str) -> Iterator[Contender]:
    """One contender of `names_of`; it gives its memory back at the end of the block."""
    kind, _, precision = name.partition(" ")
    if kind == "torch":
        yield Contender(_torch(network.metro, name))
        return
    if not precision:
        yield Contender(problem=next(info.problem or "" for info in available_engines() if info.name == kind))
        return
    if why := refused(network.bundle).get(precision):
        yield Contender(problem=why)
        return
    try:
        engine = open_engine(network.bundle, kind, precision)  # type: ignore[arg-type]
    except EngineError as error:
        yield Contender(problem=str(error))
        return
    try:
        yield Contender(engine.infer)
    finally:
        engine.close()


def _torch(metro: Metro, name: str) -> Infer:
    device = "cuda" if name.endswith("cuda") else "cpu"
    if device == "cpu":
        return partial(_infer, metro, Normalize(), torch.float32, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    on_gpu = copy.deepcopy(metro).to(device)
    if "compiled" not in name:
        return partial(_infer, on_gpu, Normalize().to(device), torch.float32, device)
    return partial(_infer, torch.compile(on_gpu), Normalize().to(device), torch.float16, device)


@torch.inference_mode()
def _infer(metro: Any, normalize: Normalize, kind: torch.dtype, device: str, crops: npt.NDArray[np.uint8]) -> Output:
    images = normalize(torch.from_numpy(crops).to(device))
    with torch.autocast(device, kind, enabled=kind != torch.float32):
        answer = metro(images)
    parts = (answer.joints, answer.vertices[-1], answer.camera)
    joints, vertices, camera = (part.float().cpu().numpy() for part in parts)
    return Output(joints, vertices, camera, None)
