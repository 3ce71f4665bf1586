"""What the documentation promises of the core: its example runs, and it needs neither ROS nor torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny_bundle import person_image

from metro_ros.core.bundle import Bundle

ROOT = Path(__file__).parents[2]

IMPORTS_OF_THE_CORE = """
import importlib, pkgutil, sys
import metro_ros.core
for module in pkgutil.walk_packages(metro_ros.core.__path__, "metro_ros.core."):
    importlib.import_module(module.name)
forbidden = {"torch", "lightning", "rclpy", "training", "onnx", "anny", "scipy", "openvino", "onnxruntime"}
forbidden |= {"metro_ros.ros", "metro_ros.cli"}
print(sorted(name for name in sys.modules if name in forbidden))
"""


def test_the_core_imports_neither_ros_nor_torch_nor_an_engine() -> None:
    """In a fresh interpreter; engines are imported when one is opened."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORTS_OF_THE_CORE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_python_example_runs(tiny_bundle: Bundle) -> None:
    path, stamp = tiny_bundle.path, 0.0
    image = person_image(640, 480, (320, 240), 200)

    from metro_ros.core.bundle import load_bundle
    from metro_ros.core.camera import Camera
    from metro_ros.core.crop import crop_image, whole_image_box
    from metro_ros.core.engines import open_engine
    from metro_ros.core.estimator import Estimator, EstimatorConfig

    bundle = load_bundle(path)
    camera = Camera.nominal_for(width=640, height=480)  # or Camera.from_calibration("camera.yaml")

    # Frame by frame: uint8 (H, W, 3) BGR as OpenCV has it, seconds.
    estimator = Estimator(bundle, config=EstimatorConfig())
    people = estimator(image, camera, stamp)
    for person in people:
        assert person.joints[bundle.skeleton.index("Head")].shape == (3,)  # metres, camera frame

    # Or the network alone, on crops uint8 (N, S, S, 3) RGB.
    engine = open_engine(bundle, engine="auto", precision="fp32")
    crop = crop_image(image, whole_image_box(640, 480), bundle.manifest.crop.size)
    out = engine.infer(crop[None])

    assert len(people) == 1
    assert out.joints.shape == (1, 17, 3) and np.isfinite(out.vertices).all()
