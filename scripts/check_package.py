"""Check what ROS and pip are told: both package.xml against their schema, and one version everywhere."""

import subprocess
import sys
from pathlib import Path

from catkin_pkg.package import InvalidPackage, parse_package
from lxml import etree

import metro_ros

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("package.xml", "msg/package.xml")
SCHEMA = ROOT / "scripts" / "package_format3.rng"


def problems_of(path: Path) -> list[str]:
    """What is wrong with a package.xml, by REP 149's structure and by catkin_pkg, which colcon and rosdep use."""
    try:
        document = etree.parse(path)
    except etree.XMLSyntaxError as error:
        return [str(error)]
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    found = [] if schema.validate(document) else [f"line {entry.line}: {entry.message}" for entry in schema.error_log]
    warnings: list[str] = []
    try:
        parse_package(path, warnings=warnings)
    except InvalidPackage as error:
        found.append(str(error))
    return found + warnings


def versions() -> dict[str, str]:
    """Every place that names a version."""
    command = [sys.executable, "setup.py", "--version"]
    setup = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[-1]
    files = {path: etree.parse(ROOT / path).findtext("version") or "" for path in PACKAGES}
    return {**files, "setup.py": setup, "metro_ros.__version__": metro_ros.__version__}


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    found = [f"{path}: {problem}" for path in PACKAGES for problem in problems_of(ROOT / path)]
    if not found and len(set((stated := versions()).values())) != 1:
        found.append("versions differ: " + ", ".join(f"{place} {version}" for place, version in stated.items()))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
