"""A real bundle of a few kilobytes whose network finds a bright blob, so that every room can be tested end to end.

The body is an ellipsoid, and so is the hand. The network measures where the bright pixels of the crop are and how far
they spread, and answers with the weak-perspective camera that lays the ellipsoid over them, so that re-centring,
following, losing and placing a person can be told right from wrong. Joint confidence is the brightness of the brightest
pixel; in a calibrated model that is visibility, and confidence half of it. A saturated red pixel makes its camera NaN.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from metro_ros.core.bundle import Bundle, write_bundle
from metro_ros.core.manifest import CameraFrame
from metro_ros.core.skeleton import BODY_17, Skeleton

RADII_M = (0.35, 0.9, 0.25)
"""Half extents of the ellipsoid in x, y and z."""
HAND_RADII_M = (0.05, 0.1, 0.03)
"""Those of the hand."""
FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
HAND_21 = Skeleton(
    names=("Wrist", *(f"{finger}_{joint}" for finger in FINGERS for joint in range(1, 5))),
    parents=(-1, *(0 if joint % 4 == 0 else joint for joint in range(20))),
)
"""The joints of METRO's hand; the tip of a finger is its fourth."""
RED_BGR = (0, 0, 255)
"""The colour that makes the network answer NaN."""


def make_tiny_bundle(
    path: str | Path,
    *,
    size: int = 64,
    camera_frame: CameraFrame = "crop_ray",
    confidence: bool = True,
    calibrated: bool = False,
    least_confidence: float = 0.0,
    nan_weights: bool = False,
    joint_count_in_graph: int | None = None,
    hand: bool = False,
    faces: bool = True,
) -> Bundle:
    """Write the bundle to `path` and load it.

    confidence: whether the graph has that output; calibrated: whether it has visibility too; least_confidence: of the
    manifest then; nan_weights: put a NaN
    into the graph (the mesh stays finite); joint_count_in_graph: give the graph another number of joints than the
    manifest says; hand: in place of the body a right hand, palm to the camera, with 21 joints and two levels; faces:
    whether the mesh has any.
    """
    mesh = tiny_mesh(hand)
    if not faces:
        mesh |= {name: array[:0] for name, array in mesh.items() if name.startswith("faces_")}
    skeleton = HAND_21 if hand else BODY_17
    joints = mesh["joint_regressor"] @ mesh["template"]
    if joint_count_in_graph is not None:
        joints = np.resize(joints, (joint_count_in_graph, 3))
    vertices = mesh["template"].copy()
    if nan_weights:
        vertices[3, 1] = np.nan
    half_height_m = (HAND_RADII_M if hand else RADII_M)[1]
    outputs = ("confidence", *(("visibility",) if calibrated else ())) if confidence else ()
    model = _network(size, joints.astype(np.float32), vertices, half_height_m, outputs)
    fields: dict[str, Any] = {
        "name": "tiny-hand" if hand else "tiny",
        "licence": {"weights": "Apache-2.0", "body_model": "none, an ellipsoid"},
        "origin": {"made_by": "test/tiny_bundle.py"},
        "crop": {"size": size, "padding": 1.25, "color": "rgb", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        "joints": {"names": list(skeleton.names), "parents": list(skeleton.parents)},
        "camera": {"model": "weak_perspective", "frame": camera_frame},
    }
    if calibrated:
        fields["confidence"] = {"threshold_mm": 50, "least": least_confidence}
    return write_bundle(path, fields, model.SerializeToString(), mesh)


def person_image(
    width: int,
    height: int,
    center_px: tuple[float, float],
    body_height_px: float,
    brightness: int = 255,
    hand: bool = False,
) -> npt.NDArray[np.uint8]:
    """A black BGR image with the one thing the tiny network knows: a bright upright ellipse, shaped like its body."""
    radii = HAND_RADII_M if hand else RADII_M
    image = np.zeros((height, width, 3), np.uint8)
    shift = 8  # OpenCV draws in fixed point, 1/256 pixel
    center = tuple(round(c * 2**shift) for c in center_px)
    axes = tuple(round(body_height_px / 2 * r / radii[1] * 2**shift) for r in radii[:2])
    cv2.ellipse(image, center, axes, 0, 0, 360, (brightness,) * 3, cv2.FILLED, cv2.LINE_AA, shift)
    return image


def tiny_mesh(hand: bool = False) -> dict[str, npt.NDArray]:
    """mesh.npz of the ellipsoid: an octahedron subdivided one, two and three times, 18, 66 and 258 vertices.

    The hand has the latter two.
    """
    radii, skeleton = (HAND_RADII_M, HAND_21) if hand else (RADII_M, BODY_17)
    joint_xy = _hand_xy() if hand else _JOINT_XY
    points = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)], np.float64)
    x, y, z = (0, 1), (2, 3), (4, 5)
    faces = [
        (x[i], y[j], z[k]) if (i + j + k) % 2 == 0 else (x[i], z[k], y[j])
        for i in range(2)
        for j in range(2)
        for k in range(2)
    ]
    levels = []
    for _ in range(3):
        points, faces = _subdivide(points, faces)
        levels.append((len(points), faces))
    levels = levels[1:] if hand else levels
    # The finest rows are shuffled, so that taking the first rows is not the same as taking a level's rows.
    row_of = np.random.RandomState(0).permutation(len(points))
    template = np.empty((len(points), 3))
    template[row_of] = points * radii
    regressor = np.zeros((len(skeleton), len(points)))
    for joint, name in enumerate(skeleton.names):
        for depth in (-1, 1):  # the mean of a vertex before and one behind lies inside of the body
            target = np.array((*joint_xy[name], depth * 0.6 * radii[2]))
            regressor[joint, np.argmin(np.linalg.norm(template - target, axis=1))] += 0.5
    template -= skeleton.root(regressor @ template)
    mesh: dict[str, npt.NDArray] = {
        "template": template.astype(np.float32),
        "joint_regressor": regressor.astype(np.float32),
    }
    for level, (count, level_faces) in enumerate(levels):
        finest = level == len(levels) - 1
        mesh[f"rows_{level}"] = (np.arange(count) if finest else row_of[:count]).astype(np.int32)
        indices = np.array(level_faces)
        mesh[f"faces_{level}"] = (row_of[indices] if finest else indices).astype(np.int32)
    return mesh


