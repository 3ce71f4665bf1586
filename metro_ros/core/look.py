"""Looks: the network's answer for a crop, decoded, placed in metres and laid back into the image."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.batching import Steps, View
from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera, solve_translation, weak_perspective_px
from metro_ros.core.colours import bone_colours
from metro_ros.core.crop import Box, bounds_of_points, box_around
from metro_ros.core.engines import Output
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.mirror import mirror_output
from metro_ros.core.tracking_metrics import box_iou

MIN_EXTENT = 0.02
"""Smallest part of the crop's side that the template fills under a weak-perspective scale that is believed."""
PLACEMENT_POINTS = 64
"""Placement takes the coarsest level with at least as many vertices: 0.3 ms, and no better with more."""
FOLLOWED = 0.8
"""Confidence that keeps someone who is followed, in that which a new one needs."""
LIKELY = 0.7
"""Above it a detector's proof makes up for confidence, for all of it at 1; below, more confidence is asked for."""
MOST_DOUBT = 1.4
"""As much more at most."""
LEAST_OVERLAP = 0.3
"""With a detection, so that of looks none of which meets it the surest counts."""
OUTLINE_POINTS = 1000
"""The outline, which gives the next box, takes the coarsest level with at least as many vertices."""


class Body(NamedTuple):
    """A decoded answer of the network: root-relative, metres, float32, axes of the camera."""

    joints: npt.NDArray[np.float32]
    """(J, 3)"""
    vertices: npt.NDArray[np.float32]
    """(V, 3)"""
    anchors: npt.NDArray[np.float32]
    """(M, 3), the vertices that placement takes"""
    anchors_px: npt.NDArray[np.floating]
    """(M, 2), where the network sees them in the image"""
    confidence: npt.NDArray[np.float32] | None
    """(J,)"""
    score: float
    """Mean joint visibility, else mean confidence, 1 without; 0 when the weak-perspective scale is impossible"""
    sure: float
    """Mean joint confidence where the network tells it apart from visibility, else 1"""


class Look(NamedTuple):
    """What one look at one crop gave: a person without an id."""

    body: Body
    translation: npt.NDArray[np.float64]
    """(3,), metres, where the root stands in the camera's frame"""
    bounds: npt.NDArray[np.float64]
    """(4,), left, top, right and bottom of the projected mesh, px"""
    joints_px: npt.NDArray[np.floating]
    """(J, 2), NaN behind the camera"""
    box: Box
    """The padded square around `bounds`, from which the next crop is taken"""
    crop: Box
    """What was looked at"""
    change: float
    """How far `box` is from `crop`, see `change`"""
    colours: npt.NDArray[np.float32]
    """(B, 3), see colours.bone_colours"""


