"""Poses: frames of captured motion, recombined limb by limb, disturbed, and arms sampled inside joint limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.body import BodyBank
from training.motion import Motion, rotation_from_vector

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
    """How far sampled poses leave the recordings (probabilities; radians)."""

    recombine: float = 0.35
    sample_arm: float = 0.15
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
        recombined, disturbed = rng.random() < config.recombine, rng.random() < config.disturb
        arms = rng.random(2) < config.sample_arm
        if not (recombined or disturbed or arms.any()):
            return world
        local = self._local(world)
        if recombined:
            other = self._local(self.frame(rng))
            for limb in self._limbs:
                if rng.random() < 0.5:
                    local[limb] = other[limb]
        if disturbed:
            noise = rotation_from_vector(rng.normal(0, config.disturb_sigma, (len(self._disturbed), 3)))
            local[self._disturbed] = local[self._disturbed] @ noise.astype(np.float32)
        for side, sampled in zip("LR", arms, strict=True):
            if sampled:
                self._sample_arm(rng, local, side)
        world = np.empty_like(local)
        for bone, parent in enumerate(self.bank.bone_parents):
            world[bone] = local[bone] if parent < 0 else world[parent] @ local[bone]
        return world

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
