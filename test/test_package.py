"""The check behind `make lint`: what it accepts and what it must catch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def check(copy: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "scripts/check_package.py"], cwd=copy, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """As much of the repository as the check reads."""
    for name in ("scripts", "resource", "config", "launch", "msg"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("package.xml", "setup.py", "setup.cfg", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_repository_passes(copy: Path) -> None:
    done = check(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "word"),
    [
        ("package.xml", "<version>0.1.0", "<version>0.1.9", "versions differ"),
        ("msg/package.xml", "<version>0.1.0", "<version>0.1.9", "versions differ"),
        ("setup.py", 'version="0.1.0"', 'version="0.1.9"', "versions differ"),
        ("package.xml", "<version>0.1.0", "<version>0.1", "package.xml"),
        ("package.xml", "exec_depend>rclpy</exec_depend", "run_depend>rclpy</run_depend", "run_depend"),
        ("package.xml", "<license", "<licence", "licence"),
        ("package.xml", 'email="maintainers@metro-ros.org"', 'email="nobody"', "email"),
        ("package.xml", "<name>metro_ros", "<name>Metro-ROS", "name"),
        ("package.xml", "</package>", "", "package.xml"),
    ],
)
def test_what_is_wrong_is_found(copy: Path, file: str, old: str, new: str, word: str) -> None:
    path = copy / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    done = check(copy)
    assert done.returncode == 1 and word in done.stdout, done.stdout + done.stderr
