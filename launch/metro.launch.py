"""The node, and RViz if wanted, on a camera that is already running.

ros2 launch metro_ros metro.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
ros2 launch metro_ros metro.launch.py detector:=topic detections:=/yolo/detections
ros2 launch metro_ros metro.launch.py cameras:="[front, rear]"     # front/image, front/camera_info, rear/image, ...
"""

from typing import List  # noqa: UP035, launch_ros knows no other

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """One lifecycle node that configures and activates itself (parameter autostart)."""
    config = PathJoinSubstitution([FindPackageShare("metro_ros"), "config"])
    cameras = ParameterValue(LaunchConfiguration("cameras"), value_type=List[str])  # noqa: UP006
    detector = ParameterValue(LaunchConfiguration("detector"), value_type=str)
    topics = [
        ("image", LaunchConfiguration("image")),
        ("camera_info", LaunchConfiguration("camera_info")),
        ("detections", LaunchConfiguration("detections")),
    ]
    return LaunchDescription(
        [
            DeclareLaunchArgument("image", default_value="image", description="image topic, sensor_msgs/Image"),
            DeclareLaunchArgument("camera_info", default_value="camera_info", description="its sensor_msgs/CameraInfo"),
            DeclareLaunchArgument(
                "detector",
                default_value="auto",
                description="who finds people: auto (the model's own finder), none, topic, or an ONNX file",
            ),
            DeclareLaunchArgument("detections", default_value="detections", description="their topic, for topic"),
            DeclareLaunchArgument(
                "cameras", default_value="[]", description="names of several cameras, which come before their topics"
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([config, "metro.yaml"]),
                description="parameters that differ from the defaults",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
            DeclareLaunchArgument("rviz", default_value="false", description="open RViz", choices=["true", "false"]),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                description="what the node logs",
                choices=["debug", "info", "warn", "error", "fatal"],
            ),
            Node(
                package="metro_ros",
                executable="metro_node",
                name="metro",
                namespace=LaunchConfiguration("namespace"),
                # The file comes last: what it names counts before the arguments, which may be defaults.
                parameters=[{"cameras": cameras, "detector": detector}, LaunchConfiguration("params_file")],
                remappings=topics,
                arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
                output="screen",
            ),
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=LaunchConfiguration("namespace"),
                arguments=["--display-config", PathJoinSubstitution([config, "metro.rviz"])],
                remappings=topics,
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )
