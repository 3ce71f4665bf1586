"""Whole frames: nobody to a crowd in one room, near and far, one behind the other, and the box of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.body import BodyBank
from training.mesh_spec import MeshSpec
from training.motion import Motion
from training.synth.appearance import sample_appearance
from training.synth.backdrop import make_room, occluder_mask
from training.synth.coarse import middle_bank
from training.synth.light import sample_light
from training.synth.photograph import sample_look, take
from training.synth.poses import PoseSampler
from training.synth.render import NEAR_M, rasterise
from training.synth.stage import Posed, Stage
from training.synth.views import View, ViewConfig, sample_view, yaw_rotation

SIZES = ((320, 240), (320, 180), (352, 200), (280, 280), (224, 300), (180, 320))
"""Widths and heights of frames, as cameras have them, upright and turned."""
_PAINT = 1.5
"""Frames are painted so much larger, and averaged down."""
_OUTLINE = 48
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class FrameConfig:
    """How frames are drawn.

    Attributes:
        people: probability of 0, 1, 2... people.
        person_share: a standing person's height over the image's, drawn log-uniformly, for each person anew.
        near: share from which on a person is painted with the whole mesh.
        occluded: probability that something stands before a person.
        raised: probability that a person does not stand on the floor that the others stand on.
        rooms: how many backdrops are kept at hand and reused.
    """

    people: tuple[float, ...] = (0.08, 0.27, 0.22, 0.17, 0.11, 0.09, 0.06)
    person_share: tuple[float, float] = (0.1, 2.2)
    near: float = 0.6
    occluded: float = 0.2
    raised: float = 0.15
    rooms: int = 300


class Frame(NamedTuple):
    """One frame and who is in it, nearest last.

    image: uint8 (H, W, 3) RGB; boxes: (N, 4) float32, left, top, right, bottom, pixels (an image covers 0 to W),
    around each projected mesh, clipped to the image; visible: (N,) float32, the seen part of each whole silhouette,
    that outside of the image included.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visible: NDArray[np.float32]


class Standing(NamedTuple):
    """One person of the bank before a camera.

    middle: (M, 3) metres, the mesh's middle level, and outline: (2, M), where that is in the image, x and y in pixels;
    fine: whether it is worth the whole mesh.
    """

    identity: int
    posed: Posed
    middle: NDArray[np.float32]
    outline: NDArray[np.floating]
    fine: bool


