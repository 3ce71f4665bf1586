"""`metro-ros build-engine`, with TensorRT-RTX, which builds for GPUs that are not here."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metro_ros.cli import main
from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import tensorrt_gpu
from metro_ros.core.engines.tensorrt import plan_key
from metro_ros.core.engines.tensorrt_library import find_library
from metro_ros.core.engines.tensorrt_plan import BatchProfile, read_plan

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_builds_what_is_not_there_yet(tiny_bundle: Bundle, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build-engine", str(tiny_bundle.path), "--compute-capability", "8.6", "8.9", "--max-batch", "4"]
    assert main(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{cache}/tensorrt/") and ".sm8.6.plan: " in first and " MB, built in " in first
    assert ".sm8.9.plan: " in second
    for capability in ("8.6", "8.9"):
        key = plan_key(find_library("tensorrt_rtx"), tiny_bundle, "fp32", capability, None)
        assert read_plan(cache / "tensorrt" / key.file_name, key, BatchProfile(4, 1)) is not None
    assert main([*words[:-3], "12.0", "--max-batch", "4"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" MB, up to date") and ", built in " in second


def test_it_writes_where_it_is_told(
    tiny_bundle: Bundle, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build-engine", str(tiny_bundle.path), "--compute-capability", "12.0", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    (plan,) = (tmp_path / "out").iterdir()
    assert capsys.readouterr().out.startswith(f"{plan}: ") and not cache.exists()


def test_what_it_cannot_do_is_one_line(refused: Refused, tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tiny_bundle.path
    ahead = ("build-engine", path, "--compute-capability")
    assert "no such compute capability: expected 7.5 or" in refused(*ahead, "3.5")
    assert "no such compute capability" in refused(*ahead, "ampere")
    assert "batch profile" in refused(*ahead, "8.6", "--max-batch", "0")
    assert "batch profile" in refused(*ahead, "8.6", "--max-batch", "4", "--best-batch", "5")
    assert "expected fp32, got int8" in refused(*ahead, "8.6", "--precision", "int8")
    assert "no model bundle" in refused("build-engine", tmp_path / "none")
    (tmp_path / "file").touch()
    assert f"cannot write {tmp_path}/file/" in refused(*ahead, "8.6", "--output", tmp_path / "file")


def test_without_a_gpu_it_says_what_would_help(
    refused: Refused, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt_gpu.first_gpu.cache_clear()
    monkeypatch.setitem(sys.modules, "pycuda", None)
    line = refused("build-engine", tiny_bundle.path)
    assert "pycuda" in line and "--compute-capability" in line
