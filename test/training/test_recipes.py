"""Every recipe runs from its data to a measured bundle, on fixtures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metro_ros.core.bundle import load_bundle

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    "default": (17, "mpjpe_mm"),
    "hand": (21, "mpjpe_mm"),
    "human36m_body": (14, "pa_mpjpe_mm"),
    "3dpw_finetune": (14, "mpvpe_mm"),
    "freihand_hand": (21, "pa_mpvpe_mm"),
}
"""Recipe -> joints of its network, and a figure that it must have measured."""


def run(recipe: str, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}
    words = (str(ROOT / "training" / "recipes" / f"{recipe}.sh"), *words)
    return subprocess.run(words, env=environment, text=True, capture_output=True, timeout=280)


def test_every_recipe_is_tested() -> None:
    assert {path.stem for path in (ROOT / "training" / "recipes").glob("*.sh")} == set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_makes_a_bundle_and_measures_it(recipe: str, tmp_path: Path) -> None:
    joints, figure = RECIPES[recipe]
    ended = run(recipe, "--smoke", str(tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Traceback" not in ended.stderr
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert len(bundle.skeleton) == joints
    report = "unseen_clips.json" if recipe == "default" else "evaluation.json"
    measured = json.loads((tmp_path / "run" / report).read_text())[figure]
    (kept,) = (entry for entry in bundle.manifest.measured.values() if isinstance(entry, dict))
    assert kept[figure] == pytest.approx(measured, abs=1e-3) and measured > 0


def test_the_default_model_is_made_without_an_image_on_disk(tmp_path: Path) -> None:
    """As on a machine with a GPU: crops and frames are drawn while body and finder learn."""
    ended = run("default", "--smoke", str(tmp_path / "run"), POOL_WORKERS="1")
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert all(bundle.part_file(part) is not None for part in ("finder", "pose_detector", "attention"))
    assert "unseen_clips" in bundle.manifest.measured
    assert not (tmp_path / "run" / "crops").exists() and not (tmp_path / "run" / "frames").exists()
    learned = json.loads((tmp_path / "run" / "people" / "run.json").read_text())["data"][0]["sources"]
    assert [source["name"] for source in learned][1] == "person_keypoints_photographs"


def test_a_hand_is_made_without_an_image_on_disk(tmp_path: Path) -> None:
    ended = run("hand", "--smoke", str(tmp_path / "run"), POOL_WORKERS="1")
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert bundle.part_file("attention") is not None and bundle.manifest.confidence_mm == 20
    assert not (tmp_path / "run" / "crops").exists()


def test_a_recipe_without_data_says_what_it_wants() -> None:
    ended = run("human36m_body")
    assert ended.returncode != 0 and "DATA or --smoke" in ended.stderr
