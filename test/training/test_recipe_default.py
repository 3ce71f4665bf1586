"""The default's recipe, from crops on disk."""

from pathlib import Path

from recipe_runs import makes_a_bundle_and_measures_it


def test_the_default_model_is_made_and_measured(tmp_path: Path) -> None:
    makes_a_bundle_and_measures_it("default", tmp_path / "run", 17, "mpjpe_mm", "unseen_clips.json")
