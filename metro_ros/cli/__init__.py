"""The command `metro-ros`: one module per subcommand, loaded only when it is asked for."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from metro_ros.core.errors import MetroError

COMMANDS = {
    "run": "find people in an image, a folder, a video or a webcam; no ROS needed",
    "camera": "publish a video, a folder, a webcam or a labelled clip as a ROS 2 camera",
    "demo": "play a labelled clip through the node over ROS 2, record, draw and measure",
    "attention": "draw what a person's joints attend to, over an image; no ROS needed",
    "build-engine": "build the model for TensorRT ahead, for the GPU here or for others",
    "doctor": "say what is installed, what is missing, and what to do about it",
}
ROS_PACKAGES = ("rclpy", "metro_msgs", "sensor_msgs", "std_msgs", "builtin_interfaces", "ament_index_python")
USER_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. 0 when it went well, 2 with one line on stderr when not, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="metro-ros", description="METRO human mesh recovery for ROS 2.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    try:
        for name, summary in COMMANDS.items():
            command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
            if words[:1] == [name]:
                module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
                module.add_arguments(command)
                command.set_defaults(run=module.run)
        parsed = parser.parse_args(words)
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        return int(parsed.run(parsed))
    except MetroError as error:
        print(f"metro-ros: {error}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ROS_PACKAGES:
            raise
        print(
            f"metro-ros: {words[0]} needs ROS 2 and metro_msgs: no module {error.name}. Source ROS 2 and this "
            "workspace's install/setup.bash, or in a checkout run: make build && . scripts/env.sh",
            file=sys.stderr,
        )
        return USER_ERROR
    except KeyboardInterrupt:
        print("metro-ros: interrupted", file=sys.stderr)
        return INTERRUPTED
