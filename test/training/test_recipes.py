"""The papers' recipes run from their data to a measured bundle, on fixtures."""

from pathlib import Path

import pytest
from recipe_runs import RECIPES, makes_a_bundle_and_measures_it, run

PAPERS = {
    "human36m_body": (14, "pa_mpjpe_mm"),
    "3dpw_finetune": (14, "mpvpe_mm"),
    "freihand_hand": (21, "pa_mpvpe_mm"),
}
"""Recipe -> joints of its network, and a figure that it must have measured."""


def test_every_recipe_is_tested() -> None:
    elsewhere = {"default", "hand"}  # test_recipe_default.py, test_recipe_hand.py
    assert {path.stem for path in RECIPES.glob("*.sh")} == {*PAPERS, *elsewhere}


@pytest.mark.parametrize("recipe", PAPERS)
def test_a_recipe_makes_a_bundle_and_measures_it(recipe: str, tmp_path: Path) -> None:
    makes_a_bundle_and_measures_it(recipe, tmp_path / "run", *PAPERS[recipe], "evaluation.json")


def test_a_recipe_without_data_says_what_it_wants() -> None:
    ended = run("human36m_body")
    assert ended.returncode != 0 and "DATA or --smoke" in ended.stderr
