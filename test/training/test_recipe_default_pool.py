"""The default's recipe as on a machine with a GPU: crops and frames are drawn while body and finder learn."""

import json
from pathlib import Path

from recipe_runs import run

from metro_ros.core.bundle import load_bundle


def test_the_default_model_is_made_without_an_image_on_disk(tmp_path: Path) -> None:
    ended = run("default", "--smoke", str(tmp_path / "run"), POOL_WORKERS="1")
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert all(bundle.part_file(part) is not None for part in ("finder", "pose_detector", "attention"))
    assert "unseen_clips" in bundle.manifest.measured
    assert not (tmp_path / "run" / "crops").exists() and not (tmp_path / "run" / "frames").exists()
    learned = json.loads((tmp_path / "run" / "people" / "run.json").read_text())["data"][0]["sources"]
    assert [source["name"] for source in learned][1] == "person_keypoints_photographs"
