"""Training on a stand-in body: it learns, any number of processes take the same steps, and a kill changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import make_bank, make_body_mesh, write_training_set

from metro_ros.core.errors import SourceError
from training.averaging import move_averages
from training.checkpoint import load_checkpoint
from training.datasets.mixture import PROBES
from training.datasets.shards import ShardDataset, write_shard
from training.tensor_file import load_tree
from training.train import _without_worker, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mesh.npz and crops/, 48 of them."""
    folder = tmp_path_factory.mktemp("training")
    write_training_set(folder, 48)
    return folder


def words(place: Path, out: Path, *more: str, batch: int = 6) -> list[str]:
    return [
        "--mesh", str(place / "mesh.npz"), "--data", f"shards:{place / 'crops'}", "--out", str(out), "--tiny",
        "--batch", str(batch), "--precision", "fp32", "--accelerator", "cpu", "--log-every", "1",
        "--learning-rate", "3e-3", "--workers", "0", *more,
    ]  # fmt: skip


def losses(out: Path) -> dict[int, float]:
    """Step -> loss; where a step was taken twice, the second time."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def in_processes(arguments: Sequence[str], **extra: str) -> subprocess.Popen[str]:
    """The command itself, in a process of its own, which may start more."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **extra}
    return subprocess.Popen(
        [sys.executable, "-m", "training.train", *arguments], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def run_to_its_end(arguments: Sequence[str]) -> None:
    """In a process of its own, with one thread: more of them would add in another order."""
    running = in_processes(arguments)
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors


@pytest.mark.parametrize("stage", ["backbone", "tokens", "all"])
def test_every_stage_learns(place: Path, tmp_path: Path, stage: str) -> None:
    assert main(words(place, tmp_path, "--stage", stage, "--steps", "40", "--schedule", "step", batch=16)) == 0
    curve = losses(tmp_path)
    assert np.mean([curve[step] for step in range(35, 40)]) < 0.8 * np.mean([curve[step] for step in range(5)])


def test_two_processes_take_the_steps_of_one(place: Path, tmp_path: Path) -> None:
    """Two with six crops each, and one that accumulates two times six: the same samples, losses and weights."""
    together = in_processes(words(place, tmp_path / "two", "--steps", "5", "--devices", "2"))
    _, errors = together.communicate(timeout=200)
    assert together.returncode == 0, errors
    assert main(words(place, tmp_path / "one", "--steps", "5", "--accumulate", "2")) == 0
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert list(two) == list(one) == list(range(5))
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)
    assert len(set(one.values())) == 5
    two_weights, one_weights = (load_tree(tmp_path / run / "last.safetensors")["state_dict"] for run in ("two", "one"))
    for name, value in one_weights.items():
        if "running" not in name and "num_batches" not in name:  # batch statistics are each process's own
            torch.testing.assert_close(two_weights[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("preset", ["default", "paper_body"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(place: Path, tmp_path: Path, preset: str) -> None:
    """The paper's network drops out a tenth of everything: those draws, too, are the next ones."""
    more = ("--preset", preset, "--steps", "9", "--ema-decay", "0.9", "--accumulate", "2", "--save-every-s", "0")
    run_to_its_end(words(place, tmp_path / "whole", *more))
    killed = in_processes(words(place, tmp_path / "killed", *more))
    checkpoint = tmp_path / "killed" / "last.safetensors"
    deadline = time.monotonic() + 120
    while not (checkpoint.exists() and load_tree(checkpoint)["global_step"] >= 3):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    reached = load_tree(checkpoint)["global_step"]
    assert 3 <= reached < 9, "it was killed on its way"

    run_to_its_end(words(place, tmp_path / "killed", *more, "--resume"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    whole, resumed = (load_tree(tmp_path / run / "last.safetensors") for run in ("whole", "killed"))
    for weights in ("state_dict", "current_model_state"):  # the moving average and what it averages
        assert whole[weights].keys() == resumed[weights].keys()
        for name, value in whole[weights].items():
            assert torch.equal(value, resumed[weights][name]), name
    assert whole["batches"] == resumed["batches"] == 18


@pytest.mark.parametrize("devices", ["1", "2"])
def test_ctrl_c_ends_the_step_and_saves(place: Path, tmp_path: Path, devices: str) -> None:
    """One process hears it, and all of them end together."""
    running = in_processes(words(place, tmp_path, "--steps", "100000", "--devices", devices))
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(losses(tmp_path)) >= 2):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert errors.count("go on with --resume") == 1
    assert load_tree(tmp_path / "last.safetensors")["global_step"] == max(losses(tmp_path)) + 1


def test_processes_without_a_3d_truth_do_not_hold_up_the_others(place: Path, tmp_path: Path) -> None:
    """The second process validates on samples that are known in 2D only."""
    dataset = ShardDataset(place / "crops")
    samples = [dataset[row] for row in range(12)]
    blank = np.zeros_like(samples[0].joint_confidence)
    samples = [s if row < 6 else replace(s, joint_confidence=blank, vertices=None) for row, s in enumerate(samples)]
    write_shard(tmp_path / "set" / "a.tar", samples, dataset.joint_names)
    more = ("--validation", f"shards:{tmp_path / 'set'}", "--validate-every", "1", "--steps", "2", "--devices", "2")
    running = in_processes(words(place, tmp_path / "run", *more))
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("pa_mpjpe_mm", 0) > 0 for line in lines) == 2


def test_a_finished_run_has_nothing_left_to_do(place: Path, tmp_path: Path) -> None:
    assert main(words(place, tmp_path, "--steps", "2")) == 0
    before = load_tree(tmp_path / "last.safetensors")["state_dict"]
    assert main(words(place, tmp_path, "--steps", "2", "--resume")) == 0
    after = load_tree(tmp_path / "last.safetensors")["state_dict"]
    assert losses(tmp_path).keys() == {0, 1}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_leaves_curves_pictures_and_what_repeats_it(place: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validation = ("--validation", f"shards:{place / 'crops'}", "--validate-every", "2")
    report = tmp_path / "report.json"
    assert main(words(place, tmp_path / "run", *validation, "--steps", "4", "--report", str(report))) == 0
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert {"loss", "learning_rate", "pa_mpjpe_mm"} <= set(events.Tags()["scalars"])
    assert len(events.Images("predictions")) >= 2
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["data"][0]["sources"] == [{"name": "crops", "rows": 48, "weight": 1.0}]
    assert run["training"]["learning_rate"] == 3e-3 and len(run["git"] or "x" * 40) >= 40
    assert json.loads(report.read_text())["mpjpe_mm"] > 0
    best, config, _ = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert config.name == "default" and best.mesh.joint_names[0] == "R_Hip"


def test_the_moving_average_is_what_is_exported(place: Path, tmp_path: Path) -> None:
    assert main(words(place, tmp_path, "--steps", "6", "--ema-decay", "0.9")) == 0
    state = load_tree(tmp_path / "last.safetensors")
    name = "metro.conv_learn_tokens.weight"
    metro, _, _ = load_checkpoint(tmp_path / "last.safetensors")
    assert torch.equal(metro.state_dict()[name.removeprefix("metro.")], state["state_dict"][name])
    assert not torch.equal(state["state_dict"][name], state["current_model_state"][name])


def test_weights_come_by_name_from_earlier_stages(place: Path, tmp_path: Path) -> None:
    assert main(words(place, tmp_path / "eyes", "--stage", "backbone", "--steps", "3")) == 0
    again = ("--backbone-from", str(tmp_path / "eyes" / "last.safetensors"), "--stage", "tokens", "--steps", "3")
    assert main(words(place, tmp_path / "both", *again)) == 0
    eyes, both = (load_tree(tmp_path / run / "last.safetensors")["state_dict"] for run in ("eyes", "both"))
    for name, value in eyes.items():
        if name.startswith("metro.backbone.") and "running" not in name and "num_batches" not in name:
            assert torch.equal(both[name], value), name
    assert not torch.equal(eyes["metro.conv_learn_tokens.bias"], both["metro.conv_learn_tokens.bias"])


def test_diverged_training_stops_and_keeps_what_was_good(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(place, tmp_path, "--steps", "2")) == 0
    good = (tmp_path / "last.safetensors").read_bytes()
    code = main(words(place, tmp_path, "--steps", "60", "--resume", "--schedule", "step", "--learning-rate", "1e30"))
    assert code == 2
    assert "training diverged: expected a finite loss" in capsys.readouterr().err
    assert (tmp_path / "last.safetensors").read_bytes() == good


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (("--data", "shards:nowhere"), "nowhere"),
        (("--data", "tape:x"), "KIND:PATH"),
        (("--data", "shards:x@heavy"), "a number after @"),
        (("--mesh", "nowhere.npz"), "nowhere.npz"),
        (("--start-from", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--batch", "0"), "batch"),
        (("--devices", "0"), "--devices"),
        (("--workers", "-1"), "--workers"),
        (("--seed", "-1"), "--seed"),
        (("--mask-ratio", "nan"), "--mask-ratio"),
        (("--learning-rate", "inf"), "learning rates"),
        (("--save-every-s", "nan"), "--save-every-s"),
        (("--minutes", "1"), "one of them"),
        (("--report", "x.json"), "--validation"),
        (("--steps", "0"), "length of training"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str], expected: str
) -> None:
    assert main(words(place, tmp_path, "--steps", "1", *wrong)) == 2
    error = capsys.readouterr().err
    assert error.startswith("training: ") and expected in error and error.count("\n") == 1


def test_a_used_folder_is_not_mixed_with_another_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(place, tmp_path, "--steps", "1")) == 0
    assert main(words(place, tmp_path, "--steps", "1")) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(words(place, tmp_path, "--steps", "2", "--resume")) == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["length"]["steps"] == 1 and [again["length"]["steps"] for again in run["resumed"]] == [2]
    (tmp_path / "file").write_text("")
    assert main(words(place, tmp_path / "file", "--steps", "1")) == 2
    assert "cannot make the run folder" in capsys.readouterr().err


def test_a_set_of_damage_is_one_line_also_from_a_loading_process(place: Path, tmp_path: Path) -> None:
    """Every row but those that are looked at first."""
    dataset = ShardDataset(place / "crops")
    looked_at = set(np.unique(np.linspace(0, 99, PROBES).astype(int)))
    write_shard(tmp_path / "set" / "a.tar", [dataset[row % 48] for row in range(100)], dataset.joint_names)
    content = bytearray((tmp_path / "set" / "a.tar").read_bytes())
    for row in set(range(100)) - looked_at:
        at = content.index(f"a_{row:06d}.jpg".encode()) + 512
        content[at : at + 64] = bytes(64)
    (tmp_path / "set" / "a.tar").write_bytes(content)
    run = words(place, tmp_path / "run", "--steps", "60", "--workers", "1")
    run[run.index("--data") + 1] = f"shards:{tmp_path / 'set'}"
    running = in_processes(run)
    error = running.communicate(timeout=100)[1]
    assert running.returncode in (0, 2) and "Traceback" not in error
    assert any("skipped: " in line for line in error.splitlines())


def test_wrapped_errors_are_unwrapped() -> None:
    first = "Caught SourceError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):"
    wrapped = SourceError(f"{first}\n  File x\nmetro_ros.core.errors.SourceError: the set is unusable: expected rows")
    assert _without_worker(wrapped) == "the set is unusable: expected rows"
    assert _without_worker(SourceError("plain", got="x")) == "plain: got x"


def test_an_average_follows_numbers_and_keeps_indices() -> None:
    average = [torch.tensor([1.0, 3.0])], [torch.tensor([7, 3])]
    current = [torch.tensor([2.0, 3.0])], [torch.tensor([7, 5])]
    for ours, theirs in zip(average, current, strict=True):
        move_averages(ours, theirs, 0.9)
    torch.testing.assert_close(average[0][0], torch.tensor([1.1, 3.0]))
    assert average[1][0].tolist() == [7, 5]


def test_training_from_a_pool_learns_and_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loading process fills the pool; steps draw from it, other samples of it each."""
    pooled = ["--workers", "1", "--pool", "40", "--pool-wait", "30", "--schedule", "step", "--ema-decay", "0.9"]
    given = words(place, tmp_path, *pooled, batch=16)
    assert main([*given, "--steps", "24"]) == 0
    assert main([*given, "--steps", "28", "--resume"]) == 0
    curve = losses(tmp_path)
    assert sorted(curve) == list(range(28))
    assert np.mean([curve[step] for step in range(20, 28)]) < 0.9 * np.mean([curve[step] for step in range(4)])
    metro, _, _ = load_checkpoint(tmp_path / "last.safetensors")
    assert metro.mesh.level_sizes == make_body_mesh(make_bank()).level_sizes
    capsys.readouterr()
    for wrong in (
        ["--pool", "0", "--workers", "1"],
        ["--pool", "9"],
        ["--pool", "9", "--workers", "1", "--pool-wait", "0"],
    ):
        assert main(words(place, tmp_path / "none", *wrong, "--steps", "1")) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("training: the pool: expected 1 or more rows and workers, got --pool"), line
