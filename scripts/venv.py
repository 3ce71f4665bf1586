"""Make .venv: `venv.py run` for running (no torch), `venv.py dev` for training, tests and lint on top of it.

Where a ROS 2 is sourced, that one is used and the environment sees the system's packages; elsewhere ROS 2 comes as
wheels. Needs nothing but the standard library.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
WHEELS_MARK = VENV / "ros_wheels"
REQUIREMENTS = ROOT / "requirements"
OLDEST_PYTHON = (3, 10)


def main(kind: str) -> None:
    """Create or extend the environment; kind: run or dev."""
    if kind == "dev":
        pip("-r", REQUIREMENTS / "dev.txt", *numpy_limit())
        return
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"Python {sys.version.split()[0]} is too old: expected 3.10 or newer. Run make PYTHON=python3.12")
    sourced = ros_is_sourced()
    if not sourced:
        check_headers()
    if not fits(sourced):
        create(system_site_packages=sourced)
    if sourced:
        print(f"Using the sourced ROS 2 {os.environ.get('ROS_DISTRO', '')}", flush=True)
        pip("setuptools<80", "-e", ROOT, *numpy_limit())
        return
    pip("-r", REQUIREMENTS / "run.txt", "-r", REQUIREMENTS / "ros.txt")
    pip("--no-deps", "--no-build-isolation", "-e", ROOT)
    point_cmake_here()
    WHEELS_MARK.touch()


def ros_is_sourced() -> bool:
    """Whether the shell has a ROS 2 that is not this project's own environment."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    foreign = any(ROOT not in (prefix, *prefix.parents) for prefix in prefixes)
    return foreign and importlib.util.find_spec("rclpy") is not None


def check_headers() -> None:
    """The messages' Python bindings are compiled here."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        sys.exit(f"{header} is missing: install the Python headers (apt install python3-dev)")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        sys.exit("No C++ compiler: install one (apt install g++)")


def fits(sourced: bool) -> bool:
    """Whether there is an environment of this Python, with or without ROS wheels as wanted, to install on top of."""
    version = f"version = {sys.version.split()[0]}"
    made_by = VENV / "pyvenv.cfg"
    return made_by.is_file() and version in made_by.read_text().splitlines() and WHEELS_MARK.exists() != sourced


def create(system_site_packages: bool) -> None:
    """A fresh environment of the interpreter that runs this, or of the one below it when that is an environment."""
    shutil.rmtree(VENV, ignore_errors=True)
    base = getattr(sys, "_base_executable", None) or sys.executable
    flags = ["--system-site-packages"] if system_site_packages else []
    made = subprocess.run([base, "-m", "venv", *flags, VENV], env=clean_environment())
    if made.returncode:
        sys.exit("No virtual environment could be made: install Python's venv module (apt install python3-venv)")


def numpy_limit() -> list[str]:
    """Keep NumPy's major version where the system's ROS was compiled for it; with wheels the pins say it all."""
    if WHEELS_MARK.exists():
        return []
    found = subprocess.run(
        [PYTHON, "-c", "import numpy; print(numpy.__version__.split('.')[0])"], capture_output=True, text=True
    )
    return [f"numpy<{int(found.stdout) + 1}"] if found.returncode == 0 else []


def pip(*arguments: str | Path) -> None:
    """Install into the environment. Exits with pip's own message when that fails."""
    command = [PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    print("pip install", *(os.path.relpath(a, ROOT) if isinstance(a, Path) else a for a in arguments), flush=True)
    if subprocess.run(command, cwd=ROOT, env=clean_environment()).returncode:
        sys.exit("pip could not install the requirements: see above. Is the network there?")


def clean_environment() -> dict[str, str]:
    """This process's environment without the mark by which the ROS wheels know that their library path is set."""
    return {k: v for k, v in os.environ.items() if k not in ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHONHOME")}


def point_cmake_here() -> None:
    """The wheels' CMake files name their builder's Python and NumPy headers; name this environment's instead."""
    numpy = VENV / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/numpy/_core/include"
    for file in (VENV / "share").rglob("*.cmake"):
        theirs = file.read_text(encoding="utf-8")
        ours = re.sub(r'/opt/python/[^;"]*/numpy/_core/include', str(numpy), theirs)
        ours = re.sub(r'/opt/python/[^;"]*/include/python[0-9.]+', sysconfig.get_path("include"), ours)
        if ours != theirs:
            file.write_text(ours, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
