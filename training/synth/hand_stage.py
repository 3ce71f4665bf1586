"""A hand on a lit stage: posed before a camera, with its forearm and perhaps a thing in it, and painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from training.anny_hand import Hand
from training.mesh_spec import MeshSpec
from training.synth.forearm import forearm_axis, make_forearm, wrist_ring
from training.synth.hand_looks import HandLook
from training.synth.hand_poses import HandPose, HandPoseSampler
from training.synth.held import Thing
from training.synth.light import Light, shade
from training.synth.render import NEAR_M, rasterise
from training.synth.stage import Posed, Stage, vertex_normals

NEAREST_M = 2 * NEAR_M
"""Nothing of a scene comes nearer to the camera; forearms that would are shorter."""
_SHORTEST_M = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class Grip:
    """One hand and how it is held. turn (3, 3): camera from rest; wrist: what turns the forearm from straight.

    forearm_m: its length on an adult.
    """

    identity: int
    pose: HandPose
    turn: NDArray[np.float64]
    wrist: Rotation
    forearm_m: float


class Scene(NamedTuple):
    """All there is before the camera. vertices, normals, colours (V, 3) float32; the first of them are the hand's."""

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]
    colours: NDArray[np.float32]


class HandStage:
    """Poses the hands of a bank and paints them."""

    def __init__(self, hand: Hand, mesh: MeshSpec, poses: HandPoseSampler) -> None:
        self.hand, self.mesh, self.poses = hand, mesh, poses
        self._bodies = Stage(hand.as_bank(), mesh)
        self._ring = wrist_ring(hand.faces)
        self._axis = forearm_axis(hand.template[self._ring])
        extents = np.ptp(hand.rest_vertices, axis=1).max(axis=1)
        self.sizes = extents / np.ptp(hand.template, axis=0).max()
        """(N,) each identity's size over the average adult's."""
        self.length_m = float(np.linalg.norm(mesh.template_tokens[: mesh.joint_count], axis=1).max())
        """From the wrist to the farthest tip of the average adult, metres."""

    def pose(self, grip: Grip, wrist: NDArray[np.float64]) -> Posed:
        """The hand in the camera frame, its wrist at (3,) metres; normals are those of the posed surface."""
        rotations = grip.turn.astype(np.float32) @ self.poses.rotations(grip.pose)
        posed = self._bodies.pose(grip.identity, rotations, wrist)
        normals = vertex_normals(posed.vertices, self.hand.faces)
        return Posed(posed.vertices, normals, posed.joints, posed.transforms)

    def dress(
        self, posed: Posed, grip: Grip, look: HandLook, thing: Thing | None, thing_colours: NDArray[np.float64]
    ) -> Scene:
        """Hand, forearm and thing as one mesh, so that each hides what is behind it.

        thing_colours: (P, 3), of the thing's patches.
        """
        size = float(self.sizes[grip.identity])
        skin = posed.vertices + posed.normals * look.thickness[:, None]
        bend = Rotation.from_matrix(grip.turn) * grip.wrist * Rotation.from_matrix(grip.turn).inv()
        axis = grip.turn @ self._axis
        arm = make_forearm(
            skin[self._ring], axis, bend, self._reach(posed, bend.apply(axis), size * grip.forearm_m),
            look.cuff_m * size, look.cloth_m, size,
        )  # fmt: skip
        # Forearm and hand meet without a seam: one normal, one colour.
        arm_colours = look.forearm_colours(arm.along, size)
        arm.normals[: len(self._ring)] = posed.normals[self._ring]
        arm_colours[: len(self._ring)] = look.colours[self._ring]
        parts: list[tuple[NDArray, NDArray, NDArray, NDArray]] = [
            (skin, posed.normals, self.hand.faces, look.colours),
            (arm.vertices, arm.normals, arm.faces, arm_colours),
        ]
        if thing is not None:
            parts.append(
                (thing.vertices, thing.normals, thing.faces, thing_colours[thing.patches % len(thing_colours)])
            )
        starts = np.cumsum([0, *(len(part[0]) for part in parts)])
        return Scene(
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
            np.concatenate([part[2] + start for part, start in zip(parts, starts, strict=False)]).astype(np.int32),
            np.concatenate([part[3] for part in parts]).astype(np.float32),
        )

    def _reach(self, posed: Posed, axis: NDArray[np.float64], length_m: float) -> float:
        """How long the forearm may be without coming too near to the camera."""
        if axis[2] < 0:
            room = float(posed.vertices[self._ring, 2].min()) - NEAREST_M
            length_m = min(length_m, 0.8 * room / -axis[2])
        return max(length_m, _SHORTEST_M)

    def is_in_front(self, scene: Scene) -> bool:
        """Whether all of it is far enough from the camera to be drawn."""
        return bool(scene.vertices[:, 2].min() > NEAREST_M)

    def paint(
        self,
        picture: NDArray[np.float32],
        scene: Scene,
        matrix: NDArray[np.float64],
        light: Light,
        inside: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """Paint a scene into a picture, in place.

        Args:
            picture: (H, W, 3) float32 in [0, 1].
            matrix: (3, 3) intrinsics of the picture.
            light: of the scene.
            inside: (H, W), where the image has pixels at all, or None for everywhere.

        Returns:
            (H, W) bool, where the hand itself is seen.
        """
        height, width = picture.shape[:2]
        colours = shade(light, scene.colours, scene.normals)
        painted, covered = rasterise(scene.vertices, scene.faces, colours, matrix, width, height)
        labels, _ = rasterise(scene.vertices, scene.faces, self._label(scene), matrix, width, height)
        hand = covered & (labels[..., 0] > 0.5)
        if inside is not None:
            covered &= inside
            hand &= inside
        picture[covered] = painted[covered]
        return hand

    def _label(self, scene: Scene) -> NDArray[np.float32]:
        label = np.zeros((len(scene.vertices), 3), np.float32)
        label[: len(self.hand.template)] = 1.0
        return label
