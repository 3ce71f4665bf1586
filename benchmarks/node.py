"""The node end to end: a camera process, the node's process, and this one, which listens as RViz would."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import percentiles, slope
from metro_ros.cli.children import Child
from metro_ros.cli.recorder import STAMP, STAMP_OFFSET
from metro_ros.core.errors import MetroError

START_S, SILENCE_S = 120.0, 1.5
"""How long the node may take to come up, and how long a silence means the end."""
WARM, SETTLED = 30, 1000
"""Frames after which times count (the person is found, caches are warm), and after which memory should be flat."""
ROS = {"ROS_DOMAIN_ID": str(random.randint(1, 100)), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
SHARED_MEMORY = Path(__file__).resolve().parents[1] / "config" / "fastdds_shm.xml"


def bench_node(width: int, height: int, rate: int, frames: int, folder: Path) -> dict[str, Any]:
    """Play so many images at a rate and listen to people, joints and mesh.

    Returns latency_ms p50 and p99, from the image's stamp to the arrival of its people; people_per_s that were
    answered; share_outside_engine of the time between an image's arrival and its answer's publication; rss_mb and
    rss_mb_by_frame of the node's process, and by how many megabytes it grows in 10,000 frames.
    """
    environment = {**ROS, "OMP_WAIT_POLICY": "PASSIVE", "FASTRTPS_DEFAULT_PROFILES_FILE": str(SHARED_MEMORY)}
    os.environ.update(environment)
    import rclpy
    from metro_msgs.msg import PersonArray
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from visualization_msgs.msg import Marker, MarkerArray

    folder.mkdir(parents=True, exist_ok=True)
    report, heard = folder / "node.json", folder / "heard"
    heard.unlink(missing_ok=True)
    arrivals: list[tuple[int, int]] = []  # when, and when the image was taken; nanoseconds

    def on_people(data: bytes) -> None:
        now_ns = time.time_ns()
        seconds, nanoseconds = STAMP.unpack_from(data, STAMP_OFFSET)
        if not arrivals:
            heard.touch()
        arrivals.append((now_ns, seconds * 10**9 + nanoseconds))

    reliable_images = "qos_overrides./image.subscription.reliability:=reliable"
    rclpy.init()
    try:
        listener = rclpy.create_node("metro_bench")
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        listener.create_subscription(PersonArray, "/metro/people", on_people, qos, raw=True)
        for kind, topic in ((MarkerArray, "/metro/joints"), (Marker, "/metro/mesh")):
            listener.create_subscription(kind, topic, lambda data: None, qos, raw=True)
        arguments = [str(report), "--ros-args", "-p", reliable_images]
        played = [*(str(number) for number in (width, height, rate, frames)), str(heard)]
        with (
            Child("node", "benchmarks.timed_node", arguments, folder / "node.log", environment) as node,
            Child("camera", "benchmarks.camera", played, folder / "camera.log", environment) as camera,
        ):
            deadline = time.monotonic() + START_S
            while camera.running or not arrivals or time.time_ns() - arrivals[-1][0] < 1e9 * SILENCE_S:
                rclpy.spin_once(listener, timeout_sec=0.1)
                node.check()
                camera.check()
                if not arrivals and time.monotonic() > deadline:
                    raise MetroError(
                        "the node did not answer", expected=f"within {START_S:g} s", remedy=f"see {folder}"
                    )
    finally:
        rclpy.try_shutdown()
    watched = json.loads(report.read_text(encoding="utf-8"))
    began_ns = int((folder / "camera.log").read_text(encoding="utf-8").split()[0])
    answered = [(now_ns, stamp_ns) for now_ns, stamp_ns in arrivals if stamp_ns >= began_ns]
    counted = answered[WARM:]
    if len(counted) < 2:
        expected = f"more than {WARM + 1} of {frames} frames answered"
        raise MetroError("the node's run is too short", expected=expected, got=len(answered), remedy=f"see {folder}")
    p50, p99 = percentiles([(now_ns - stamp_ns) / 1e6 for now_ns, stamp_ns in counted], 50, 99)
    frame_ms, engine_ms = (np.array(watched[key][WARM:]) for key in ("frame_ms", "engine_ms"))
    memory = [(frame, mb) for frame, mb in watched["rss_mb"] if frame > WARM] or watched["rss_mb"]  # of a short run
    steady = [(frame, mb) for frame, mb in memory if frame > SETTLED]
    return {
        "width": width,
        "height": height,
        "offered_per_s": rate,
        "frames_in": frames,
        "frames_out": len(answered),
        "people_per_s": 1e9 * (len(counted) - 1) / (counted[-1][0] - counted[0][0]),
        "latency_ms_p50": p50,
        "latency_ms_p99": p99,
        "node_ms": float(np.median(frame_ms)),
        "engine_ms": float(np.median(engine_ms)),
        "share_outside_engine": float(np.median(1 - engine_ms / frame_ms)),
        "rss_mb": max(mb for _, mb in memory),
        "rss_growth_mb": 1e4 * slope(*zip(*steady, strict=True)) if len(steady) > 1 else None,
        "rss_mb_by_frame": memory,
    }
