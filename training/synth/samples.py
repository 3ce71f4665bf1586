"""One training image: a dressed body in a room, photographed, with everything that is true of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import Box, box_from_points, whole_image_box
from metro_ros.core.errors import ConfigError
from training.body import BodyBank
from training.datasets.sample import Dense, Sample
from training.mesh_spec import MeshSpec
from training.motion import Motion
from training.synth.appearance import sample_appearance
from training.synth.backdrop import make_room, occluder_mask
from training.synth.light import sample_light
from training.synth.photograph import sample_look, take
from training.synth.poses import PoseConfig, PoseSampler
from training.synth.render import NEAR_M, rasterise
from training.synth.stage import Posed, Stage
from training.synth.views import View, ViewConfig, sample_view, yaw_rotation

_SUPERSAMPLE = 2
_DENSE_STRIDE = 4
"""Crop pixels a cell of the dense truth, as the backbones predict it."""


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """How training crops are drawn.

    Attributes:
        size: crop side in pixels.
        padding: box side over the body's larger extent, as at run time.
        whole_image, rough: shares of crops that imitate the first and the second pass of the estimator.
        no_person: share of empty rooms.
        occluded: share of images with something in front.
        company: share of images with somebody else beside, behind or before the person.
        rooms: how many backdrops are kept at hand and reused.
        view, pose: see there.
    """

    size: int = 192
    padding: float = 1.2
    whole_image: float = 0.06
    rough: float = 0.12
    no_person: float = 0.03
    occluded: float = 0.2
    company: float = 0.2
    rooms: int = 300
    view: ViewConfig = field(default_factory=lambda: ViewConfig(portraits=0.12))
    pose: PoseConfig = field(default_factory=PoseConfig)

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ConfigError("side of a crop", expected="a multiple of 32 pixels", got=self.size)

    @property
    def dense_size(self) -> int:
        """Cells a side of the mask and the surface."""
        return self.size // _DENSE_STRIDE


def followed(occluded: float) -> SampleConfig:
    """Crops as of people who are followed through a recording, others about them: poses as recorded, boxes by a look
    at the image before."""
    as_recorded = PoseConfig(recombine=0, blend=0, sample_arm=0, carry=0, low=0, lie=0, disturb=0)
    return SampleConfig(
        whole_image=0, rough=0.02, no_person=0, occluded=occluded, company=0.5, view=ViewConfig(), pose=as_recorded
    )


class SampleMaker:
    """Draws samples without end; the same generator state gives the same sample.

    Their image is the crop itself, its box the whole of it, and their axes are those of the ray through its centre.
    Keypoints are confident where they lie inside the crop and the image it was taken from; vertices are those of the
    mesh's middle level (a coarser one selects rows of it), relative to the root joints as the 3D joints are.
    """

    def __init__(
        self, bank: BodyBank, mesh: MeshSpec, motions: list[Motion], seed: int | Sequence[int], config: SampleConfig
    ) -> None:
        assert mesh.template is not None
        self.bank, self.mesh, self.config = bank, mesh, config
        self.joint_names = mesh.joint_names
        self.stage = Stage(bank, mesh)
        self.poses = PoseSampler(bank, motions, config.pose)
        rng = np.random.default_rng(seed)
        self.rooms = [make_room(rng, config.view.width, config.view.height) for _ in range(config.rooms)]
        middle = mesh.template[mesh.rows[1]]  # cells show no more than this level has
        self._surface_low = mesh.template.min(axis=0)
        self._surface_span = np.ptp(mesh.template, axis=0)
        self._surface_colours = ((middle - self._surface_low) / self._surface_span).astype(np.float32)

    def sample(self, rng: np.random.Generator) -> Sample:
        """One labelled crop."""
        if rng.random() < self.config.no_person:
            return self._empty(rng)
        identity = int(rng.integers(len(self.bank)))
        rotations = self.poses.sample(rng)
        while True:
            posed, view = self._place(rng, identity, rotations)
            if posed.vertices[:, 2].min() > 4 * NEAR_M:
                return self._photograph(rng, identity, posed, view)

    def _place(self, rng: np.random.Generator, identity: int, rotations: NDArray[np.float32]) -> tuple[Posed, View]:
        """The body, turned at random, before a random camera."""
        stature = float(np.ptp(self.bank.rest_vertices[identity][:, 1]))
        view = sample_view(rng, self.config.view, stature, hip_height=stature * rng.uniform(0.4, 0.56))
        turn = view.camera_from_world @ yaw_rotation(rng.uniform(-math.pi, math.pi))
        return self.stage.pose(identity, (turn @ rotations).astype(np.float32), view.root), view

    def _backdrop(self, rng: np.random.Generator, box: Box, size: int) -> NDArray[np.float32]:
        return room_behind(rng, self.rooms, box, size)

    def _surface(self, rng: np.random.Generator, side: int) -> NDArray[np.float32]:
        """(side, side, 3) of a thing in front: a piece of some room, or a plain colour."""
        if rng.random() < 0.4:
            shade = rng.uniform(0, 1, 3) * np.linspace(1, rng.uniform(0.6, 1.2), side)[:, None, None]
            return np.broadcast_to(shade, (side, side, 3)).astype(np.float32)
        room = self.rooms[rng.integers(len(self.rooms))]
        x, y = rng.integers(room.shape[1] - 64), rng.integers(room.shape[0] - 64)
        return np.asarray(cv2.resize(room[y : y + 64, x : x + 64], (side, side)), np.float32) / 255.0

    def _companion(self, rng: np.random.Generator, posed: Posed, view: View) -> tuple[int, Posed] | None:
        """Somebody else, no nearer than elbows touch; None where there is no room for them before the camera."""
        identity = int(rng.integers(len(self.bank)))
        turn = view.camera_from_world @ yaw_rotation(rng.uniform(-math.pi, math.pi))
        rotations = (turn @ self.poses.sample(rng)).astype(np.float32)
        aside = view.camera_from_world @ np.array([rng.uniform(0.3, 1.2) * rng.choice([-1, 1]), 0.0, rng.normal(0, 1)])
        other = self.stage.pose(identity, rotations, view.root + aside)
        apart = np.linalg.norm(other.joints[:, None] - posed.joints[None], axis=2).min()
        return (identity, other) if apart > 0.15 and other.vertices[:, 2].min() > 4 * NEAR_M else None

    def _photograph(self, rng: np.random.Generator, identity: int, posed: Posed, view: View) -> Sample:
        config, mesh = self.config, self.mesh
        width, height, matrix = view.camera.width, view.camera.height, view.camera.matrix
        middle = posed.vertices[mesh.rows[1]]
        pixels = view.camera.project(middle)  # the outline that the estimator, too, draws its box around
        box = choose_box(rng, pixels, width, height, config)
        side = config.size * _SUPERSAMPLE
        scene, inside = self._backdrop(rng, box, side), image_mask(box, side, width, height)
        light, down, seen_by = sample_light(rng), view.camera_from_world[:, 1], crop_matrix(matrix, box, side)
        cast = [(identity, posed)]
        if rng.random() < config.company and (other := self._companion(rng, posed, view)) is not None:
            cast.append(other)
        covered = np.zeros((side, side), bool)
        for who, body in sorted(cast, key=lambda pair: -float(pair[1].joints[:, 2].mean())):  # the farthest first
            clothes = sample_appearance(rng, self.stage.regions, self.bank, who)
            painted = self.stage.paint(scene, body, clothes, seen_by, down, light, inside)
            covered = painted if body is posed else covered & ~painted
        if rng.random() < config.occluded:
            target = box_from_points((pixels - [box.cx, box.cy]) * (side / box.size) + (side - 1) / 2.0, 1.0)
            hidden = (occluder_mask(rng, side, side, (target.cx, target.cy, target.size)) > 0) & inside
            scene[hidden] = self._surface(rng, side)[hidden] * rng.uniform(0.4, 1.2)
            covered &= ~hidden
        small = np.asarray(cv2.resize(scene, (config.size, config.size), interpolation=cv2.INTER_AREA), np.float32)
        cells = config.dense_size
        share = cv2.resize(covered.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)

        camera_from_ray = view.camera.ray_rotation((box.cx, box.cy)).astype(np.float32)
        root = posed.joints[list(mesh.root_joints)].mean(axis=0)
        joints_px = view.camera.project(posed.joints)
        keypoints = box.to_crop(joints_px)
        visible = (np.abs(keypoints) < 1.0).all(axis=1)
        visible &= ((joints_px > -0.5) & (joints_px < [width - 0.5, height - 0.5])).all(axis=1)
        surface, _ = rasterise(
            middle,
            mesh.faces[1],
            self._surface_colours,
            crop_matrix(matrix, box, cells),
            cells,
            cells,
        )

        def relative(points: NDArray[np.float32]) -> NDArray[np.float32]:
            return ((points - root) @ camera_from_ray).astype(np.float32)  # rows times R: the ray's axes

        whole = whole_image_box(config.size, config.size)
        return Sample(
            key="person",
            image=_within(take(rng, small, sample_look(rng)), image_mask(box, config.size, width, height)),
            box=whole,
            keypoints_px=whole.to_pixels(keypoints).astype(np.float32),
            keypoint_confidence=visible.astype(np.float32),
            joints=relative(posed.joints),
            joint_confidence=np.ones(mesh.joint_count, np.float32),
            vertices=relative(middle),
            dense=Dense(
                mask=np.asarray(share, np.float32),
                surface=(surface * self._surface_span + self._surface_low).transpose(2, 0, 1).astype(np.float32),
            ),
        )

    def _empty(self, rng: np.random.Generator) -> Sample:
        config = self.config
        width, height = config.view.width, config.view.height
        box = Box(rng.uniform(0, width), rng.uniform(0, height), rng.uniform(100, 640))
        image = take(rng, self._backdrop(rng, box, config.size), sample_look(rng))
        image = _within(image, image_mask(box, config.size, width, height))
        joints, cells = self.mesh.joint_count, config.dense_size

        def zeros(*shape: int) -> NDArray[np.float32]:
            return np.zeros(shape, np.float32)

        return Sample(
            key="empty room",
            image=image,
            box=whole_image_box(config.size, config.size),
            keypoints_px=zeros(joints, 2),
            keypoint_confidence=zeros(joints),
            joints=zeros(joints, 3),
            joint_confidence=zeros(joints),
            dense=Dense(zeros(cells, cells), zeros(3, cells, cells)),
            person=False,
        )


def _within(image: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Black outside of the camera's image, as the crop at run time, whatever the camera did to black."""
    return np.where(inside[..., None], image, 0).astype(np.uint8)


