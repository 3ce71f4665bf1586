"""Running a recipe on its fixtures, and what a run of any must have made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metro_ros.core.bundle import load_bundle

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "training" / "recipes"


def run(recipe: str, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}
    words = (str(RECIPES / f"{recipe}.sh"), *words)
    return subprocess.run(words, env=environment, text=True, capture_output=True, timeout=280)


def makes_a_bundle_and_measures_it(recipe: str, folder: Path, joints: int, figure: str, report: str) -> None:
    """joints: of its network; figure: that it must have measured, and kept in the bundle; report: where it says so."""
    ended = run(recipe, "--smoke", str(folder))
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Traceback" not in ended.stderr
    bundle = load_bundle(folder / "bundle")
    assert len(bundle.skeleton) == joints
    measured = json.loads((folder / report).read_text())[figure]
    (kept,) = (entry for entry in bundle.manifest.measured.values() if isinstance(entry, dict))
    assert kept[figure] == pytest.approx(measured, abs=1e-3) and measured > 0
