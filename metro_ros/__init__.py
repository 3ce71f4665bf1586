"""METRO human mesh recovery for ROS 2: any camera in, every person's joints and mesh out."""

__version__ = "0.1.0"
