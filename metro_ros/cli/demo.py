"""`metro-ros demo`: the whole line on one machine. A clip as a camera, the node, a recording, pictures and figures."""

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metro_ros.cli.statement import model_statement
from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.clip import Clip, load_clip
from metro_ros.core.errors import ConfigError, MetroError
from metro_ros.core.evaluation import check_same_body, scored_joints
from metro_ros.core.tracking_metrics import MATCH_IOU

CLIP_PATH = default_bundle_path().parent / "demo_clip"
BAG, OVERLAY, SHEET, SUMMARY, LOGS = "bag", "overlay.mp4", "contact_sheet.png", "summary.json", "logs"
IMAGE, PEOPLE, TOPOLOGY = "/image", "/metro/people", "/metro/topology"
FOLLOWING = ("/metro/people", "/metro/joints", "/metro/mesh")
"""Topics that answer every image."""
MANY_DROPPED = 0.1
"""Part of the images from which on the figures speak of the machine rather than of the model."""
START_S, END_S = 60.0, 10.0
"""How long the node may take to come up, and to answer the last image."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `metro-ros demo`."""
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="model bundle (default: built in)")
    parser.add_argument("--clip", type=Path, default=CLIP_PATH, help="labelled clip (default: built in)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder to write to (%(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="of the camera (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Play, record, draw, measure, and say how it went."""
    if not 0.1 <= arguments.rate <= 240:
        raise ConfigError("--rate", expected="0.1 to 240 images a second", got=arguments.rate)
    bundle, clip = load_bundle(arguments.bundle), load_clip(arguments.clip)
    check_same_body(clip, bundle)
    output: Path = arguments.output
    _clear(output)
    print(
        f"Playing {len(clip)} frames at {arguments.rate:g} Hz through the node; recording to {output / BAG}", flush=True
    )
    play(arguments.bundle, arguments.clip, arguments.rate, output)

    from metro_ros.cli.playback import review

    playback = review(output / BAG, (IMAGE, PEOPLE), clip, bundle, output / OVERLAY, output / SHEET)
    result = playback.result
    summary = {
        "frames_in": playback.frames_in,
        "frames_out": playback.frames_out,
        "fps": playback.frames_out / playback.played_s,
        "latency_ms_p50": playback.latency_ms_p50,
        "latency_ms_p99": playback.latency_ms_p99,
        "dropped": len(clip) - playback.frames_out,
        **{name: value for name, value in asdict(result).items() if name != "frames"},
        "bag": str(output / BAG),
        "overlay": str(output / OVERLAY),
        "contact_sheet": str(output / SHEET),
        "model": bundle.manifest.name,
    }
    (output / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(summary, clip, bundle)))
    return 0


def play(bundle: Path, clip: Path, rate: float, output: Path) -> None:
    """One process plays the clip, one runs the node, this one records all topics until the last image is answered.

    Raises MetroError when a process fails, or the node does not come up. What was recorded until then stays readable.
    """
    environment = {
        "ROS_DOMAIN_ID": str(random.randint(1, 100)),  # alone, whatever else runs here
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    os.environ.update(environment)

    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from metro_msgs.msg import MeshTopology, PersonArray
    from sensor_msgs.msg import CameraInfo, Image
    from visualization_msgs.msg import Marker, MarkerArray

    from metro_ros.cli.children import Child
    from metro_ros.cli.recorder import Recorder, Topic

    topics: dict[str, Topic] = {
        IMAGE: Topic(Image),
        "/camera_info": Topic(CameraInfo),
        PEOPLE: Topic(PersonArray),
        TOPOLOGY: Topic(MeshTopology, latched=True),
        "/metro/joints": Topic(MarkerArray),
        "/metro/mesh": Topic(Marker),
        "/diagnostics": Topic(DiagnosticArray),
    }
    logs = output / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    # Best effort, the default for cameras, loses most megabyte images without a tuned middleware; here none may be.
    reliable_images = f"qos_overrides.{IMAGE}.subscription.reliability:=reliable"
    node_arguments = ["--ros-args", "-p", f"bundle:={bundle.resolve()}", "-p", reliable_images]
    camera_arguments = ["camera", str(clip), "--rate", str(rate), "--topic", IMAGE, "--wait-for-subscribers", "2"]
    rclpy.init()
    try:
        recording_node = rclpy.create_node("metro_recorder")
        with (
            Recorder(recording_node, output / BAG, topics) as recorder,
            Child("node", "metro_ros.ros.node", node_arguments, logs / "node.log", environment) as node,
        ):

            def spin_until(done: Callable[[], Any], seconds: float) -> bool:
                deadline = time.monotonic() + seconds
                while not done() and time.monotonic() < deadline:
                    node.check()
                    rclpy.spin_once(recording_node, timeout_sec=0.05)
                return bool(done())

            if not spin_until(lambda: recorder.counts[TOPOLOGY], START_S):
                raise MetroError("the node did not come up", expected=f"within {START_S:g} s", remedy=f"see {logs}")
            with Child("camera", "metro_ros.cli", camera_arguments, logs / "camera.log", environment) as camera:
                frames_s = len(load_clip(clip)) / rate
                spin_until(lambda: not camera.running, START_S + 2 * frames_s)
                camera.check()
                spin_until(
                    lambda: all(
                        recorder.last_stamp.get(topic) == recorder.last_stamp.get(IMAGE) for topic in FOLLOWING
                    ),
                    END_S,
                )
    finally:
        rclpy.try_shutdown()


def table(summary: dict[str, Any], clip: Clip, bundle: Bundle) -> list[str]:
    """What a stranger wants to know, line by line."""
    joints = len(scored_joints(bundle.skeleton))
    kept = "everyone kept one id" if summary["clips_kept"] else f"{summary['id_switches']} ids changed, or were shared"
    latency = f"{summary['latency_ms_p50']:.0f} ms median, {summary['latency_ms_p99']:.0f} ms for 99 of 100"
    rows = [
        ("images played", f"{summary['frames_in']} ({clip.camera.width}x{clip.camera.height})"),
        ("answered", f"{summary['frames_out']} ({summary['fps']:.1f} a second; {summary['dropped']} dropped)"),
        *_advice(summary),
        ("camera to people", latency),
        ("people found", f"{summary['bodies'] - summary['lost']} of {summary['bodies']}, image by image"),
        (
            "recall, precision",
            f"{100 * summary['recall']:.1f} %, {100 * summary['precision']:.1f} % at box IoU {MATCH_IOU:g}",
        ),
        ("told apart", f"MOTA {100 * summary['mota']:.1f} %, IDF1 {100 * summary['idf1']:.1f} %; {kept}"),
        ("joint error (MPJPE)", f"{summary['mpjpe_mm']:.0f} mm, {joints} joints, roots laid upon each other"),
        ("aligned (PA-MPJPE)", f"{summary['pa_mpjpe_mm']:.0f} mm, after the best turn, shift and scale"),
        ("vertex error (MPVPE)", f"{summary['mpvpe_mm']:.0f} mm, {bundle.levels[-1]} vertices"),
        ("silhouette overlap", f"{100 * summary['silhouette_iou']:.0f} % (intersection over union, unaligned)"),
        ("look at", f"{summary['overlay']}, {summary['contact_sheet']}"),
        ("recorded", f"{summary['bag']} (MCAP; every topic)"),
    ]
    width = max(len(name) for name, _ in rows)
    line = "-" * 78
    return [line, *(f"{name:<{width}}  {value}" for name, value in rows), line, *model_statement(bundle.manifest)]


def _advice(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """A row for a machine that does not keep up with the camera, else none."""
    if summary["dropped"] <= MANY_DROPPED * summary["frames_in"]:
        return []
    slower = max(0.8 * summary["fps"], 1)
    return [("too slow for that", f"dropped images count as missed; try metro-ros demo --rate {slower:.0f}")]


def _clear(output: Path) -> None:
    """An output folder without the results of an earlier demo. Raises ConfigError when it is something else's."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        bag = output / BAG
        if bag.exists():
            if any(bag.iterdir()) and not any(bag.glob("*.mcap")):
                raise ConfigError(f"{bag} is no bag of this demo", remedy="choose another --output")
            shutil.rmtree(bag)
        for name in (OVERLAY, SHEET, SUMMARY):
            (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {output}", got=error, remedy="choose another --output") from error