_JOINT_XY = {  # of the ellipsoid, y down; the person faces the camera, so its right is at negative x
    **{"R_Ankle": (-0.1, 0.8), "R_Knee": (-0.2, 0.5), "R_Hip": (-0.2, 0.1), "R_Wrist": (-0.35, 0.1)},
    **{"L_Ankle": (0.1, 0.8), "L_Knee": (0.2, 0.5), "L_Hip": (0.2, 0.1), "L_Wrist": (0.35, 0.1)},
    **{"R_Elbow": (-0.33, -0.2), "R_Shoulder": (-0.25, -0.5), "L_Elbow": (0.33, -0.2), "L_Shoulder": (0.25, -0.5)},
    **{"Neck": (0.0, -0.6), "Head": (0.0, -0.8), "Pelvis": (0.0, 0.1), "Torso": (0.0, -0.2), "Nose": (0.0, -0.75)},
}


def _hand_xy() -> dict[str, tuple[float, float]]:
    """Of a right hand that shows its palm, fingers up: the thumb is at positive x."""
    across, up, _ = HAND_RADII_M
    places = {"Wrist": (0.0, 0.8 * up)}
    for finger, degrees in zip(FINGERS, (60, 25, 5, -15, -35), strict=True):
        x, y = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
        for joint in range(1, 5):
            places[f"{finger}_{joint}"] = (joint / 4 * 0.9 * x * across, (0.8 - joint / 4 * 1.5 * y) * up)
    return places


