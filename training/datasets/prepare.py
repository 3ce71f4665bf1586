"""A sample as the network is shown it: cropped, turned, mirrored and recoloured, its labels with it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import Box
from training.datasets.augment import AugmentConfig, Change
from training.datasets.crops import CropStyle, crop_dense, crop_keypoints, crop_pixels, turn
from training.datasets.joints import SMPL_24, JointSelection, mirror_rotations, mirror_smpl_pose, turn_pose
from training.datasets.sample import Dense, Sample, SampleError

FloatArray = NDArray[np.float32]
_MIRROR = np.array((-1, 1, 1), np.float32)
_RGB = np.arange(3)


class Example(NamedTuple):
    """One crop and what is true of it, all float32. Joints in the mesh's order; metres, axes of the turned camera.

    Attributes:
        image: (S, S, 3) RGB in [0, 255].
        keypoints: (J, 2) crop coordinates in [-1, 1]. keypoint_confidence: (J,) in 0..1.
        joints: (J, 3) relative to the dataset's root. joint_confidence: (J,) in 0..1. has_joints: 0 or 1.
        vertices: (V, 3), or None. has_vertices: 0 or 1.
        pose: (P,) radians, or None. betas: (10,), or None. has_pose: 0 or 1.
        mask: (D, D), or None. surface: (3, D, D), or None. has_dense: 0 or 1.
        person: 0 for an image without anyone.
    """

    image: FloatArray
    keypoints: FloatArray
    keypoint_confidence: FloatArray
    joints: FloatArray
    joint_confidence: FloatArray
    has_joints: np.float32
    vertices: FloatArray | None
    has_vertices: np.float32
    pose: FloatArray | None
    betas: FloatArray | None
    has_pose: np.float32
    mask: FloatArray | None
    surface: FloatArray | None
    has_dense: np.float32
    person: np.float32


def prepare(
    sample: Sample,
    joints: JointSelection,
    config: AugmentConfig,
    style: CropStyle,
    size: int,
    rng: np.random.Generator,
) -> Example:
    """Crop and turn, then mirror, then colour, as METRO does (section 7 of its code).

    Turning the picture about the crop's centre is turning the camera about the ray through it, so 3D labels turn by
    Rz(-rotation), each about its own origin. In a mirror x changes sign and left and right joints change places. A
    sample with vertices is not mirrored: that would take to know which vertex is whose mirror image. Nor is one with
    another pose than SMPL's: a hand would become the other hand.

    Args:
        sample: as its dataset tells of it.
        joints: from the dataset's joints to the mesh's.
        config: what may change, and how much.
        style: pixel maths, see `training.datasets.crops`.
        size: S, the crop's side in pixels.
        rng: the same state gives the same example.

    Raises:
        SampleError: the box cannot be cropped.
        ConfigError: another style, or no size.
    """
    change = config.draw(rng)
    box = Box(sample.box.cx, sample.box.cy, sample.box.size * change.scale)
    rotation_deg, rotation = change.rotation_deg, turn(change.rotation_deg)
    try:
        image = crop_pixels(sample.image, box, rotation_deg, size, style)
    except SampleError as error:
        raise SampleError(f"{sample.key}: {error.what}", expected=error.expected, got=error.got) from None
    keypoints = joints.select(crop_keypoints(sample.keypoints_px, box, rotation_deg, size, style))
    keypoint_confidence = joints.select(sample.keypoint_confidence)
    points, joint_confidence = _turned(joints.select(sample.joints), rotation), joints.select(sample.joint_confidence)
    vertices = None if sample.vertices is None else _turned(sample.vertices, rotation)
    pose = None if sample.pose is None else turn_pose(sample.pose, rotation)
    dense = sample.dense
    if dense is not None:
        height, width = sample.image.shape[:2]
        dense = crop_dense(dense, width, height, box, rotation_deg, style)

    if change.flip and vertices is None and (pose is None or pose.size == 3 * len(SMPL_24)):
        image = image[:, ::-1]
        keypoints, keypoint_confidence = (keypoints * _MIRROR[:2])[joints.flip], keypoint_confidence[joints.flip]
        points, joint_confidence = (points * _MIRROR)[joints.flip], joint_confidence[joints.flip]
        pose = None if pose is None else mirror_smpl_pose(pose)
        dense = None if dense is None else _mirror_dense(dense)
    if config.hide_outside:
        keypoint_confidence = keypoint_confidence * (np.abs(keypoints) < 1.0).all(axis=1)
    return Example(
        image=_coloured(image, change),
        keypoints=keypoints,
        keypoint_confidence=keypoint_confidence,
        joints=points,
        joint_confidence=joint_confidence,
        has_joints=np.float32(joint_confidence.any()),
        vertices=vertices,
        has_vertices=np.float32(vertices is not None),
        pose=pose,
        betas=sample.betas,
        has_pose=np.float32(pose is not None),
        mask=None if dense is None else dense.mask,
        surface=None if dense is None else dense.surface,
        has_dense=np.float32(dense is not None),
        person=np.float32(sample.person),
    )


def _coloured(image: FloatArray, change: Change) -> FloatArray:
    if (change.channels != _RGB).any():
        image = image[..., change.channels]
    image = image * change.gain
    return np.clip(image, 0.0, 255.0, out=image)


def mirror_sample(sample: Sample) -> Sample:
    """The sample in a mirror, every joint keeping its name: a left hand as the right hand that it looks like.

    Not for bodies, whose left and right joints would have to change places.
    """
    last_column = sample.image.shape[1] - 1
    keypoints_px = sample.keypoints_px.copy()
    keypoints_px[:, 0] = last_column - keypoints_px[:, 0]
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        box=Box(last_column - sample.box.cx, sample.box.cy, sample.box.size),
        keypoints_px=keypoints_px,
        joints=sample.joints * _MIRROR,
        vertices=None if sample.vertices is None else sample.vertices * _MIRROR,
        pose=None if sample.pose is None else mirror_rotations(sample.pose),
        dense=None if sample.dense is None else _mirror_dense(sample.dense),
    )


def _turned(points: FloatArray, rotation: NDArray[np.float64]) -> FloatArray:
    """(N, 3) points, each times (3, 3)."""
    return points @ rotation.T.astype(np.float32)


def _mirror_dense(dense: Dense) -> Dense:
    """The template is its own mirror image at x = 0, so what is seen there has the opposite x."""
    surface = dense.surface[:, :, ::-1] * _MIRROR[:, None, None]
    return Dense(np.ascontiguousarray(dense.mask[:, ::-1]), surface)
