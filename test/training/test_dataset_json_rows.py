"""Large JSON lists as rows of numbers: read as a stream, kept for the next time, believed only where they are whole."""

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metro_ros.core.errors import SourceError
from training.datasets import json_rows
from training.datasets.json_rows import NumberRows
from training.datasets.sample import SampleError

VALUES = np.random.default_rng(0).normal(size=(5, 2, 3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "verts.json").write_text(json.dumps(VALUES.tolist()))
    return tmp_path / "in" / "verts.json"


def opened(path: Path) -> NumberRows:
    return NumberRows(path, (2, 3), path.parent)


def check(rows: NumberRows) -> None:
    assert len(rows) == 5
    for number, values in enumerate(VALUES):
        assert rows.row(number).dtype == np.float32
        np.testing.assert_array_equal(rows.row(number), values.astype(np.float32))


def kept(path: Path) -> list[Path]:
    return sorted(path.parent.glob(".*.npy"))


@pytest.mark.parametrize("chunk", [1, 10, 97, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_rows_wherever_the_pieces_are_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    path.write_text(json.dumps(VALUES.tolist(), indent=indent))
    check(opened(path))
    assert not kept(path)


def test_large_files_are_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "KEPT_FROM_BYTES", 1)
    rows = opened(path)
    check(rows)
    assert len(kept(path)) == 1 and rows._values is None and len(list(path.parent.iterdir())) == 2

    def refuse(*_: Any) -> None:
        raise AssertionError("the JSON was read again")

    monkeypatch.setattr(json_rows, "_read_rows", refuse)
    again = opened(path)
    before = len(os.listdir("/proc/self/fd"))
    check(pickle.loads(pickle.dumps(again)))
    assert len(os.listdir("/proc/self/fd")) == before and len(pickle.dumps(again)) < 1000


def test_what_was_kept_of_another_file_is_not_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "KEPT_FROM_BYTES", 1)
    opened(path)
    times = path.stat()
    path.write_text(json.dumps(VALUES[::-1].tolist()))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000))
    assert path.stat().st_size == times.st_size
    np.testing.assert_allclose(opened(path).row(0), VALUES[4], rtol=1e-6)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_what_is_damaged_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None) -> None:
    monkeypatch.setattr(json_rows, "KEPT_FROM_BYTES", 1)
    opened(path)
    (file,) = kept(path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if damage is None else damage)
    check(opened(path))
    assert file.read_bytes() == whole


def test_a_kept_file_that_is_cut_or_gone_later_damages_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "KEPT_FROM_BYTES", 1)
    rows = opened(path)
    (file,) = kept(path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SampleError, match=r"row 4 of .*verts.json.*cut off"):
        rows.row(4)
    np.testing.assert_array_equal(rows.row(3), VALUES[3].astype(np.float32))
    file.unlink()
    with pytest.raises(SampleError, match="row 0"):
        rows.row(0)


def test_where_nothing_can_be_kept_rows_stay_in_memory(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(json_rows, "KEPT_FROM_BYTES", 1)
    with caplog.at_level(logging.WARNING):
        check(NumberRows(path, (2, 3), tmp_path / "none"))
    assert "stay in memory" in caplog.text


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "bad", ["[[1, 2, 3]]", "[]", "[[1, 2, 3], [1, 2]]", "[[1, 2, 3], [1, 2, NaN]]", '[["1", 2, 3], [1, 2, 3]]']
)
def test_a_row_of_something_else_is_its_own_error(
    path: Path, bad: str, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "KEPT_FROM_BYTES", 1 if keep else 1 << 30)
    good = json.dumps(VALUES[0].tolist())
    path.write_text(f"[{good}, {bad}, {good}]")
    rows = opened(path)
    assert len(rows) == 3
    with pytest.raises(SampleError, match=r"row 1 of .*verts\.json: expected finite numbers \(2, 3\)"):
        rows.row(1)
    np.testing.assert_allclose(rows.row(2), VALUES[0], rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    ["", "  ", "{}", "7", "[1, 2]", "[[1]", "[[1],]", "[[1] [2]]", "[,[1]]", "[[1]]]", "[[1]] [[2]]", "[[1", "[[1, x]]",
     '[{"a": 1}]', "null", "[" * 100000, "[[1], null]"],
)  # fmt: skip
def test_what_is_no_list_of_lists(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SourceError, match=r"verts.json: expected a JSON list of lists") as error:
        opened(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_bounds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_CHUNK", 16)
    monkeypatch.setattr(json_rows, "MAX_ROW_CHARACTERS", 30)
    with pytest.raises(SourceError, match=r"verts\.json"):
        opened(path)
    monkeypatch.setattr(json_rows, "MAX_JSON_BYTES", 100)
    with pytest.raises(SourceError, match="too large"):
        opened(path)
    path.write_bytes(b"[[\xff\xfe]]")
    with pytest.raises(SourceError, match=r"verts\.json"):
        opened(path)
    assert len(NumberRows(_write(path, "[]"), (2, 3), path.parent)) == 0


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
