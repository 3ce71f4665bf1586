"""How fast training is: images a second, against the network as the original computes it, and what the loader costs.

python -m training.bench_train [--data SHARDS] [--json OUT]

Both sides run in turns in the same process, forward and backward and the optimiser's step, so that their ratio holds on
a noisy machine. The original's way: float32, channels first, an attention mask of ones added to the scores, a loop over
the parameters in Adam. Ours: bfloat16 where the processor multiplies it, channels last, no mask, one fused Adam.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from metro_ros.core.bundle import default_bundle_path, load_bundle
from metro_ros.core.clip import load_clip
from metro_ros.core.crop import crop_image, whole_image_box
from metro_ros.core.errors import MetroError
from training.build import PRESETS as NETWORKS
from training.build import build
from training.datasets.mixture import Batch, Mixture, Source
from training.datasets.order import PositionSampler
from training.datasets.sample import Dense, Sample
from training.datasets.shards import ShardDataset, write_shard
from training.mesh_spec import MeshSpec, body_431
from training.network_config import MetroConfig
from training.normalize import Normalize
from training.precision import is_rounded
from training.presets import PRESETS, TrainConfig
from training.stages import stage_loss
from training.transformer import SelfAttention
from training.truth import TruthMaker

Step = Callable[[Batch], None]


class OriginalAttention(nn.Module):
    """SelfAttention's arithmetic as the original writes it: scaled after the product, a mask of ones added."""

    def __init__(self, ours: SelfAttention) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, tokens: Tensor) -> Tensor:
        ours = self.ours
        query, key, value = (
            linear(tokens).view(*tokens.shape[:2], ours.heads, -1).permute(0, 2, 1, 3)
            for linear in (ours.query, ours.key, ours.value)
        )
        scores = torch.matmul(query, key.transpose(-1, -2)) / query.shape[-1] ** 0.5
        mask = (1.0 - torch.ones(len(tokens), 1, 1, tokens.shape[1])) * -10000.0
        share = nn.functional.dropout((scores + mask).softmax(dim=-1), ours.dropout, self.training)
        return torch.matmul(share, value).permute(0, 2, 1, 3).contiguous().flatten(2)


def make_step(network: MetroConfig, mesh: MeshSpec, config: TrainConfig, truth: TruthMaker, original: bool) -> Step:
    """One step of training: forward, backward, optimiser."""
    torch.manual_seed(0)
    metro = build(network, mesh)
    parameters = [parameter for parameter in metro.parameters() if parameter.requires_grad]
    if original:
        for block in metro.blocks():
            for layer in block.bert.encoder.layer:
                layer.attention.self = OriginalAttention(layer.attention.self)  # type: ignore
        optimiser: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=1e-6, foreach=False)
    else:
        metro.rounded = is_rounded("auto")
        metro.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.0, fused=True)
    normalize, generator = Normalize(), torch.Generator()

    def step(batch: Batch) -> None:
        images = normalize(batch.image)
        if original:
            images = images.contiguous()
        loss, _ = stage_loss("all", metro, batch, truth(batch), images, generator, config.objective)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def bench_network(name: str, batch: Batch, mesh: MeshSpec, repetitions: int) -> dict[str, float]:
    """Images a second of both ways, medians over turns, and their ratio."""
    network, config = NETWORKS[name](), PRESETS[name]()
    truth = TruthMaker(mesh, None, None if batch.vertices is None else batch.vertices.shape[1])
    seconds: dict[bool, list[float]] = {True: [], False: []}
    steps = {original: make_step(network, mesh, config, truth, original) for original in seconds}
    for turn in range(repetitions + 1):
        for original, step in steps.items():
            began = time.perf_counter()
            step(batch)
            if turn:  # the first is a warm-up
                seconds[original].append(time.perf_counter() - began)
    rates = {original: len(batch.image) / statistics.median(taken) for original, taken in seconds.items()}
    return {"images_s": rates[False], "original_images_s": rates[True], "ratio": rates[False] / rates[True]}


def bench_loader(mixture: Mixture, batch: int, step: Step, steps: int, workers: int) -> dict[str, float]:
    """The share of training's time in which a step waits for its batch, with batches loaded as training loads them."""
    sampler = PositionSampler(batch)
    loader = iter(DataLoader(mixture, batch_sampler=sampler, collate_fn=mixture.collate, num_workers=workers,
                             multiprocessing_context="forkserver" if workers else None))  # fmt: skip
    step(next(loader))
    waited = worked = 0.0
    for _ in range(steps):
        began = time.perf_counter()
        ready = next(loader)
        waited += time.perf_counter() - began
        began = time.perf_counter()
        step(ready)
        worked += time.perf_counter() - began
    return {"share_waiting": waited / (waited + worked), "images_s": steps * batch / (waited + worked)}


