"""`metro-ros camera`: a process of its own, heard over real DDS."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tiny_clip import FRAMES, HEIGHT, WIDTH

from metro_ros.cli import camera as camera_module
from metro_ros.cli.sources import open_source

DEADLINE_S = 30.0


class Listener:
    """Hears images and calibrations."""

    def __init__(self, domain: int) -> None:
        rclpy.init(domain_id=domain)
        self.node = rclpy.create_node("listener")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        qos = QoSProfile(depth=100)
        self.node.create_subscription(Image, "/front/image", self.images.append, qos)
        self.node.create_subscription(CameraInfo, "/front/camera_info", self.infos.append, qos)

    def spin_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, f"{len(self.images)} images, {len(self.infos)} calibrations"
            self._executor.spin_once(timeout_sec=0.05)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    domain = 1 + (os.getpid() + 50) % 101
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    listener = Listener(domain)
    yield listener
    listener.node.destroy_node()
    rclpy.shutdown()


def start(*words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "metro_ros.cli", "camera", *map(str, words), "--topic", "/front/image",
               "--wait-for-subscribers", "1"]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_every_frame_arrives_as_it_is_with_its_calibration(listener: Listener, clip: Path) -> None:
    process = start(clip, "--rate", 40, "--frame-id", "lens")
    listener.spin_until(lambda: len(listener.images) == len(listener.infos) == FRAMES)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0 and f"{FRAMES} images published" in output
    for frame, (image, info) in enumerate(zip(listener.images, listener.infos, strict=True)):
        pixels = np.asarray(image.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
        assert np.array_equal(pixels, cv2.imread(str(clip / "frames" / f"{frame:03}.png")))
        assert image.header == info.header and image.header.frame_id == "lens"
        assert (info.width, info.height, info.k[0]) == (WIDTH, HEIGHT, 150.0)
    stamps = [image.header.stamp.sec + image.header.stamp.nanosec * 1e-9 for image in listener.images]
    assert np.all(np.diff(stamps) > 0)


def test_a_looping_camera_goes_on_until_it_is_interrupted(listener: Listener, clip: Path, calibration: Path) -> None:
    process = start(clip / "frames", "--rate", 60, "--loop", "--calibration", calibration)
    listener.spin_until(lambda: len(listener.images) > FRAMES)
    process.send_signal(2)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert listener.infos[0].d[0] == 0.01 and listener.infos[0].k[0] == 200.0


def test_mistakes_are_one_line(refused: Callable[..., str], clip: Path) -> None:
    assert "--rate" in refused("camera", clip, "--rate", 0)
    assert "--frame-id" in refused("camera", clip, "--frame-id", "")
    assert "no source" in refused("camera", "nowhere.mp4")
    assert "cannot read" in refused("camera", clip, "--calibration", clip / "truth.npz")


def test_the_pace_does_not_catch_up_in_a_burst(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only sleeping and work move: late by ten periods, then back at the old period."""
    now = [0.0]
    monkeypatch.setattr(camera_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(camera_module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(camera_module.rclpy, "ok", lambda: True)
    due = []
    for frame in camera_module.paced(open_source(str(clip)), 10.0, endless=False):
        due.append(now[0])
        if frame.number == 4:
            now[0] += 1.0
    np.testing.assert_allclose(np.diff(due), [0.1] * 4 + [1.0] + [0.1] * 6, atol=1e-9)
