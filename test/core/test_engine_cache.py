"""What engines keep on disk: used when it is sound, made again when not, done without when it cannot be written."""

import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import make_tiny_bundle

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import cache, onnxruntime, open_engine, openvino

ENGINES = ["openvino", "onnxruntime"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, logger="metro_ros.core.engines")
    return tmp_path / "cache"


def grey() -> np.ndarray:
    return np.full((1, 64, 64, 3), 90, np.uint8)


def forbid_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(self: object, *arguments: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(openvino.OpenVinoEngine, "_compile", compile_)
    monkeypatch.setattr(onnxruntime.OnnxRuntimeEngine, "_optimise", compile_)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path / "a"))
    assert cache.cache_root() == tmp_path / "a"
    monkeypatch.delenv("METRO_ROS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache.cache_root() == tmp_path / "b" / "metro_ros"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # not allowed by the XDG specification
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache.cache_root() == tmp_path / "c" / ".cache" / "metro_ros"


def test_entries_are_whole_or_not_there(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = root / "x" / "entry"
    assert cache.recall(path) is None
    assert cache.store(path, b"content") and cache.recall(path) == b"content"
    assert not caplog.records
    assert [file.name for file in path.parent.iterdir()] == ["entry"]
    whole = path.read_bytes()
    for damaged in (b"", whole[:10], whole[:-1], whole[:-1] + b"T", whole + b"!"):
        path.write_bytes(damaged)
        assert cache.recall(path) is None
    assert len(caplog.records) == 5 and all("damaged" in record.getMessage() for record in caplog.records)


def test_the_least_used_entries_go_when_there_are_too_many(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT_BYTES", 350)
    folder = root / "x"
    for age, name in ((30, "old"), (20, "older but used"), (10, "young")):
        cache.store(folder / name, bytes(100 - cache.DIGEST_BYTES))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    cache.recall(folder / "older but used")
    cache.store(folder / "new", bytes(100 - cache.DIGEST_BYTES))
    assert sorted(file.name for file in folder.iterdir()) == ["new", "older but used", "young"]
    cache.store(folder / "huge", bytes(500))
    assert [file.name for file in folder.iterdir()] == ["huge"], "the newest stays whatever its size"


@pytest.mark.parametrize("name", ENGINES)
def test_the_second_start_compiles_nothing(
    tiny_bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first = open_engine(tiny_bundle, name, threads=1).infer(grey())
    forbid_compiling(monkeypatch)
    second = open_engine(tiny_bundle, name, threads=1).infer(grey())
    np.testing.assert_array_equal(first.camera, second.camera)
    assert second.confidence is not None


@pytest.mark.parametrize("name", ENGINES)
def test_another_model_another_entry(tiny_bundle: Bundle, tmp_path: Path, root: Path, name: str) -> None:
    open_engine(tiny_bundle, name, threads=1)
    other = open_engine(make_tiny_bundle(tmp_path / "other", confidence=False), name, threads=1)
    assert other.infer(grey()).confidence is None
    assert len(list((root / name).iterdir())) == 2


@pytest.mark.parametrize("name", ENGINES)
def test_a_damaged_entry_is_made_again(
    tiny_bundle: Bundle, root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    before = open_engine(tiny_bundle, name, threads=1).infer(grey())
    (entry,) = (root / name).iterdir()
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 0xFF
    entry.write_bytes(content)
    after = open_engine(tiny_bundle, name, threads=1).infer(grey())
    np.testing.assert_array_equal(before.camera, after.camera)
    assert [record.getMessage() for record in caplog.records] == [f"the cached {entry} is damaged; making it again"]
    assert entry.read_bytes() != content, "it was written anew"


@pytest.mark.parametrize("name", ENGINES)
def test_an_entry_that_the_library_does_not_like_is_made_again(
    tiny_bundle: Bundle, root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    open_engine(tiny_bundle, name, threads=1)
    (entry,) = (root / name).iterdir()
    cache.store(entry, b"whole, but of another release")
    open_engine(tiny_bundle, name, threads=1).infer(grey())
    (message,) = [record.getMessage() for record in caplog.records]
    assert "earlier" in message and "again" in message and "\n" not in message


@pytest.mark.parametrize("name", [*ENGINES, "auto"])
def test_a_folder_that_cannot_be_made(
    tiny_bundle: Bundle, root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    root.write_bytes(b"a file is in the way")
    open_engine(tiny_bundle, name, threads=1).infer(grey())
    assert "is not cached" in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(
    tiny_bundle: Bundle, root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    root.mkdir()
    root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    open_engine(tiny_bundle, name, threads=1).infer(grey())
    assert "is not cached" in caplog.text


@pytest.mark.parametrize("name", ENGINES)
def test_a_full_disk(
    tiny_bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """/dev/full is the real thing: every write to it fails as on a full disk."""
    real_open = Path.open

    def full(self: Path, mode: str = "r", *arguments: object, **named: object) -> object:
        target = Path("/dev/full") if "w" in mode and root in self.parents else self
        return real_open(target, mode, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    open_engine(tiny_bundle, name, threads=1).infer(grey())
    assert "No space left on device" in caplog.text
    assert not [path for path in root.rglob("*") if path.is_file()], "nothing half-written stays"
