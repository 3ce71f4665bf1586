"""The file for FreiHAND's server: what is in it, in which order, and what never gets that far."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from metro_ros.core.errors import ConfigError, SourceError
from training.freihand_submission import check_submission, write_submission


def predictions(count: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.RandomState(0)
    joints = [0.1 * random.standard_normal((21, 3)).astype(np.float32) for _ in range(count)]
    return joints, [0.1 * random.standard_normal((778, 3)).astype(np.float32) for _ in range(count)]


def test_both_files_hold_the_predictions_in_order(tmp_path: Path) -> None:
    joints, vertices = predictions()
    path = tmp_path / "new" / "mine.json"
    archive = write_submission(path, joints, vertices)
    assert archive == path.with_suffix(".zip")
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["mine.json", "mine.zip"]
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["pred.json"]
        assert packed.read("pred.json") == path.read_bytes()
    found_joints, found_vertices = json.loads(path.read_text())
    np.testing.assert_allclose(found_joints, joints, atol=1e-7)
    np.testing.assert_allclose(found_vertices, vertices, atol=1e-7)
    assert np.shape(found_joints) == (3, 21, 3) and np.shape(found_vertices) == (3, 778, 3)


def test_the_old_file_stays_when_the_new_one_is_refused(tmp_path: Path) -> None:
    joints, vertices = predictions()
    path = tmp_path / "pred.json"
    write_submission(path, joints, vertices)
    before = path.read_bytes()
    vertices[2][5, 0] = np.nan
    with pytest.raises(ConfigError, match=r"vertices of row 2.*got NaN or infinity"):
        write_submission(path, joints, vertices)
    with pytest.raises(ConfigError, match=r"joints of row 0.*expected finite \(21, 3\), got \(20, 3\)"):
        write_submission(path, [joint[:20] for joint in joints], predictions()[1])
    with pytest.raises(ConfigError, match=r"got \(2, 3\)"):
        write_submission(path, joints[:2], predictions()[1])
    with pytest.raises(ConfigError, match="1 sample or more"):
        write_submission(path, [], [])
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot write"):
        write_submission(tmp_path / "file" / "pred.json", *predictions(1))


def test_checked_before_the_work() -> None:
    check_submission(Path("pred.json"), 778)
    with pytest.raises(ConfigError, match=r"a name in \.json"):
        check_submission(Path("pred.zip"), 778)
    with pytest.raises(ConfigError, match="778 vertices, got 1609"):
        check_submission(Path("pred.json"), 1609)
