"""Steps taken whole: they learn, are clipped, survive a bad batch and end when asked; a graph takes the same ones."""

import itertools
import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import make_bank, make_body_mesh, write_training_set
from torch import Tensor

from metro_ros.core.errors import ConfigError, SourceError
from training import graphed
from training.build import build
from training.build import default as network
from training.checkpoint import load_checkpoint
from training.data import Pooling
from training.datasets.augment import NONE
from training.datasets.mixture import Mixture, Source
from training.datasets.shards import ShardDataset
from training.device_augment import pack
from training.graphed import GraphedSteps, fit
from training.mesh_spec import MeshSpec
from training.module import MetroModule
from training.pool import Pool
from training.presets import default
from training.schedule import Length
from training.shrink import shrunk
from training.train import main
from training.truth import TruthMaker

BATCH = 4
RATE = 2e-3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mesh.npz and crops/, 24 of them."""
    folder = tmp_path_factory.mktemp("graphed")
    write_training_set(folder, 24)
    return folder


@pytest.fixture(scope="module")
def rows(place: Path) -> tuple[dict[str, Tensor], MeshSpec]:
    """The crops as a pool has them, and the mesh."""
    mesh = make_body_mesh(make_bank())
    mixture = Mixture([Source(ShardDataset(place / "crops"))], mesh, NONE, "smooth", 192)
    return pack(mixture.collate([mixture[index] for index in range(24)])), mesh


def make_module(mesh: MeshSpec, length: Length | None = None, device: str = "cpu") -> MetroModule:
    torch.manual_seed(2)
    config = replace(default(), batch=BATCH, learning_rate=RATE, warm_up_steps=1, ema_decay=0.5)
    metro = build(shrunk(network()), mesh)
    truth = TruthMaker(mesh, None, mesh.level_sizes[1])
    module = MetroModule(metro, shrunk(network()), truth, config, length or Length(steps=4), seed=3)
    return module.to(device).train()


def make_steps(module: MetroModule, rows: Mapping[str, Tensor]) -> GraphedSteps:
    return GraphedSteps(module, rows, NONE)


def weights(module: MetroModule) -> list[Tensor]:
    return [value.detach().clone() for value in module.metro.parameters() if value.requires_grad]


def test_a_run_learns_and_leaves_its_average(place: Path, tmp_path: Path) -> None:
    given = [
        "--mesh", str(place / "mesh.npz"), "--data", f"shards:{place / 'crops'}", "--out", str(tmp_path / "run"),
        "--validation", f"shards:{place / 'crops'}", "--tiny", "--batch", "12", "--precision", "fp32",
        "--accelerator", "cpu", "--log-every", "2", "--learning-rate", "3e-3", "--workers", "1", "--warm-up-steps", "2",
        "--pool", "24", "--pool-wait", "24", "--graph", "--ema-decay", "0.5", "--steps", "24",
    ]  # fmt: skip
    assert main(given) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    curve = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert sorted(curve) == list(range(2, 25, 2))
    assert np.mean([curve[step] for step in (20, 22, 24)]) < 0.9 * np.mean([curve[step] for step in (2, 4)])
    (scored,) = [line for line in lines if "pa_mpjpe_mm" in line]
    assert scored["step"] == 24 and math.isfinite(scored["pa_mpjpe_mm"])
    metro, config, _ = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert metro.mesh.level_sizes == make_body_mesh(make_bank()).level_sizes and config.image_size == 192


def test_a_step_moves_what_is_trained_and_the_average_follows(rows: tuple[dict[str, Tensor], MeshSpec]) -> None:
    fields, mesh = rows
    module = make_module(mesh)
    steps = make_steps(module, fields)
    before = weights(module)
    steps.take(0.0, 24)
    assert all(torch.equal(*pair) for pair in zip(before, weights(module), strict=True))
    steps.take(RATE, 24)
    after = weights(module)
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    name = "conv_learn_tokens.weight"
    state = module.metro.state_dict()
    old = before[[key for key, value in module.metro.named_parameters() if value.requires_grad].index(name)]
    torch.testing.assert_close(steps.averages[name], 0.5 * (old + state[name]))
    fixed = {key for key, value in module.metro.named_parameters() if not value.requires_grad}
    assert fixed and not fixed & set(steps.averages)


def test_the_same_seed_takes_the_same_steps_and_only_from_rows_that_are_there(
    rows: tuple[dict[str, Tensor], MeshSpec],
) -> None:
    fields, mesh = rows
    poisoned = {name: field.clone() for name, field in fields.items()}
    for name in ("joints", "keypoints", "vertices"):
        poisoned[name][16:] = torch.nan
    losses = []
    for given in (fields, poisoned):
        steps = make_steps(make_module(mesh), given)
        for _ in range(3):
            steps.take(RATE, 16)
        losses.append(steps.loss())
    assert math.isfinite(losses[0]) and losses[0] == losses[1]


def test_a_batch_without_a_finite_gradient_changes_nothing_and_many_end_training(
    rows: tuple[dict[str, Tensor], MeshSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, mesh = rows
    monkeypatch.setattr(graphed, "_LOST", 3)
    module = make_module(mesh)
    poisoned = {name: field.clone() for name, field in fields.items()}
    steps = make_steps(module, poisoned)
    before = weights(module)
    poisoned["joints"][:] = torch.nan
    steps.take(RATE, 24)
    assert math.isnan(steps.loss())
    assert all(torch.equal(*pair) for pair in zip(before, weights(module), strict=True))
    for _ in range(2):
        steps.take(RATE, 24)
    with pytest.raises(ConfigError, match="training diverged: expected finite gradients, got none in 3 steps"):
        steps.loss()


def test_long_gradients_are_clipped_at_twice_the_usual(rows: tuple[dict[str, Tensor], MeshSpec]) -> None:
    fields, mesh = rows
    module = make_module(mesh)
    steps = make_steps(module, fields)
    trained = [value for value in module.metro.parameters() if value.requires_grad]

    def clipped(length: float) -> float:
        for value in trained:
            value.grad = torch.zeros_like(value)
        trained[0].grad = torch.full_like(trained[0], length / trained[0].numel() ** 0.5)
        steps._clip()
        return float(trained[0].grad.norm())

    assert clipped(3.0) == pytest.approx(3.0)
    assert clipped(5.0) == pytest.approx(5.0, rel=1e-5)
    assert clipped(100.0) == pytest.approx(2 * (0.99 * 3.0 + 0.01 * 5.0), rel=1e-4)


def test_it_ends_when_it_is_asked_to_and_saves(rows: tuple[dict[str, Tensor], MeshSpec], tmp_path: Path) -> None:
    fields, mesh = rows
    module = make_module(mesh, Length(steps=1000))
    told: list[int] = []

    def log(figures: Mapping[str, float], step: int) -> None:
        told.append(step)
        module.stop_requested = step == 4

    def source() -> Iterator[dict[str, Tensor]]:
        for _ in itertools.count():
            yield fields

    with Pool(source(), 24, "cpu") as pool:
        fit(module, pool, Pooling(24, 24, NONE), tmp_path / "last.safetensors", log, 2, 1000.0)
    assert told == [2, 4] and module.batches == 4
    metro, _, _ = load_checkpoint(tmp_path / "last.safetensors")
    assert all(torch.equal(value, metro.state_dict()[name]) for name, value in module.metro.state_dict().items())


def test_a_source_that_fails_costs_nothing_that_was_learned(
    rows: tuple[dict[str, Tensor], MeshSpec], tmp_path: Path
) -> None:
    fields, mesh = rows
    module = make_module(mesh, Length(steps=1000))
    failing = threading.Event()

    def source() -> Iterator[dict[str, Tensor]]:
        yield fields
        failing.wait(60)
        raise ValueError("the disk is full")

    def log(figures: Mapping[str, float], step: int) -> None:
        if step == 3:
            failing.set()

    before = weights(module)
    with Pool(source(), 24, "cpu") as pool, pytest.raises(SourceError, match="the disk is full"):
        fit(module, pool, Pooling(24, 24, NONE), tmp_path / "last.safetensors", log, 1, 1000.0)
    metro, _, _ = load_checkpoint(tmp_path / "last.safetensors")
    trained = {name for name, value in module.metro.named_parameters() if value.requires_grad}
    after = [value for name, value in metro.named_parameters() if name in trained]
    assert module.batches >= 3 and not all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_what_it_cannot_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--mesh", "none.npz", "--data", "shards:none", "--out", str(tmp_path / "run"), "--graph", "--workers", "1"]
    for wrong in (
        [], ["--pool", "9", "--devices", "2"], ["--pool", "9", "--resume"], ["--pool", "9", "--accumulate", "2"],
    ):  # fmt: skip
        assert main([*given, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("training: --graph: expected --pool, one device"), line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_takes_the_steps_that_are_taken_one_by_one(rows: tuple[dict[str, Tensor], MeshSpec]) -> None:
    fields, mesh = rows
    on_gpu = {name: field.cuda() for name, field in fields.items()}
    ends = []
    for recorded in (False, True):
        module = make_module(mesh, device="cuda")
        steps = make_steps(module, on_gpu)
        if recorded:
            before = weights(module)
            steps.record()
            assert all(torch.equal(*pair) for pair in zip(before, weights(module), strict=True))
        losses = []
        for _ in range(200):
            steps.take(RATE, 24)
            losses.append(steps.loss())
        ends.append(np.mean(losses[-40:]))
        assert ends[-1] < 0.5 * np.mean(losses[:10])
    assert ends[1] == pytest.approx(ends[0], rel=0.25)  # other random numbers