def demo_shards(folder: Path, mesh: MeshSpec, count: int = 256) -> ShardDataset:
    """A set as `training.synth` makes it, of the demo clip's frames: real pictures, labels of the right size only."""
    rng = np.random.default_rng(0)
    side = NETWORKS["default"]().image_size
    cells = side // 4
    clip = load_clip(default_bundle_path().parent / "demo_clip")
    frames = [frame for _, frame in zip(range(40), clip.frames(), strict=False)]

    def sample(row: int) -> Sample:
        image = crop_image(frames[row % len(frames)], whole_image_box(clip.camera.width, clip.camera.height), side)
        joints = mesh.joint_count
        return Sample(
            key=f"demo/{row}",
            image=np.roll(image, int(rng.integers(side)), axis=1),
            box=whole_image_box(side, side),
            keypoints_px=rng.uniform(0, side, (joints, 2)).astype(np.float32),
            keypoint_confidence=np.ones(joints, np.float32),
            joints=rng.normal(0, 0.4, (joints, 3)).astype(np.float32),
            joint_confidence=np.ones(joints, np.float32),
            vertices=rng.normal(0, 0.4, (mesh.level_sizes[1], 3)).astype(np.float32),
            dense=Dense(
                rng.uniform(0, 1, (cells, cells)).astype(np.float32),
                rng.normal(0, 0.4, (3, cells, cells)).astype(np.float32),
            ),
        )

    write_shard(folder / "0_00000.tar", (sample(row) for row in range(count)), mesh.joint_names)
    return ShardDataset(folder)


def default_mesh() -> MeshSpec:
    """The mesh of the bundle that ships; its weights are of no interest here."""
    bundle = load_bundle(default_bundle_path())
    names = bundle.skeleton.names
    return MeshSpec(
        name="default",
        joint_names=names,
        joint_parents=bundle.skeleton.parents,
        root_joints=(names.index("R_Hip"), names.index("L_Hip")),
        level_sizes=bundle.levels,
        template_tokens=np.concatenate([bundle.joint_regressor @ bundle.template, bundle.template[bundle.rows[0]]]),
        joint_regressor=bundle.joint_regressor,
        template=bundle.template,
        faces=bundle.faces,
        rows=bundle.rows,
    )


def paper_mesh() -> MeshSpec:
    """The paper's sizes with a made-up body: speed does not ask who it is."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    regressor = np.abs(array(14, 6890))
    return body_431(array(445, 3), regressor / regressor.sum(axis=1, keepdims=True))


def paper_batch(mesh: MeshSpec, count: int) -> Batch:
    """Noise of the right shapes, without a mesh truth: its loss is a thousandth of the network's time."""
    joints = mesh.joint_count
    ones = torch.ones(count)
    return Batch(
        image=torch.rand(count, 224, 224, 3) * 255,
        keypoints=torch.zeros(count, joints, 2),
        keypoint_confidence=torch.ones(count, joints),
        joints=torch.zeros(count, joints, 3),
        joint_confidence=torch.ones(count, joints),
        has_joints=ones,
        vertices=None,
        has_vertices=0 * ones,
        pose=None,
        betas=None,
        has_pose=0 * ones,
        mask=None,
        surface=None,
        has_dense=0 * ones,
        person=ones,
        token_mask=torch.ones(count, mesh.token_count, 1),
        first=0,
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.bench_train", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="shards by training.synth --crops (default: made of the demo clip)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="of the default network (%(default)s)")
    parser.add_argument("--paper-batch", type=int, default=2, help="of the paper's (%(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "bf16": is_rounded("auto")}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            mesh, config = default_mesh(), PRESETS["default"]()
            dataset = ShardDataset(options.data) if options.data else demo_shards(Path(scratch), mesh)
            mixture = Mixture(
                [Source(dataset)],
                mesh,
                config.augment,
                config.crop_style,
                NETWORKS["default"]().image_size,
                mask_ratio=0.3,
            )
            batch = mixture.collate([mixture[position] for position in range(options.batch)])
            report["default"] = bench_network("default", batch, mesh, options.repetitions)
            step = make_step(NETWORKS["default"](), mesh, config, TruthMaker(mesh, None, mixture.vertex_count), False)
            steps = 4 * options.repetitions
            report["loader"] = {n: bench_loader(mixture, options.batch, step, steps, n) for n in (0, 1)}
        mesh = paper_mesh()
        batch = paper_batch(mesh, options.paper_batch)
        report["paper_body"] = bench_network("paper_body", batch, mesh, max(1, options.repetitions // 2))
    except MetroError as error:
        print(f"bench_train: {error}", file=sys.stderr)
        return 2
    _print(report)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _print(report: dict[str, Any]) -> None:
    print(f"forward, backward and optimiser; {report['threads']} threads, bfloat16 {'on' if report['bf16'] else 'off'}")
    print(f"{'network':<12}{'images/s':>10}{'as the original':>17}{'ratio':>8}")
    for name in ("default", "paper_body"):
        row = report[name]
        print(f"{name:<12}{row['images_s']:>10.2f}{row['original_images_s']:>17.2f}{row['ratio']:>8.2f}")
    for workers, row in report["loader"].items():
        print(
            f"loading with --workers {workers}: {row['images_s']:.0f} images/s in all, "
            f"the network waits {100 * row['share_waiting']:.1f} % of the time"
        )


if __name__ == "__main__":
    sys.exit(main())
