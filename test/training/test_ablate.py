"""The ablation: what its runs are told, and what it makes of what they say."""

import argparse
import json
from pathlib import Path

import pytest

from metro_ros.core.errors import ConfigError
from training import ablate
from training.train_options import change_network, parser

CLAIMS = ablate.STUDIES["claims"]


def options(out: Path, study: str = "claims", **more: object) -> argparse.Namespace:
    fields = {"teacher": None, "set": [], "backbone_from": None, "mediapipe": None} | more
    return argparse.Namespace(
        study=study, **fields, motions=None, mesh=Path("mesh.npz"), cache=None, data=["shards:crops"],
        clear=["shards:clear"], occluded=["shards:occluded"], out=out,
        backbone_steps=3, steps=5, seeds=2, processes=1, tiny=True,
    )  # fmt: skip


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """What training was told, by a stand-in for it that reports made-up figures."""
    told: list[argparse.Namespace] = []

    def run(words: list[str], log: Path) -> None:
        assert words[1:3] == ["-m", "training.train"]
        told.append(parser().parse_args(words[3:]))
        if told[-1].report is not None:
            told[-1].report.parent.mkdir(parents=True, exist_ok=True)
            told[-1].report.write_text(json.dumps({"mpjpe_mm": 100.0 + told[-1].seed, "pa_mpjpe_mm": 50.0}))

    monkeypatch.setattr(ablate, "run", run)
    return told


def test_all_variants_are_trained_alike(tmp_path: Path, runs: list[argparse.Namespace]) -> None:
    results = ablate.ablate(options(tmp_path))
    assert set(results) == set(CLAIMS)
    assert results["METRO"] == {view: {"mpjpe_mm": 100.5, "pa_mpjpe_mm": 50.0} for view in ("clear", "occluded")}
    backbone, *rest = runs
    assert backbone.stage == "backbone" and len(rest) == 2 * 2 * len(CLAIMS)
    for field in ("steps", "data", "tiny", "batch", "learning_rate", "backbone_from", "mesh"):
        assert len({str(getattr(told, field)) for told in rest}) == 1, field
    assert {told.seed for told in rest} == {0, 1}
    assert {tuple(told.validation) for told in rest} == {("shards:clear",), ("shards:occluded",)}


def test_each_variant_changes_one_thing(tmp_path: Path, runs: list[argparse.Namespace], mesh) -> None:
    from training.build import default

    ablate.ablate(options(tmp_path))
    networks = []
    for told in runs[1 : 1 + 2 * len(CLAIMS) : 2]:
        told.tiny = False
        networks.append(change_network(default(), mesh, told))
    base, unmasked, local, constant = networks
    assert base == default()
    assert unmasked.mask_ratio == 0 and local.attention == "local"
    assert len({block.hidden for block in constant.blocks}) == 1 < len({block.hidden for block in base.blocks})


def test_each_backbone_is_trained_from_its_own_start(
    tmp_path: Path, runs: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate, "crop_ms", lambda checkpoints, names: dict.fromkeys(names, 2.5))
    results = ablate.ablate(options(tmp_path, "backbones"))
    names = list(ablate.STUDIES["backbones"])
    first, rest = runs[: len(names)], runs[len(names) :]
    assert {told.architecture for told in first} == set(names) and {told.stage for told in first} == {"backbone"}
    starts = {told.out: told.architecture for told in first}
    assert all(starts[told.backbone_from.parent] == told.architecture for told in rest)
    assert len({str(told.data) for told in runs}) == 1
    assert ablate.table(results).splitlines()[-1].endswith("| 2.50 |")


def test_published_weights_are_one_backbone_more(
    tmp_path: Path, runs: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate, "crop_ms", lambda checkpoints, names: dict.fromkeys(names, 2.5))
    ablate.ablate(options(tmp_path, "backbones", mediapipe=Path("pose.tflite")))
    first, rest = runs[:5], runs[5:]
    assert [told.mediapipe for told in first] == [Path("pose.tflite"), None, None, None, None]
    assert len({told.out for told in first}) == 5 and all(told.mediapipe is None for told in rest)


def test_a_backbone_that_is_there_is_not_trained_again(tmp_path: Path, runs: list[argparse.Namespace]) -> None:
    ablate.ablate(options(tmp_path, backbone_from=Path("seen.safetensors")))
    assert {told.backbone_from for told in runs} == {Path("seen.safetensors")}
    assert {told.stage for told in runs} == {"all"}


def test_one_backbone_for_all_is_no_study_of_backbones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no --backbone-from"):
        ablate.ablate(options(tmp_path, "backbones", backbone_from=Path("seen.safetensors")))


def test_data_and_teachers_come_from_the_command_line(tmp_path: Path, runs: list[argparse.Namespace]) -> None:
    ablate.ablate(options(tmp_path / "d", "data", set=["plain=shards:p", "varied=shards:v"]))
    assert {tuple(told.data) for told in runs} == {("shards:p",), ("shards:v",)}
    starts = {told.out: told.data for told in runs[:2]}
    assert all(starts[told.backbone_from.parent] == told.data for told in runs[2:])
    runs.clear()
    ablate.ablate(options(tmp_path / "t", "distillation", teacher=Path("t.safetensors")))
    assert {told.teacher for told in runs[1:]} == {None, Path("t.safetensors")}
    for wrong in ({"study": "distillation"}, {"study": "data", "set": ["plain=shards:p"]}, {"data": []}):
        asked = options(tmp_path, **{key: value for key, value in wrong.items() if key != "data"})  # type: ignore[arg-type]
        asked.data = wrong.get("data", asked.data)
        with pytest.raises(ConfigError, match="--"):
            ablate.ablate(asked)


def test_the_table_says_what_was_measured() -> None:
    views = {"clear": {"mpjpe_mm": 81.25, "pa_mpjpe_mm": 50.0}, "occluded": {"mpjpe_mm": 99.9, "pa_mpjpe_mm": 61.04}}
    assert ablate.table({"METRO": views}).splitlines()[-1] == "| METRO | 81.2 / 50.0 | 99.9 / 61.0 |"


def test_a_failed_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "shards:nowhere", "--clear", "shards:x", "--occluded", "shards:x", "--out", str(tmp_path)]
    assert ablate.main([*words, "--mesh", "nowhere.npz"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ablate: a run failed") and error.count("\n") == 1 and "nowhere" in error