def _subdivide(points: npt.NDArray, faces: list[tuple[int, ...]]) -> tuple[npt.NDArray, list[tuple[int, ...]]]:
    """Every triangle into four, new points pushed onto the unit sphere; old points keep their indices."""
    points_list = list(points)
    middle: dict[tuple[int, int], int] = {}

    def between(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middle:
            point = points_list[a] + points_list[b]
            middle[key] = len(points_list)
            points_list.append(point / np.linalg.norm(point))
        return middle[key]

    finer = []
    for a, b, c in faces:
        ab, bc, ca = between(a, b), between(b, c), between(c, a)
        finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.array(points_list), finer


def _network(
    size: int, joints: npt.NDArray, vertices: npt.NDArray, half_height_m: float, brightness: tuple[str, ...]
) -> onnx.ModelProto:
    """image uint8 (N, S, S, 3) → joints, vertices, camera, by image moments, and outputs named `brightness`."""
    u = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    center = np.nan_to_num((low + high) / 2)
    weights = {
        "u": u.reshape(1, 1, size, 1),
        "v": u.reshape(1, size, 1, 1),
        "joints_0": joints[None],
        "vertices_0": vertices[None],
        "center_x": np.full((1, 1), center[0], np.float32),
        "center_y": np.full((1, 1), center[1], np.float32),
        "to_unit": np.float32(1 / 255),
        "dark": np.float32(0.1),
        "tiny": np.float32(1e-3),
        "smallest": np.float32(1e-4),
        "to_half_height": np.float32(2.0),  # the variance of an ellipse along its axis is a quarter of its square
        "per_metre": np.float32(1 / half_height_m),
        "all_pixels": np.array([1, 2, 3], np.int64),
        "channel": np.array([3], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "flat": np.array([-1, 1], np.int64),
        "joints_tail": np.array(joints.shape, np.int64),
        "vertices_tail": np.array(vertices.shape, np.int64),
        "joints_only": np.array(joints.shape[:1], np.int64),
        "red_minus_blue": np.array([1, 0, -1], np.float32).reshape(1, 1, 1, 3),
        "half": np.float32(0.5),
        "nan": np.float32(np.nan),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["bytes"], to=TensorProto.FLOAT),
        node("Mul", ["bytes", "to_unit"], ["rgb"]),
        node("ReduceSum", ["rgb", "channel"], ["gray_sum"], keepdims=1),
        node("Mul", ["gray_sum", "third"], ["gray"]),
        node("Sub", ["gray", "dark"], ["above"]),
        node("Relu", ["above"], ["mass"]),
        node("ReduceSum", ["mass", "all_pixels"], ["mass_sum"], keepdims=1),
        node("Max", ["mass_sum", "tiny"], ["total"]),
    ]
    weights["third"] = np.float32(1 / 3)
    for axis in "uv":
        nodes += [
            node("Mul", ["mass", axis], [f"{axis}_mass"]),
            node("ReduceSum", [f"{axis}_mass", "all_pixels"], [f"{axis}_sum"], keepdims=1),
            node("Div", [f"{axis}_sum", "total"], [f"{axis}_mean"]),
        ]
    nodes += [
        node("Sub", ["v", "v_mean"], ["v_off"]),
        node("Mul", ["v_off", "v_off"], ["v_square"]),
        node("Mul", ["mass", "v_square"], ["v_moment"]),
        node("ReduceSum", ["v_moment", "all_pixels"], ["v_moment_sum"], keepdims=1),
        node("Div", ["v_moment_sum", "total"], ["v_variance_raw"]),
        node("Max", ["v_variance_raw", "smallest"], ["v_variance"]),
        node("Sqrt", ["v_variance"], ["v_deviation"]),
        node("Mul", ["v_deviation", "to_half_height"], ["half_height"]),
        node("Mul", ["half_height", "per_metre"], ["scale_4d"]),
        node("Reshape", ["scale_4d", "flat"], ["scale"]),
        node("Reshape", ["u_mean", "flat"], ["u_center"]),
        node("Reshape", ["v_mean", "flat"], ["v_center"]),
        node("Div", ["u_center", "scale"], ["x_center"]),
        node("Div", ["v_center", "scale"], ["y_center"]),
        node("Sub", ["x_center", "center_x"], ["tx"]),
        node("Sub", ["y_center", "center_y"], ["ty"]),
        node("Concat", ["scale", "tx", "ty"], ["camera_measured"], axis=1),
        node("Mul", ["rgb", "red_minus_blue"], ["red_parts"]),
        node("ReduceSum", ["red_parts", "channel"], ["red"], keepdims=1),
        node("ReduceMax", ["red"], ["reddest_4d"], axes=[1, 2, 3], keepdims=1),
        node("Reshape", ["reddest_4d", "flat"], ["reddest"]),
        node("Greater", ["reddest", "half"], ["is_red"]),
        node("Where", ["is_red", "nan", "camera_measured"], ["camera"]),
        node("Shape", ["image"], ["image_shape"]),
        node("Slice", ["image_shape", "zero", "one"], ["batch"]),
    ]
    for name in ("joints", "vertices"):
        nodes += [
            node("Concat", ["batch", f"{name}_tail"], [f"{name}_shape"], axis=0),
            node("Expand", [f"{name}_0", f"{name}_shape"], [name]),
        ]
    outputs = [
        helper.make_tensor_value_info("joints", TensorProto.FLOAT, ["N", *joints.shape]),
        helper.make_tensor_value_info("vertices", TensorProto.FLOAT, ["N", *vertices.shape]),
        helper.make_tensor_value_info("camera", TensorProto.FLOAT, ["N", 3]),
    ]
    if brightness:
        nodes += [
            node("ReduceMax", ["gray"], ["brightest_4d"], axes=[1, 2, 3], keepdims=1),
            node("Reshape", ["brightest_4d", "flat"], ["brightest"]),
            node("Concat", ["batch", "joints_only"], ["confidence_shape"], axis=0),
        ]
    # The last one is the brightness, the one before half of it.
    for index, name in enumerate(reversed(brightness)):
        if index:
            nodes.append(node("Mul", ["brightest", "half"], ["half_as_bright"]))
        nodes.append(node("Expand", ["half_as_bright" if index else "brightest", "confidence_shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(joints)]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