class Cropping(Protocol):
    """How crops are drawn: see SampleConfig."""

    @property
    def padding(self) -> float: ...
    @property
    def whole_image(self) -> float: ...
    @property
    def rough(self) -> float: ...


def choose_box(
    rng: np.random.Generator, pixels: NDArray[np.floating], width: int, height: int, config: Cropping
) -> Box:
    """The box of a crop around an outline (N, 2) px in an image of width x height px, as the estimator might draw it:
    the whole image, a rough first guess, or a good one."""
    kind = rng.random()
    if kind < config.whole_image:
        return whole_image_box(width, height)
    box = box_from_points(pixels, config.padding)
    if kind < config.whole_image + config.rough:
        scale, shift = math.exp(rng.uniform(math.log(0.75), math.log(2.2))), rng.uniform(-0.25, 0.25, 2)
    else:
        scale, shift = math.exp(rng.normal(0.0, 0.1)), rng.normal(0.0, 0.04, 2)
    size = box.size * scale
    return Box(box.cx + size * shift[0], box.cy + size * shift[1], size)


def room_behind(
    rng: np.random.Generator, rooms: Sequence[NDArray[np.uint8]], box: Box, size: int
) -> NDArray[np.float32]:
    """One of the rooms, or its mirror image, seen through the box: (size, size, 3) float32 in [0, 1], black outside."""
    room = rooms[int(rng.integers(len(rooms)))]
    scale = size / box.size
    shift = [(size - 1) / 2.0 - scale * centre for centre in (box.cx, box.cy)]
    affine = np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])
    if rng.random() < 0.5:  # column x of the mirror image is column W - 1 - x of the room
        affine[0] = -scale, 0.0, scale * (room.shape[1] - 1) + shift[0]
    seen = cv2.warpAffine(room, affine, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(seen, np.float32) / 255.0


def crop_matrix(matrix: NDArray[np.float64], box: Box, size: int) -> NDArray[np.float64]:
    """Intrinsics (3, 3) of the crop: the same camera, seen through `box` at `size` pixels a side."""
    scale = size / box.size
    cropped = matrix.copy()
    cropped[:2] *= scale
    cropped[0, 2] = (matrix[0, 2] - box.cx) * scale + (size - 1) / 2.0
    cropped[1, 2] = (matrix[1, 2] - box.cy) * scale + (size - 1) / 2.0
    return cropped


def image_mask(box: Box, size: int, width: int, height: int) -> NDArray[np.bool_]:
    """(size, size) bool: which crop pixels lie inside the image."""
    steps = (np.arange(size) + 0.5) * (box.size / size) - box.size / 2.0
    columns, rows = steps + box.cx, steps + box.cy
    return ((rows > -0.5) & (rows < height - 0.5))[:, None] & ((columns > -0.5) & (columns < width - 0.5))[None]
