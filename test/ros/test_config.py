"""The files that ROS users start with: parameters, launch, RViz, the installed package, and who imports whom."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
import yaml
from conftest import fresh_domain

LAUNCH_ARGUMENTS = {
    "image",
    "camera_info",
    "cameras",
    "detector",
    "detections",
    "params_file",
    "namespace",
    "rviz",
    "log_level",
}


def test_the_parameter_file_names_only_what_the_node_declares(stage, repository):
    path = repository / "config" / "metro.yaml"
    s = stage(arguments=("--params-file", str(path)))
    s.start()
    (parameters,) = (section["ros__parameters"] for section in yaml.safe_load(path.read_text()).values())
    declared = set(s.metro._parameters)
    assert set(parameters) <= declared


def test_the_parameter_file_reaches_the_node_in_any_namespace(stage, repository, tmp_path):
    text = (repository / "config" / "metro.yaml").read_text().replace("{}", "mesh_level: 66")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    s = stage(arguments=("--params-file", str(path), "-r", "__ns:=/robot"))
    assert s.metro.get_fully_qualified_name() == "/robot/metro"
    assert s.metro.config.mesh_level == 66


def rviz_topics(repository: Path) -> dict[str, dict]:
    rviz = yaml.safe_load((repository / "config" / "metro.rviz").read_text())
    displays = rviz["Visualization Manager"]["Displays"]
    return {display["Class"].split("/")[1]: display.get("Topic", {}) for display in displays}


def test_rviz_listens_to_the_node_with_a_matching_qos(stage, repository):
    shown = rviz_topics(repository)
    assert {"Camera", "Marker", "MarkerArray", "TF"} <= set(shown)
    assert shown["Camera"]["Value"] == "image"
    s = stage()
    s.start()
    for display in ("Marker", "MarkerArray"):
        topic = shown[display]
        (offered,) = s.node.get_publishers_info_by_topic("/" + topic["Value"])
        assert offered.topic_type.endswith("/" + display)
        assert topic["Reliability Policy"] == "Reliable"
        assert offered.qos_profile.reliability == rclpy.qos.ReliabilityPolicy.RELIABLE


def test_the_shared_memory_profile_is_taken_by_fast_dds(repository):
    script = (
        "import rclpy; from rclpy.qos import QoSProfile; from std_msgs.msg import Header; rclpy.init();"
        "node = rclpy.create_node('profiled'); publisher = node.create_publisher(Header, 'h', 1);"
        "node.create_subscription(Header, 'h', lambda header: print('got', header.frame_id), 1)\n"
        "while not publisher.get_subscription_count(): rclpy.spin_once(node, timeout_sec=0.05)\n"
        "publisher.publish(Header(frame_id='it')); rclpy.spin_once(node, timeout_sec=10)"
    )
    profile = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(repository / "config" / "fastdds_shm.xml")}
    environment = {**os.environ, **profile, "ROS_DOMAIN_ID": str(fresh_domain())}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, timeout=60, capture_output=True, text=True, check=True
    )
    assert "got it" in done.stdout
    assert "XML" not in done.stderr, done.stderr


def test_the_launch_file_describes_the_node_and_its_arguments(repository):
    pytest.importorskip("launch_ros", reason="this machine has no launch: it has no wheel")
    from launch.actions import DeclareLaunchArgument
    from launch_ros.actions import Node

    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location("metro_launch", repository / "launch" / "metro.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entities = module.generate_launch_description().entities
    arguments = [entity for entity in entities if isinstance(entity, DeclareLaunchArgument)]
    assert {argument.name for argument in arguments} == LAUNCH_ARGUMENTS
    assert all(argument.description for argument in arguments)
    nodes = [entity for entity in entities if isinstance(entity, Node)]
    executables = [node.node_executable for node in nodes]
    assert "metro_node" in str(executables[0]) and len(nodes) == 2
    context = LaunchContext()
    for argument in arguments:
        if argument.name != "params_file":  # its default needs the installed package
            argument.execute(context)
    assert nodes[1].condition.evaluate(context) is False, "RViz opens only when asked for"


def test_the_launch_file_is_sound_as_far_as_its_syntax_tells(repository):
    """What can be said without launch: every argument that is read is declared, and the executable exists."""
    tree = ast.parse((repository / "launch" / "metro.launch.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]

    def first_words(name: str) -> list[str]:
        return [call.args[0].value for call in calls if call.func.id == name]  # type: ignore[attr-defined]

    assert set(first_words("DeclareLaunchArgument")) == LAUNCH_ARGUMENTS
    assert set(first_words("LaunchConfiguration")) == LAUNCH_ARGUMENTS
    started = [
        [ast.literal_eval(word.value) for word in call.keywords if word.arg in ("package", "executable")]
        for call in calls
        if call.func.id == "Node"  # type: ignore[attr-defined]
    ]
    assert started == [["metro_ros", "metro_node"], ["rviz2", "rviz2"]]


def without_checkout(repository: Path) -> dict[str, str]:
    """This environment, with the built package in place of the checkout."""
    paths = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path and Path(path) != repository]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ROS_DOMAIN_ID": str(fresh_domain())}


def test_the_built_package_has_what_ros_looks_for(repository):
    prefix = repository / "install" / "metro_ros"
    share = prefix / "share" / "metro_ros"
    for file in ("package.xml", "launch/metro.launch.py", "config/metro.yaml", "config/metro.rviz"):
        assert (share / file).is_file(), file
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "metro_ros").is_file()


def test_the_built_executable_runs_without_the_checkout(repository, tmp_path):
    executable = repository / "install" / "metro_ros" / "lib" / "metro_ros" / "metro_node"
    command = [executable, "--ros-args", "-p", f"bundle:={tmp_path}/none"]
    done = subprocess.run(
        command, env=without_checkout(repository), cwd=tmp_path, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 2 and "no model bundle" in done.stderr
    where = [sys.executable, "-c", "import metro_ros; print(metro_ros.__file__)"]
    found = subprocess.run(
        where, env=without_checkout(repository), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(repository / "install")


def test_the_ros_room_needs_neither_torch_nor_the_command_line():
    script = "import sys, metro_ros.ros.node; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "rclpy" in loaded and "metro_ros.core.estimator" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "training") or name == "metro_ros.cli"}
