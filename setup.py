"""The ament_python package metro_ros, also installable by pip alone."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "metro_ros"


def data_files() -> list[tuple[str, list[str]]]:
    """The files that ROS looks for in the package's share directory."""
    return [
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(map(str, Path("launch").glob("*.launch.py")))),
        (f"share/{PACKAGE}/config", sorted(str(path) for path in Path("config").iterdir() if path.is_file())),
    ]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="METRO human mesh recovery for ROS 2: a camera in, 3D joints and a body mesh out",
    license="Apache-2.0",
    maintainer="metro_ros maintainers",
    maintainer_email="maintainers@metro-ros.org",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "models/*/*"]},
    data_files=data_files(),
    python_requires=">=3.10",
    install_requires=[
        "numpy>=1.26",
        "opencv-python>=4.8",
        "onnxruntime>=1.17",
        "openvino>=2024.4",
        "rosbags>=0.10",
        "rosbags-image>=0.10",
        "PyYAML>=6.0",
        "tqdm>=4.64",
    ],
    extras_require={  # for an NVIDIA GPU; pycuda is compiled at installation, see README.md
        "tensorrt": ["tensorrt>=8.6", "pycuda>=2024.1"],
        "tensorrt-rtx": ["tensorrt-rtx-cu13>=1.7", "pycuda>=2024.1"],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "metro-ros = metro_ros.cli:main",
            "metro_node = metro_ros.ros.node:main",
        ],
    },
)
