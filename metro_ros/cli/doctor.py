"""`metro-ros doctor`: what is installed, what is missing, and what to do about it."""

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from typing import Literal, NamedTuple

from metro_ros.core.bundle import default_bundle_path, load_bundle
from metro_ros.core.engines import available_engines
from metro_ros.core.engines.cache import ENVIRONMENT, cache_root, writable_folder
from metro_ros.core.errors import MetroError

State = Literal["ok", "missing", "optional"]
CACHE_REMEDY = f"set {ENVIRONMENT} to a folder that can be written"
MARKS: dict[State, str] = {"ok": "ok  ", "missing": "MISS", "optional": "-   "}


class Finding(NamedTuple):
    """One line of the report. state: missing stops the main job, optional only narrows it."""

    state: State
    name: str
    detail: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`metro-ros doctor` takes none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the findings. 0 when the node can run here, 1 when something that it needs is missing."""
    findings = list(examine())
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{MARKS[finding.state]} {finding.name:<{width}}  {finding.detail}")
        if finding.remedy:
            print(f"     {'':<{width}}  -> {finding.remedy}")
    missing = [finding.name for finding in findings if finding.state == "missing"]
    print(f"The node cannot run: {', '.join(missing)}." if missing else "The node can run here.")
    return 1 if missing else 0


def examine() -> Iterator[Finding]:
    """Every finding, from the interpreter up to the model."""
    supported = sys.version_info >= (3, 10)
    yield Finding(
        "ok" if supported else "missing", "python", platform.python_version(), "" if supported else "use 3.10+"
    )
    yield _module("numpy", "missing", "pip install 'numpy>=1.26'")
    yield _module("cv2", "missing", "pip install opencv-python")
    yield from _engines()
    yield from _ros()
    yield _module("rosbags", "optional", "pip install rosbags: the demo records with it")
    yield _module("rosbags.image", "optional", "pip install rosbags-image: decodes images where cv_bridge does not")
    yield _module(
        "vision_msgs.msg", "optional", "only for detections of other nodes; metro_msgs/DetectionArray does too"
    )
    yield _module("cv_bridge", "optional", "not needed while rosbags-image is there")
    yield _cache()
    yield _bundle()


def _module(name: str, absent: State, remedy: str) -> Finding:
    """Whether a module can be imported, and its version; whatever its import raises is the answer."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken binary raises anything, and the doctor has to survive it
        return Finding(
            absent, name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", remedy
        )
    return Finding("ok", name, str(getattr(module, "__version__", "installed")))


def _engines() -> Iterator[Finding]:
    engines = available_engines()
    usable = [engine for engine in engines if not engine.problem]
    for engine in engines:
        if engine.problem:
            state: State = "optional" if usable else "missing"
            yield Finding(state, engine.name, engine.problem, f"pip install {engine.package}")
        else:
            yield Finding("ok", engine.name, f"{engine.version}, precision {' or '.join(engine.precisions)}")


def _cache() -> Finding:
    """Where engines keep what they compiled and measured, and whether they can."""
    if (folder := writable_folder("")) is None:
        return Finding(
            "optional", "cache", f"{cache_root()} cannot be written: every start compiles anew", CACHE_REMEDY
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding("ok", "cache", f"{folder}, {size / 1e6:.0f} MB")


def _ros() -> Iterator[Finding]:
    wheels = "or in a checkout: make build && . scripts/env.sh"
    rclpy = _module("rclpy", "missing", f"source /opt/ros/DISTRO/setup.bash, {wheels}")
    if rclpy.state == "ok":
        try:
            version = importlib.metadata.version("ros-jazzy-rclpy") + " (Jazzy wheels)"
        except importlib.metadata.PackageNotFoundError:
            version = os.environ.get("ROS_DISTRO", "unknown distribution")
        middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp (default)")
        rclpy = rclpy._replace(detail=f"{version}, {middleware}")
    yield rclpy
    yield _module("metro_msgs.msg", "missing", f"build msg/ and source install/setup.bash, {wheels}")


def _bundle() -> Finding:
    path = default_bundle_path()
    try:
        bundle = load_bundle(path)
    except MetroError as error:
        return Finding("missing", "model", str(error), "reinstall the package, or name another bundle")
    return Finding(
        "ok", "model", f"{bundle.manifest.name}, {len(bundle.skeleton)} joints, {bundle.levels[-1]} vertices"
    )