class FrameMaker:
    """Draws frames without end; the same generator state gives the same frame."""

    def __init__(
        self, bank: BodyBank, mesh: MeshSpec, motions: list[Motion], seed: int, config: FrameConfig | None = None
    ) -> None:
        self.config = config or FrameConfig()
        self.bank, self.poses = bank, PoseSampler(bank, motions)
        self.stages = {True: Stage(bank, mesh), False: Stage(*middle_bank(bank, mesh))}
        rng = np.random.default_rng(seed)
        self.rooms = [make_room(rng) for _ in range(self.config.rooms)]

    def frame(self, rng: np.random.Generator) -> Frame:
        """One labelled frame."""
        size = SIZES[rng.integers(len(SIZES))]
        width, height = (round(side * _PAINT) for side in size)
        people, down, matrix = self._place(rng, width, height)
        scene = self._backdrop(rng, width, height)
        boxes, shares, seen = [], [], np.zeros((height, width), np.int16)  # who is seen in a pixel, from 1 on
        light = sample_light(rng)
        for number, person in enumerate(people, 1):
            stage = self.stages[person.fine]
            clothes = sample_appearance(rng, stage.regions, stage.bank, person.identity)
            covered = stage.paint(scene, person.posed, clothes, matrix, down, light)
            seen[covered] = number
            if rng.random() < self.config.occluded:
                self._occlude(rng, scene, seen, person)
            boxes.append(_clipped_box(person.outline, width, height) / _PAINT)
        for number, person in enumerate(people, 1):
            whole = _silhouette_area(person, self.stages[False].bank.faces)
            shares.append(min(1.0, np.count_nonzero(seen == number) / max(whole, 1.0)))
        small = np.asarray(cv2.resize(scene, size, interpolation=cv2.INTER_AREA), np.float32)
        return Frame(
            take(rng, small, sample_look(rng)),
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(shares, np.float32),
        )

    def _place(
        self, rng: np.random.Generator, width: int, height: int
    ) -> tuple[list[Standing], NDArray[np.float64], NDArray[np.float64]]:
        """People before one camera, farthest first, gravity (3,) in its frame and its matrix (3, 3)."""
        config = self.config
        view_config = ViewConfig(width=width, height=height, person_share=config.person_share)
        tall = float(np.ptp(self.bank.template[:, 1]))
        view = sample_view(rng, view_config, tall, 0.53 * tall)
        down, matrix = view.camera_from_world[:, 1], view.camera.matrix
        floor = float(view.root @ down) + 0.53 * tall  # metres below the camera
        people: list[Standing] = []
        for _ in range(rng.choice(len(config.people), p=config.people)):
            for _ in range(_ATTEMPTS):
                person = self._stand(rng, view, floor)
                if person is not None:
                    people.append(person)
                    break
        people.sort(key=lambda person: -float(person.middle[:, 2].mean()))
        return people, down, matrix

    def _stand(self, rng: np.random.Generator, view: View, floor: float) -> Standing | None:
        """Someone on the floor, so many metres below the camera; None where the place is out of sight."""
        config, camera = self.config, view.camera
        identity = int(rng.integers(len(self.bank)))
        stature = float(np.ptp(self.bank.rest_vertices[identity][:, 1]))
        share = math.exp(rng.uniform(*np.log(config.person_share)))
        focal, down = camera.matrix[0, 0], view.camera_from_world[:, 1]
        depth = focal * stature / (share * camera.height)
        across = (rng.uniform(-0.05, 1.05) * camera.width - camera.matrix[0, 2]) / focal
        hips = floor - stature * rng.uniform(0.35, 0.56)
        if rng.random() < config.raised:
            hips += rng.uniform(-0.7, 0.7)
        # The hips lie at depth (across, y, 1), `hips` metres along gravity.
        y = (hips / depth - across * down[0] - down[2]) / down[1]
        row = (y * focal + camera.matrix[1, 2]) / camera.height
        if not -0.6 * share < row < 1 + 0.6 * share:
            return None
        fine = share > config.near
        stage = self.stages[fine]
        rotations = self.poses.sample(rng)
        turn = view.camera_from_world @ yaw_rotation(rng.uniform(-math.pi, math.pi))
        root = np.array([across, y, 1.0]) * depth
        posed = stage.pose(identity, (turn @ rotations).astype(np.float32), root)
        if posed.vertices[:, 2].min() < 4 * NEAR_M:
            return None
        middle = posed.vertices[stage.mesh.rows[1]]
        outline = np.ascontiguousarray(camera.project(middle).T)  # along rows, ten times as fast
        left, top, right, bottom = _clipped_box(outline, camera.width, camera.height)
        if right - left < 2 * _PAINT or bottom - top < 4 * _PAINT:
            return None
        return Standing(identity, posed, middle, outline, fine)

    def _backdrop(self, rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
        """A part of a room, (height, width, 3) float32 in [0, 1]."""
        room = self.rooms[rng.integers(len(self.rooms))]
        if rng.random() < 0.5:
            room = room[:, ::-1]
        part = rng.uniform(0.5, 1.0) * min(room.shape[1] / width, room.shape[0] / height)
        columns, rows = int(part * width), int(part * height)
        x, y = rng.integers(room.shape[1] - columns + 1), rng.integers(room.shape[0] - rows + 1)
        view = np.ascontiguousarray(room[y : y + rows, x : x + columns])
        return np.asarray(cv2.resize(view, (width, height)), np.float32) / 255.0

    def _occlude(
        self, rng: np.random.Generator, scene: NDArray[np.float32], seen: NDArray[np.int16], person: Standing
    ) -> None:
        """Put something before a person and all who stand behind."""
        height, width = seen.shape
        low, high = person.outline.min(axis=1), person.outline.max(axis=1)
        centre, side = (low + high) / 2, float((high - low).max())
        hidden = occluder_mask(rng, width, height, (float(centre[0]), float(centre[1]), side)) > 0
        scene[hidden] = self._backdrop(rng, width, height)[hidden] * rng.uniform(0.4, 1.2)
        seen[hidden] = 0


def _clipped_box(outline: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
    """Left, top, right, bottom around points (2, N) px at pixel centres, as edges inside (0, 0, width, height)."""
    low, high = outline.min(axis=1) + 0.5, outline.max(axis=1) + 0.5
    return np.concatenate([low, high]).clip(0, [width, height, width, height])


def _silhouette_area(person: Standing, faces: NDArray[np.int32]) -> float:
    """Pixels of the image that the whole silhouette would cover, were the image large enough."""
    low, high = person.outline.min(axis=1), person.outline.max(axis=1)
    scale = (_OUTLINE - 1) / np.maximum(high - low, 1e-3)
    depth = person.middle[:, 2:]
    vertices = np.concatenate([(person.outline.T - low) * scale * depth, depth], axis=1).astype(np.float32)
    _, covered = rasterise(vertices, faces, np.zeros_like(vertices), np.eye(3), _OUTLINE, _OUTLINE)
    return float(np.count_nonzero(covered) / scale.prod())
