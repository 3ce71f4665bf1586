"""Poses: frames of captured motion, recombined limb by limb, blended, disturbed; arms inside joint limits; sitting,
crouching and lying."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.body import BodyBank
from training.motion import Motion, rotation_from_vector, swing_rotation, vector_from_rotation

# Local rotation vectors (radians, camera axes at rest) between which a sampled arm lies; left side, mirrored for the
# right. From the rest pose's 45° below the horizontal: raised overhead to hanging, swung back to across the chest.
_SHOULDER_LIMITS = np.array([[-1.6, 0.6], [-0.6, 1.5], [-1.7, 0.8]])
_ELBOW_FLEXION_LIMITS = (0.0, 2.2)
_DISTURBED = (
    *("spine05", "spine03", "spine01", "neck01", "head"),
    *(f"{bone}.{side}" for bone in ("upperarm01", "lowerarm01", "wrist", "upperleg01", "lowerleg01") for side in "LR"),
)


@dataclass(frozen=True, slots=True)
class PoseConfig:
    """How far sampled poses leave the recordings (probabilities; radians).

    low: share of people who sit, kneel or crouch; lie: of people who lie, of those; carry: of people whose arms reach
    forwards, as with a tray or a box.
    """

    recombine: float = 0.35
    blend: float = 0.1
    sample_arm: float = 0.2
    carry: float = 0.06
    low: float = 0.12
    lie: float = 0.02
    disturb: float = 0.5
    disturb_sigma: float = 0.12


class PoseSampler:
    """Draws world rotations (B, 3, 3) of every bone, from rest, in camera axes and the motion's own heading."""

    def __init__(self, bank: BodyBank, motions: list[Motion], config: PoseConfig | None = None) -> None:
        self.bank, self.motions, self.config = bank, motions, config or PoseConfig()
        # Long recordings of one scene must not drown short ones: by the square root of their length.
        shares = np.sqrt([len(motion) for motion in motions])
        self._shares = shares / shares.sum()
        self._limbs = [self._chain(f"{bone}.{side}") for bone in ("upperarm01", "upperleg01") for side in "LR"]
        self._disturbed = np.array([bank.bone(name) for name in _DISTURBED])

    def _chain(self, start: str) -> NDArray[np.int64]:
        """The bone `start` and all below it."""
        members = {self.bank.bone(start)}
        for bone, parent in enumerate(self.bank.bone_parents):
            if int(parent) in members:
                members.add(bone)
        return np.array(sorted(members))

    def frame(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """One frame of one recording, as it is."""
        motion = self.motions[rng.choice(len(self.motions), p=self._shares)]
        return motion.rotations[rng.integers(len(motion))]

    def _local(self, world: NDArray[np.float32]) -> NDArray[np.float32]:
        parents = self.bank.bone_parents
        local = world.copy()
        local[1:] = world[parents[1:]].transpose(0, 2, 1) @ world[1:]
        return local

    def sample(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A pose: (B, 3, 3) float32 world rotations."""
        world, config = self.frame(rng), self.config
        recombined, disturbed, blended = rng.random(3) < [config.recombine, config.disturb, config.blend]
        low, carrying, lying = rng.random(3) < [config.low, config.carry, config.lie]
        arms = rng.random(2) < config.sample_arm
        if not (recombined or disturbed or blended or low or carrying or lying or arms.any()):
            return world
        local = self._local(world)
        if blended:
            # The recordings face every way: the root keeps its own heading.
            between = local.transpose(0, 2, 1) @ self._local(self.frame(rng))
            share = rng.uniform(0.2, 0.8)
            local[1:] = local[1:] @ rotation_from_vector(share * vector_from_rotation(between[1:])).astype(np.float32)
        if recombined:
            other = self._local(self.frame(rng))
            for limb in self._limbs:
                if rng.random() < 0.5:
                    local[limb] = other[limb]
        if low:
            self._bend_legs(rng, local)
        if carrying:
            for side in "LR":
                self._reach_forward(rng, local, side)
        if disturbed:
            noise = rotation_from_vector(rng.normal(0, config.disturb_sigma, (len(self._disturbed), 3)))
            local[self._disturbed] = local[self._disturbed] @ noise.astype(np.float32)
        for side, sampled in zip("LR", arms, strict=True):
            if sampled:
                self._sample_arm(rng, local, side)
        world = np.empty_like(local)
        for bone, parent in enumerate(self.bank.bone_parents):
            world[bone] = local[bone] if parent < 0 else world[parent] @ local[bone]
        return self._laid_down(rng, world) if lying else world

    def _laid_down(self, rng: np.random.Generator, world: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turned about a horizontal axis until the spine is level, on whichever side."""
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.array([np.cos(angle), 0.0, np.sin(angle)])
        return (rotation_from_vector(axis * rng.normal(np.pi / 2, 0.2)) @ world).astype(np.float32)

    def _bend_legs(self, rng: np.random.Generator, local: NDArray[np.float32]) -> None:
        """Hips and knees as on a chair, on the heels or on the ground; the sides differ a little, or altogether."""
        kind = rng.random()
        if kind < 0.6:
            hip, knee = rng.uniform(1.2, 1.8), rng.uniform(0.9, 1.9)
        elif kind < 0.85:
            hip, knee = rng.uniform(1.6, 2.3), rng.uniform(1.8, 2.5)
        else:
            hip, knee = rng.uniform(0.9, 1.6), rng.uniform(0.0, 0.6)
        for side in "LR":
            outwards = rng.uniform(-0.1, 0.5) * (-1.0 if side == "L" else 1.0)
            if rng.random() < 0.25:
                hip, knee = rng.uniform(0.0, 1.8), rng.uniform(0.2, 2.4)
            # x points to the body's left: bending the hip lifts the knee forwards, towards -z.
            spread = rotation_from_vector(np.array([0.0, 0.0, outwards]))
            raised = rotation_from_vector(np.array([-(hip + rng.normal(0, 0.12)), 0.0, 0.0]))
            local[self.bank.bone(f"upperleg01.{side}")] = spread @ raised
            bent = max(knee + rng.normal(0, 0.15), 0.0)
            local[self.bank.bone(f"lowerleg01.{side}")] = rotation_from_vector(np.array([bent, 0.0, 0.0]))
        lean = rotation_from_vector(np.array([rng.normal(-0.15, 0.25), 0.0, 0.0]))
        local[self.bank.bone("spine03")] = local[self.bank.bone("spine03")] @ lean.astype(np.float32)

    def _reach_forward(self, rng: np.random.Generator, local: NDArray[np.float32], side: str) -> None:
        """The upper arm down the side or forwards, the elbow bent so that the hand is before the body."""
        heads = self.bank.rest_heads.mean(axis=0).astype(np.float64)
        shoulder, elbow, wrist = (
            heads[self.bank.bone(f"{bone}.{side}")] for bone in ("upperarm01", "lowerarm01", "wrist")
        )
        inwards = -1.0 if side == "L" else 1.0
        upper = _unit_vector(np.array([-0.15 * inwards, 1.0, -rng.uniform(0.0, 0.9)]))
        lower = _unit_vector(np.array([rng.uniform(-0.1, 0.35) * inwards, rng.uniform(-0.3, 0.4), -1.0]))
        first = swing_rotation(_unit_vector(elbow - shoulder), upper)
        local[self.bank.bone(f"upperarm01.{side}")] = first
        local[self.bank.bone(f"lowerarm01.{side}")] = first.T @ swing_rotation(_unit_vector(wrist - elbow), lower)

    def _sample_arm(self, rng: np.random.Generator, local: NDArray[np.float32], side: str) -> None:
        mirror = np.array([1.0, 1.0, 1.0] if side == "L" else [1.0, -1.0, -1.0])
        shoulder = rng.uniform(_SHOULDER_LIMITS[:, 0], _SHOULDER_LIMITS[:, 1]) * mirror
        local[self.bank.bone(f"upperarm01.{side}")] = rotation_from_vector(shoulder)
        heads = self.bank.rest_heads.mean(axis=0)
        upper = heads[self.bank.bone(f"lowerarm01.{side}")] - heads[self.bank.bone(f"upperarm01.{side}")]
        lower = heads[self.bank.bone(f"wrist.{side}")] - heads[self.bank.bone(f"lowerarm01.{side}")]
        axis = np.cross(upper, lower)  # the rest pose is slightly bent, about the hinge
        flexion = rng.uniform(*_ELBOW_FLEXION_LIMITS) * axis / np.linalg.norm(axis)
        local[self.bank.bone(f"lowerarm01.{side}")] = rotation_from_vector(flexion)


def _unit_vector(vector: NDArray) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)
