"""ROS parameters from frozen dataclasses: every field becomes one, with its description, default and range."""

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from metro_ros.core.config import check_settings, setting
from metro_ros.core.engines import EngineName, PrecisionWish
from metro_ros.core.errors import ConfigError

Config = TypeVar("Config")

UNSET = 0.0
"""ROS has no empty number: an optional one is left unset by this value, which lies outside of its range."""
MAX_INT = 2**31 - 1
CAMERA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
"""A relative ROS name, such as ``front`` or ``head/left``."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeConfig:
    """How the node runs. Those in `FIXED` count from the next configure on, the others at once."""

    autostart: bool = setting(True, "configure and activate at start, without a lifecycle manager")
    bundle: str = setting(
        "", "directory of the model bundle, or the name of one that comes with the package; empty: default"
    )
    mirror: bool = setting(False, "find left hands with a right-hand model, by mirrored images; no bodies")
    engine: EngineName = setting("auto", "inference engine; auto: the fastest here")
    precision: PrecisionWish = setting("fp32", "arithmetic of the engine; auto: the fastest that is as good as fp32")
    threads: int = setting(0, "threads of the engine; 0: its own choice", 0, 1024)
    cameras: tuple[str, ...] = setting(
        (), "names of several cameras: NAME/image in, ~/NAME/people out; empty: one, image in, ~/people out"
    )
    transport: Literal["raw", "compressed"] = setting("raw", "raw: subscribe to image; compressed: to image/compressed")
    rectified: bool = setting(False, "the image is rectified: use the projection matrix of camera_info, no distortion")
    detector: str = setting(
        "auto", "who finds people; auto: the model's own finder, none, topic: another node, or the path of an ONNX file"
    )
    detections_type: Literal["auto", "vision_msgs", "metro_msgs"] = setting(
        "auto", "package of the messages on detections; auto: vision_msgs where installed, else metro_msgs"
    )
    detections_classes: tuple[str, ...] = setting(
        ("person", "0"), "class_id of a person in vision_msgs' hypotheses; empty: any"
    )
    detections_slack_s: float = setting(
        0.25, "seconds that detections may be older or newer than the image that they serve", 0.0, 10.0
    )
    mesh_level: int = setting(0, "vertices of the mesh level that ~/mesh shows; 0: the middle level", 0, 1_000_000)
    joint_diameter_m: float | None = setting(
        None, "diameter of the spheres in ~/joints, metres; unset: by the size of the mesh, 0.05 for a body", 0.001, 1.0
    )
    bone_width_m: float | None = setting(
        None, "width of the bones in ~/joints, metres; unset: by the size of the mesh, 0.02 for a body", 0.001, 1.0
    )
    marker_lifetime_s: float = setting(1.0, "seconds after which a marker that is not renewed vanishes", 0.0, 3600.0)
    diagnostics_period_s: float = setting(1.0, "seconds between two messages on /diagnostics", 0.1, 60.0)

    def __post_init__(self) -> None:
        check_settings(self)
        check_choices(self)
        check_cameras(self.cameras)


FIXED = frozenset(
    {"autostart", "bundle", "mirror", "engine", "precision", "threads", "cameras", "transport", "diagnostics_period_s"}
    | {"detector", "detections_type"}
)
"""Names of the parameters that a configured node does not change."""


def check_choices(config: Any) -> None:
    """Raises ConfigError when a field of Literal type has another value."""
    for name, hint in typing.get_type_hints(type(config)).items():
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        if choices and getattr(config, name) not in choices:
            raise ConfigError(name, expected=" or ".join(map(str, choices)), got=repr(getattr(config, name)))


def check_cameras(names: Sequence[str]) -> None:
    """Raises ConfigError when a name cannot begin a topic of the node, or comes twice."""
    for name in names:
        if not CAMERA_NAME.fullmatch(name):
            raise ConfigError(
                "cameras", expected="names of letters, digits and _, not beginning with a digit", got=repr(name)
            )
    if len(set(names)) < len(names):
        raise ConfigError("cameras", expected="each name once", got=", ".join(names))


def declare(node: Node, config: type[Config], prefix: str = "") -> Config:
    """Declare every field of the dataclass `config` as parameter `prefix` + name, and read what was set for it.

    Raises ConfigError when what was set is outside of a range; rclpy's own errors when it has another type.
    """
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        default = UNSET if field.default is None else field.default
        name, descriptor = prefix + field.name, _descriptor(config, field)
        if field.default != ():
            default = list(default) if isinstance(default, tuple) else default
            node.declare_parameter(name, default, descriptor)
        elif node.declare_parameter(name, Parameter.Type.STRING_ARRAY, descriptor).value is None:
            # An empty list as default would be one of bytes, and the parameter would take nothing else.
            node.set_parameters([Parameter(name, Parameter.Type.STRING_ARRAY, [])])
    return read(node, config, prefix)


def read(node: Node, config: type[Config], prefix: str = "", changes: Iterable[Parameter] = ()) -> Config:
    """The dataclass of the node's current parameters, with `changes` made. Raises ConfigError out of range."""
    changed = {parameter.name: parameter.value for parameter in changes}
    values = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        name = prefix + field.name
        value = changed[name] if name in changed else node.get_parameter(name).value
        if field.default is None and value == UNSET:
            value = None
        values[field.name] = tuple(value or ()) if isinstance(field.default, tuple) else value
    return config(**values)


def _descriptor(config: type, field: "dataclasses.Field[Any]") -> ParameterDescriptor:
    """Type, description and range of one field, for `ros2 param describe` and graphical tools."""
    hint = typing.get_type_hints(config)[field.name]
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    descriptor = ParameterDescriptor(description=field.metadata["doc"])
    if typing.get_origin(hint) is Literal:
        descriptor.additional_constraints = " or ".join(typing.get_args(hint))
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is None and high is None:
        return descriptor
    # The lower end of an optional number admits UNSET; what lies between, the dataclass refuses.
    lowest = UNSET if field.default is None or low is None else low
    if float in kinds:
        highest = sys.float_info.max if high is None else high
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(lowest), to_value=float(highest))]
    else:
        highest = MAX_INT if high is None else high
        descriptor.integer_range = [IntegerRange(from_value=int(lowest), to_value=int(highest))]
    return descriptor
