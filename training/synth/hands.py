"""One training image of a right hand: posed, dressed, perhaps holding something, photographed, with all its truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box, box_from_points, whole_image_box
from training.anny_hand import Hand
from training.datasets.sample import Dense, Sample
from training.mesh_spec import MeshSpec
from training.synth.backdrop import make_room, occluder_mask
from training.synth.hand_looks import cloth_colour, find_hand_regions, sample_hand_look, skin_tones
from training.synth.hand_poses import HandPoseConfig, HandPoseSampler
from training.synth.hand_stage import Grip, HandStage, Scene
from training.synth.held import hold_something
from training.synth.light import sample_light
from training.synth.photograph import sample_look, take
from training.synth.render import rasterise
from training.synth.samples import choose_box, crop_matrix, image_mask, room_behind
from training.synth.stage import Posed

_SUPERSAMPLE = 2
_DENSE_SIZE = 32


@dataclass(frozen=True, slots=True)
class HandSampleConfig:
    """How crops of hands are drawn.

    Attributes:
        size: crop side in pixels.
        width, height: of the image that it is taken from, px.
        padding: box side over the hand's larger extent, as at run time.
        whole_image, rough: shares of crops that imitate the first and the second pass of the estimator.
        no_person: share of pictures without a hand.
        occluded: share of images with something in front.
        holding: share of hands that hold something.
        company: share of images with skin or cloth behind the hand: faces, arms and clothes are what hands are before.
        rooms: how many backdrops are kept at hand and reused.
        fov_deg: field of view over the width, degrees.
        hand_share: an adult hand's length over the image's height, drawn log-uniformly.
        place: where the hand's middle is, as shares of width and height.
        wrist_deg: how far the wrist bends (flexion, deviation, and the forearm's own slack), one standard deviation.
        forearm_m: length of the arm that is drawn, on an adult; mostly it leaves the image, as arms do.
        pose: see there.
    """

    size: int = 128
    width: int = 640
    height: int = 480
    padding: float = 1.2
    whole_image: float = 0.08
    rough: float = 0.12
    no_person: float = 0.03
    occluded: float = 0.15
    holding: float = 0.2
    company: float = 0.35
    rooms: int = 200
    fov_deg: tuple[float, float] = (35.0, 85.0)
    hand_share: tuple[float, float] = (0.18, 0.95)
    place: tuple[float, float] = (0.15, 0.85)
    wrist_deg: tuple[float, float, float] = (28.0, 10.0, 5.0)
    forearm_m: tuple[float, float] = (0.2, 0.45)
    pose: HandPoseConfig = field(default_factory=HandPoseConfig)


def draw_wrist(rng: np.random.Generator, hand: Hand, config: HandSampleConfig) -> Rotation:
    """How the forearm is turned against the hand, in the axes of the hand at rest."""
    heads = hand.template_heads.astype(np.float64)
    wrist, index, pinky = (heads[hand.bone(joint)] for joint in ("Wrist", "Index_1", "Pinky_1"))
    across = (pinky - index) / np.linalg.norm(pinky - index)
    out_of_palm = np.cross(index - wrist, pinky - wrist)
    out_of_palm /= np.linalg.norm(out_of_palm)
    spread = np.radians(config.wrist_deg)
    flexion, deviation, slack = np.clip(rng.normal(0.0, spread), -2.2 * spread, 2.2 * spread)
    return Rotation.from_rotvec(flexion * across + deviation * out_of_palm + slack * np.cross(across, out_of_palm))


def draw_camera(rng: np.random.Generator, config: HandSampleConfig, length_m: float) -> tuple[Camera, NDArray]:
    """A pinhole camera without distortion, and a place (3,) before it for a hand of that length, metres."""
    focal = config.width / 2.0 / math.tan(math.radians(rng.uniform(*config.fov_deg)) / 2.0)
    depth = focal * length_m / (math.exp(rng.uniform(*np.log(config.hand_share))) * config.height)
    cx, cy = (config.width - 1) / 2.0, (config.height - 1) / 2.0
    column, row = (rng.uniform(*config.place) * side for side in (config.width, config.height))
    matrix = np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
    ray = np.array(((column - cx) / focal, (row - cy) / focal, 1.0))
    return Camera(config.width, config.height, matrix), depth * ray


class HandSampleMaker:
    """Draws samples without end; the same generator state gives the same sample.

    Their image is the crop itself, its box the whole of it, and their axes are those of the ray through its centre.
    Keypoints are confident where they lie inside the crop and the image it was taken from; vertices are those of the
    finest level, relative to the wrist as the 3D joints are.
    """

    def __init__(self, hand: Hand, mesh: MeshSpec, seed: int | Sequence[int], config: HandSampleConfig) -> None:
        assert mesh.template is not None
        self.hand, self.mesh, self.config = hand, mesh, config
        self.joint_names = mesh.joint_names
        self.poses = HandPoseSampler(hand, mesh, seed, config.pose)
        self.stage = HandStage(hand, mesh, self.poses)
        self.regions = find_hand_regions(hand)
        rng = np.random.default_rng(seed)
        self.rooms = [make_room(rng, config.width, config.height) for _ in range(config.rooms)]
        self._surface_low = mesh.template.min(axis=0)
        self._surface_span = np.ptp(mesh.template, axis=0)
        self._surface_colours = ((mesh.template - self._surface_low) / self._surface_span).astype(np.float32)

    def sample(self, rng: np.random.Generator) -> Sample:
        """One labelled crop."""
        if rng.random() < self.config.no_person:
            return self._empty(rng)
        while True:
            posed, scene, camera = self.place(rng)
            if self.stage.is_in_front(scene):
                return self._photograph(rng, posed, scene, camera)

    def place(self, rng: np.random.Generator) -> tuple[Posed, Scene, Camera]:
        """A dressed hand, turned at random, before a random camera."""
        config = self.config
        identity = int(rng.integers(len(self.hand)))
        size = float(self.stage.sizes[identity])
        grip = Grip(
            identity=identity,
            pose=self.poses.sample(rng),
            turn=Rotation.random(random_state=rng).as_matrix(),
            wrist=draw_wrist(rng, self.hand, config),
            forearm_m=float(rng.uniform(*config.forearm_m)),
        )
        camera, middle = draw_camera(rng, config, self.stage.length_m * size)
        posed = self.stage.pose(grip, np.zeros(3))
        posed = self.stage.pose(grip, middle - 0.5 * (posed.vertices.min(axis=0) + posed.vertices.max(axis=0)))
        thing = hold_something(rng, posed.joints, size) if rng.random() < config.holding else None
        colours = np.stack([cloth_colour(rng) for _ in range(3)])
        return posed, self.stage.dress(posed, grip, sample_hand_look(rng, self.regions), thing, colours), camera

    def _backdrop(self, rng: np.random.Generator, box: Box, size: int) -> NDArray[np.float32]:
        return room_behind(rng, self.rooms, box, size)

    def _add_company(self, rng: np.random.Generator, picture: NDArray[np.float32], inside: NDArray[np.bool_]) -> None:
        """Blurred skin and clothes behind the hand: a head, a bare arm, a shirt."""
        side = len(picture)
        for _ in range(rng.integers(1, 4)):
            colour = (skin_tones(rng)[0] if rng.random() < 0.6 else cloth_colour(rng)) * rng.uniform(0.6, 1.1)
            mask = np.zeros((side, side), np.float32)
            centre = tuple(int(value) for value in rng.uniform(0.0, side, 2))
            axes = (int(side * rng.uniform(0.08, 0.6)), int(side * rng.uniform(0.08, 0.35)))
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
            soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), side * rng.uniform(0.004, 0.04)), np.float32)
            shaded = colour * (1.0 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, side)[:, None, None])
            picture += (soft * inside)[..., None] * (np.clip(shaded, 0.0, 1.0).astype(np.float32) - picture)

    def _photograph(self, rng: np.random.Generator, posed: Posed, scene: Scene, camera: Camera) -> Sample:
        config, mesh = self.config, self.mesh
        width, height, matrix = camera.width, camera.height, camera.matrix
        pixels = camera.project(posed.vertices)  # the outline that the estimator, too, draws its box around
        box = choose_box(rng, pixels, config.width, config.height, config)
        side = config.size * _SUPERSAMPLE
        picture, inside = self._backdrop(rng, box, side), image_mask(box, side, width, height)
        if rng.random() < config.company:
            self._add_company(rng, picture, inside)
        covered = self.stage.paint(picture, scene, crop_matrix(matrix, box, side), sample_light(rng), inside)
        if rng.random() < config.occluded:
            target = box_from_points((pixels - [box.cx, box.cy]) * (side / box.size) + (side - 1) / 2.0, 1.0)
            hidden = (occluder_mask(rng, side, side, (target.cx, target.cy, target.size)) > 0) & inside
            picture[hidden] = self._backdrop(rng, box, side)[::-1, ::-1][hidden] * rng.uniform(0.4, 1.2)
            covered &= ~hidden
        small = np.asarray(cv2.resize(picture, (config.size, config.size), interpolation=cv2.INTER_AREA), np.float32)
        share = cv2.resize(covered.astype(np.float32), (_DENSE_SIZE, _DENSE_SIZE), interpolation=cv2.INTER_AREA)

        camera_from_ray = camera.ray_rotation((box.cx, box.cy)).astype(np.float32)
        root = posed.joints[list(mesh.root_joints)].mean(axis=0)
        joints_px = camera.project(posed.joints)
        keypoints = box.to_crop(joints_px)
        visible = (np.abs(keypoints) < 1.0).all(axis=1)
        visible &= ((joints_px > -0.5) & (joints_px < [width - 0.5, height - 0.5])).all(axis=1)
        whole = whole_image_box(config.size, config.size)
        return Sample(
            key="hand",
            image=take(rng, small, sample_look(rng)),
            box=whole,
            keypoints_px=whole.to_pixels(keypoints).astype(np.float32),
            keypoint_confidence=visible.astype(np.float32),
            joints=((posed.joints - root) @ camera_from_ray).astype(np.float32),  # rows times R: the ray's axes
            joint_confidence=np.ones(mesh.joint_count, np.float32),
            vertices=((posed.vertices - root) @ camera_from_ray).astype(np.float32),
            dense=Dense(
                mask=np.asarray(share, np.float32), surface=self._surface(scene, crop_matrix(matrix, box, _DENSE_SIZE))
            ),
        )

    def _surface(self, scene: Scene, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """(3, D, D) float32, which point of the template each cell shows, metres; what hides it counts as nothing."""
        colours = np.zeros_like(scene.colours)
        colours[: len(self._surface_colours)] = self._surface_colours
        shown, _ = rasterise(scene.vertices, scene.faces, colours, matrix, _DENSE_SIZE, _DENSE_SIZE)
        return (shown * self._surface_span + self._surface_low).transpose(2, 0, 1).astype(np.float32)

    def _empty(self, rng: np.random.Generator) -> Sample:
        config, joints = self.config, self.mesh.joint_count
        box = Box(rng.uniform(0, config.width), rng.uniform(0, config.height), rng.uniform(100, 640))
        picture = self._backdrop(rng, box, config.size)
        if rng.random() < config.company:
            self._add_company(rng, picture, image_mask(box, config.size, config.width, config.height))
        return Sample(
            key="no hand",
            image=take(rng, picture, sample_look(rng)),
            box=whole_image_box(config.size, config.size),
            keypoints_px=np.zeros((joints, 2), np.float32),
            keypoint_confidence=np.zeros(joints, np.float32),
            joints=np.zeros((joints, 3), np.float32),
            joint_confidence=np.zeros(joints, np.float32),
            dense=Dense(
                np.zeros((_DENSE_SIZE, _DENSE_SIZE), np.float32), np.zeros((3, _DENSE_SIZE, _DENSE_SIZE), np.float32)
            ),
            person=False,
        )
