"""The hand's recipe, from crops on disk and without any."""

from pathlib import Path

from recipe_runs import makes_a_bundle_and_measures_it, run

from metro_ros.core.bundle import load_bundle


def test_a_hand_is_made_and_measured(tmp_path: Path) -> None:
    makes_a_bundle_and_measures_it("hand", tmp_path / "run", 21, "mpjpe_mm", "evaluation.json")


def test_a_hand_is_made_without_an_image_on_disk(tmp_path: Path) -> None:
    ended = run("hand", "--smoke", str(tmp_path / "run"), POOL_WORKERS="1")
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert bundle.part_file("attention") is not None and bundle.manifest.confidence_mm == 20
    assert not (tmp_path / "run" / "crops").exists()