class Sight:
    """Looks at crops with one bundle: crop, infer, decode, place."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._anchor_rows = _level_rows(bundle, PLACEMENT_POINTS)
        self._outline_rows = _level_rows(bundle, OUTLINE_POINTS)

    def padding(self, config: EstimatorConfig) -> float:
        """Side of a box over the extent of the person."""
        return config.padding or self.bundle.manifest.crop.padding

    def look(
        self, image: npt.NDArray[np.uint8], camera: Camera, boxes: Sequence[Box], config: EstimatorConfig
    ) -> Steps[list[Look]]:
        """One pass of the paper for each box of an image, uint8 (H, W, 3) BGR; one pause for all of them."""
        if not boxes:
            return []
        output = yield [View(image, box, self.bundle.mirrored) for box in boxes]
        if self.bundle.mirrored:
            output = mirror_output(output)
        looks = []
        for index, box in enumerate(boxes):
            body = decode(output, index, box, camera, self.bundle, self._anchor_rows)
            looks.append(self._place(image, body, box, camera, self.padding(config)))
        return looks

    def least_confidence(self, config: EstimatorConfig) -> float:
        """Of all joints in the mean, 0..1, under which what is seen is nobody; 0 for a model that does not know."""
        if not self.knows:
            return 0.0
        return self.bundle.manifest.least_confidence if config.min_confidence is None else config.min_confidence

    def is_nobody(
        self,
        look: Look,
        image: npt.NDArray[np.uint8],
        config: EstimatorConfig,
        followed: bool = False,
        proof: float = LIKELY,
    ) -> bool:
        """Whether what was seen in the image (H, W, 3) is no person, or none that can be believed.

        followed: whether it was believed before; then a little less confidence will do. proof: how likely a detector
        says it is, 0..1, that somebody is there; if it is sure, an unsure mesh is better than none, and if it is not,
        it takes a surer one.
        """
        doubt = min((1 - proof) / (1 - LIKELY), 1.0 if followed else MOST_DOUBT)
        least = self.least_confidence(config) * doubt
        return (
            look.body.score < config.min_score
            or look.body.score <= 0
            or look.body.sure < (FOLLOWED * least if followed else least)
            or not is_visible(look.box, image, config)
            or possible_box(look.box, image, config) is not look.box
        )

    @property
    def knows(self) -> bool:
        """Whether the model says how sure it is of its joints."""
        return self.bundle.manifest.confidence_mm is not None

    def surest(
        self,
        looks: Sequence[Look],
        image: npt.NDArray[np.uint8],
        config: EstimatorConfig,
        proof: float = LIKELY,
        detected: npt.NDArray[np.float32] | None = None,
    ) -> Look:
        """Of looks at one person, one after the other: the one whose joints are likeliest right.

        That is less likely the farther the mesh is from where was looked, and the less it overlaps the box that was
        detected, (4,) left, top, right, bottom, px. Of a model that does not know, the last. proof: see `is_nobody`.
        """
        if not self.knows or len(looks) == 1:
            return looks[-1]
        people = [look for look in looks if not self.is_nobody(look, image, config, proof=proof)]
        looks = people or looks
        likely = np.array([look.body.sure * math.exp(-look.change) for look in looks])
        if detected is not None:
            edges = np.array((image.shape[1], image.shape[0]) * 2) - 0.5
            seen = np.array([look.bounds for look in looks]).clip(-0.5, edges)
            likely *= LEAST_OVERLAP + box_iou(seen, detected[None].clip(-0.5, edges))[:, 0]
        return looks[int(np.argmax(likely))]

    def _place(self, image: npt.NDArray[np.uint8], body: Body, crop: Box, camera: Camera, padding: float) -> Look:
        translation = solve_translation(body.anchors, body.anchors_px, camera)
        bounds = bounds_of_points(camera.project(body.vertices[self._outline_rows] + translation))
        box = box_around(bounds, padding)
        joints_px = camera.project(body.joints + translation)
        colours = bone_colours(image, joints_px, self.bundle.skeleton.parents)
        return Look(body, translation, bounds, joints_px, box, crop, change(crop, box), colours)


def decode(
    output: Output, index: int, box: Box, camera: Camera, bundle: Bundle, anchor_rows: npt.NDArray[np.int32]
) -> Body:
    """Turn answer `index` of the network into the camera's axes, and find its anchors in the image.

    box: of the crop that was asked about; anchor_rows: (M,) rows of the vertices that placement takes.
    """
    joints, vertices, weak_camera = output.joints[index], output.vertices[index], output.camera[index]
    confidence = None if output.confidence is None else output.confidence[index].clip(0, 1)
    seen = confidence if output.visibility is None else output.visibility[index].clip(0, 1)
    score = 1.0 if seen is None else float(seen.mean())
    sure = 1.0 if confidence is None or output.visibility is None else float(confidence.mean())
    min_scale = 2 * MIN_EXTENT / bundle.extent_m
    if weak_camera[0] < min_scale:  # nothing in the network keeps the scale positive
        weak_camera, score = np.array((min_scale, *weak_camera[1:])), 0.0
    anchors = vertices[anchor_rows]
    anchors_px = weak_perspective_px(anchors, weak_camera, box)
    if bundle.manifest.camera_frame == "crop_ray":
        camera_from_ray = camera.ray_rotation((box.cx, box.cy)).astype(np.float32)
        joints, vertices, anchors = (points @ camera_from_ray.T for points in (joints, vertices, anchors))
    return Body(joints, vertices, anchors, anchors_px, confidence, score, sure)


def possible_box(box: Box, image: npt.NDArray[np.uint8], config: EstimatorConfig) -> Box:
    """The box itself if its size is possible in the image (H, W, 3), else one with the nearest possible size."""
    largest = config.max_box_ratio * max(image.shape[:2])
    size = min(max(box.size, config.min_box_px), largest)
    return box if size == box.size else Box(box.cx, box.cy, size)


def is_visible(box: Box, image: npt.NDArray[np.uint8], config: EstimatorConfig) -> bool:
    """Whether box and image (H, W, 3) share enough area, as a part of the smaller of both."""
    height, width = image.shape[:2]
    half = box.size / 2
    shared_x = min(box.cx + half, width - 0.5) - max(box.cx - half, -0.5)
    shared_y = min(box.cy + half, height - 0.5) - max(box.cy - half, -0.5)
    shared = max(shared_x, 0) * max(shared_y, 0) / min(box.size**2, width * height)
    return shared >= config.min_visible


def change(before: Box, after: Box) -> float:
    """How far the box moved or grew, as a fraction of its side."""
    moved = math.hypot(after.cx - before.cx, after.cy - before.cy) / before.size
    return max(moved, abs(math.log(after.size / before.size)))


def _level_rows(bundle: Bundle, at_least: int) -> npt.NDArray[np.int32]:
    """Rows of the coarsest level with at least so many vertices, or of the finest."""
    return next((rows for rows in bundle.rows if len(rows) >= at_least), bundle.rows[-1])
