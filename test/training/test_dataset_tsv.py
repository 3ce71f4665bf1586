"""Rows of TSV files: found by a .lineidx that is right, by the file itself where that is missing or another's."""

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import write_tsv

from metro_ros.core.errors import SourceError
from training.datasets import tsv
from training.datasets.sample import SampleError
from training.datasets.tsv import TsvFile, index_path, read_line_list

ROWS = [("a", "first"), ("b", "", "third column"), ("c" * 40, "x"), ("d", "last")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tsv(tmp_path / "train.label.tsv", ROWS)
    return tmp_path / "train.label.tsv"


def check_rows(file: TsvFile, rows: list[tuple[str, ...]] = ROWS) -> None:
    assert len(file) == len(rows)
    assert [file.row(number) for number in range(len(file))] == [[c.encode() for c in row] for row in rows]


def test_rows_by_the_published_index(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert index_path(path).name == "train.label.lineidx"
    before = index_path(path).stat()
    check_rows(pickle.loads(pickle.dumps(TsvFile(path))))
    assert index_path(path).stat().st_mtime_ns == before.st_mtime_ns and not caplog.records


@pytest.mark.parametrize("chunk", [1, 7, 1 << 24])
@pytest.mark.parametrize("ending", ["\n", ""])
def test_missing_index_is_built_and_kept(path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, ending: str) -> None:
    monkeypatch.setattr(tsv, "_CHUNK", chunk)
    published = index_path(path).read_text()
    index_path(path).unlink()
    path.write_bytes(path.read_bytes().rstrip(b"\n") + ending.encode())
    check_rows(TsvFile(path))
    assert index_path(path).read_text() == published
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.label.lineidx", "train.label.tsv"]


def test_rows_end_as_windows_ends_them(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    check_rows(TsvFile(path))


@pytest.mark.parametrize(
    "stale",
    ["", "0\n8\n9999\n", "0\n9\n", "3\n8\n", "0\n8\n8\n", "0\n22\n8\n", "0\nx\n", "0\n1.5\n", "0\n8\n", "9" * 30,
     "-1\n", b"\xff\xfe"],
)  # fmt: skip
def test_stale_index_is_told_and_made_anew(path: Path, stale: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    published = index_path(path).read_text()
    index_path(path).write_bytes(stale if isinstance(stale, bytes) else stale.encode())
    with caplog.at_level(logging.WARNING):
        check_rows(TsvFile(path))
    assert "train.label.lineidx does not belong to its .tsv" in caplog.text
    assert index_path(path).read_text() == published


def test_a_file_that_grew_has_all_its_rows(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"e\tnew\n")
    check_rows(TsvFile(path), [*ROWS, ("e", "new")])


def test_a_folder_that_cannot_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index_path(path).unlink()

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    check_rows(TsvFile(path))
    assert "Permission denied" in caplog.text and not index_path(path).exists()


def test_one_wrong_byte_among_many_is_found_when_its_row_is_read(path: Path) -> None:
    """Too many rows to look at all of them on opening."""
    rows = [(f"{number:05d}", "x") for number in range(1000)]
    write_tsv(path, rows)
    starts = 8 * np.arange(1000)
    starts[500] += 3
    index_path(path).write_text("\n".join(map(str, starts)))
    file = TsvFile(path)
    for number in (499, 500):
        with pytest.raises(SampleError, match=f"row {number} of .*train.label.tsv is not there.*train.label.lineidx"):
            file.row(number)
    assert file.row(501) == [b"00501", b"x"]


def test_a_file_that_changes_or_goes_damages_rows_only(path: Path) -> None:
    file = TsvFile(path)
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(SampleError, match="row 3"):
        file.row(3)
    assert file.row(0) == [b"a", b"first"]
    path.unlink()
    with pytest.raises(SampleError, match=r"row 0.*No such file"):
        file.row(0)


def test_rows_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsv, "MAX_ROW_BYTES", 30)
    file = TsvFile(path)
    with pytest.raises(SampleError, match=r"row 2 .*too long"):
        file.row(2)
    assert file.row(3) == [b"d", b"last"]


def test_no_file_stays_open(path: Path) -> None:
    file = TsvFile(path)
    before = len(os.listdir("/proc/self/fd"))
    kept = [file.row(0) for _ in range(20)]
    assert len(kept) == 20 and len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_tsv(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none.tsv"):
        TsvFile(tmp_path / "none.tsv")
    (tmp_path / "empty.tsv").touch()
    with pytest.raises(SourceError, match="is empty"):
        TsvFile(tmp_path / "empty.tsv")
    with pytest.raises(SourceError, match="a folder"):
        TsvFile(tmp_path)


def test_line_lists(tmp_path: Path) -> None:
    path = tmp_path / "linelist.tsv"
    path.write_text("3\n1\n\n1\n")
    assert read_line_list(path, 1).tolist() == [[3], [1], [1]]
    path.write_text("0\t3\n1\t2\n")
    assert read_line_list(path, 2).tolist() == [[0, 3], [1, 2]]
    for text in ("0\t3\n", "", "x\n", "1\n2\t3\n"):
        path.write_text(text)
        with pytest.raises(SourceError, match=r"linelist\.tsv: expected 1 whole numbers a line"):
            read_line_list(path, 1)
