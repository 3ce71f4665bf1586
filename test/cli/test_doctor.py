"""`metro-ros doctor`: it survives whatever is broken, and says what to do."""

import sys
from pathlib import Path

import pytest

from metro_ros.cli import doctor, main


def test_a_machine_that_passes_the_tests_can_run_the_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "The node can run here." in said
    for name in ("python", "numpy", "openvino", "onnxruntime", "rclpy", "metro_msgs.msg", "model"):
        assert any(line.startswith("ok") and f" {name} " in line for line in said.splitlines()), name


def test_what_is_missing_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "metro_msgs.msg", None)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISS metro_msgs.msg" in said and "make build" in said and "The node cannot run: metro_msgs.msg." in said


def test_a_broken_module_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise SystemError("compiled for another NumPy\nmore")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    finding = doctor._module("cv2", "missing", "install it")
    assert finding == doctor.Finding("missing", "cv2", "SystemError: compiled for another NumPy", "install it")


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 0
    assert "cannot be written: every start compiles anew" in capsys.readouterr().out
    monkeypatch.setenv("METRO_ROS_CACHE", str(tmp_path / "new"))
    main(["doctor"])
    assert f"{tmp_path / 'new'}, 0 MB" in capsys.readouterr().out
