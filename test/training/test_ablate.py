"""The ablation: what its runs are told, and what it makes of what they say."""

import argparse
import json
from pathlib import Path

import pytest

from training import ablate
from training.train_options import change_network, parser


def options(out: Path) -> argparse.Namespace:
    return argparse.Namespace(
        motions=None, mesh=Path("mesh.npz"), cache=None, data=["shards:crops"], clear=["shards:clear"],
        occluded=["shards:occluded"], out=out, backbone_steps=3, steps=5, seeds=2, processes=1, tiny=True,
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
    assert set(results) == set(ablate.VARIANTS)
    assert results["METRO"] == {view: {"mpjpe_mm": 100.5, "pa_mpjpe_mm": 50.0} for view in ("clear", "occluded")}
    backbone, *rest = runs
    assert backbone.stage == "backbone" and len(rest) == 2 * 2 * len(ablate.VARIANTS)
    for field in ("steps", "data", "tiny", "batch", "learning_rate", "backbone_from", "mesh"):
        assert len({str(getattr(told, field)) for told in rest}) == 1, field
    assert {told.seed for told in rest} == {0, 1}
    assert {tuple(told.validation) for told in rest} == {("shards:clear",), ("shards:occluded",)}


def test_each_variant_changes_one_thing(tmp_path: Path, runs: list[argparse.Namespace], mesh) -> None:
    from training.build import default

    ablate.ablate(options(tmp_path))
    networks = []
    for told in runs[1 : 1 + 2 * len(ablate.VARIANTS) : 2]:
        told.tiny = False
        networks.append(change_network(default(), mesh, told))
    base, unmasked, local, constant = networks
    assert base == default()
    assert unmasked.mask_ratio == 0 and local.attention == "local"
    assert len({block.hidden for block in constant.blocks}) == 1 < len({block.hidden for block in base.blocks})


def test_the_table_says_what_was_measured() -> None:
    views = {"clear": {"mpjpe_mm": 81.25, "pa_mpjpe_mm": 50.0}, "occluded": {"mpjpe_mm": 99.9, "pa_mpjpe_mm": 61.04}}
    assert ablate.table({"METRO": views}).splitlines()[-1] == "| METRO | 81.2 / 50.0 | 99.9 / 61.0 |"


def test_a_failed_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "shards:nowhere", "--clear", "shards:x", "--occluded", "shards:x", "--out", str(tmp_path)]
    assert ablate.main([*words, "--mesh", "nowhere.npz"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ablate: a run failed") and error.count("\n") == 1 and "nowhere" in error
