"""Poses of a hand: the shapes that people make, everything between them, pinches, and any finger anywhere.

A pose is a point in the box of `anny_hand`'s joint limits, so whatever is mixed or disturbed stays within them. The
last two joints of a finger share a tendon: the outer one bends by about two thirds of the inner one (Lin, Wu and Huang,
"Modeling the constraints of human hand motion", 2000), which is one and the same part of either's limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from metro_ros.core.errors import ConfigError
from training.anny_hand import FINGERS, Hand, bone_rotations
from training.body import bone_transforms
from training.mesh_spec import HAND_21_NAMES, MeshSpec

_ROOTS = {
    "open": (0.1, 0.1, 0.1, 0.1),
    "flat": (0.25, 0.25, 0.25, 0.25),
    "relaxed": (0.3, 0.38, 0.45, 0.5),
    "fist": (0.95, 0.95, 0.95, 0.95),
    "point": (0.15, 0.9, 0.95, 0.95),
    "two": (0.15, 0.15, 0.9, 0.95),
    "three": (0.12, 0.12, 0.12, 0.9),
    "four": (0.12, 0.12, 0.12, 0.12),
    "thumb up": (0.9, 0.95, 0.95, 0.95),
    "thumb and index": (0.12, 0.9, 0.95, 0.95),
    "thumb and little": (0.9, 0.9, 0.85, 0.15),
    "horns": (0.15, 0.9, 0.9, 0.15),
    "grasp": (0.5, 0.55, 0.6, 0.6),
    "wide grasp": (0.3, 0.3, 0.3, 0.3),
    "hook": (0.2, 0.2, 0.2, 0.2),
    "roof": (0.85, 0.85, 0.85, 0.85),
}
"""How far the index to the little finger bend at their roots, by shape."""
_MIDDLES = {
    "relaxed": (0.35, 0.4, 0.42, 0.42),
    "grasp": (0.55, 0.55, 0.55, 0.55),
    "wide grasp": (0.4, 0.4, 0.4, 0.4),
    "hook": (0.9, 0.9, 0.9, 0.9),
    "roof": (0.15, 0.15, 0.15, 0.15),
}
"""The same of their middle joints, where they do not bend as the roots do."""
_THUMBS = {
    "open": (0.1, 0.1, 0.1),
    "flat": (0.35, 0.2, 0.2),
    "relaxed": (0.35, 0.35, 0.3),
    "thumb up": (0.05, 0.05, 0.1),
    "thumb and index": (0.05, 0.1, 0.1),
    "thumb and little": (0.05, 0.1, 0.1),
    "grasp": (0.5, 0.4, 0.4),
    "wide grasp": (0.25, 0.3, 0.3),
    "hook": (0.3, 0.3, 0.3),
    "roof": (0.5, 0.4, 0.3),
}
"""The thumb's three joints; elsewhere it lies across the palm."""
_ACROSS_PALM = (0.85, 0.75, 0.6)
SHAPES = tuple(_ROOTS)


@dataclass(frozen=True, slots=True, eq=False)
class HandPose:
    """Parts of the joints' limits, see `anny_hand.bone_rotations`. bend (5, 3), spread (5,), all in [0, 1]."""

    bend: NDArray[np.float64]
    spread: NDArray[np.float64]

    def towards(self, other: HandPose, part: float) -> HandPose:
        """The pose between this one (0) and another (1)."""
        return HandPose(*(a + part * (b - a) for a, b in ((self.bend, other.bend), (self.spread, other.spread))))


@dataclass(frozen=True, slots=True)
class HandPoseConfig:
    """How poses are drawn.

    Attributes:
        pinch: share of poses in which the thumb touches the index or the middle finger.
        anything: share in which every finger bends as it likes; the rest are shapes.
        between: share of the shapes that lie between two of them.
        disturb: standard deviation of each joint, in parts of its limits.
        touch_m: how near the tips of a pinch come at rest size; disturbing moves them a little.
        pinch_draws: thumbs, and fingers, among which pinches are looked for.
    """

    pinch: float = 0.18
    anything: float = 0.22
    between: float = 0.4
    disturb: float = 0.07
    touch_m: float = 0.012
    pinch_draws: int = 400


def shape(name: str) -> HandPose:
    """One of SHAPES. Raises KeyError for another name."""
    bend = np.empty((5, 3))
    bend[0] = _THUMBS.get(name, _ACROSS_PALM)
    bend[1:, 0] = _ROOTS[name]
    bend[1:, 1] = bend[1:, 2] = _MIDDLES.get(name, _ROOTS[name])
    return HandPose(bend, np.full(5, 0.5))


class HandPoseSampler:
    """Draws poses; the same generator state gives the same pose."""

    def __init__(
        self, hand: Hand, mesh: MeshSpec, seed: int | Sequence[int] = 0, config: HandPoseConfig | None = None
    ) -> None:
        """seed: of the pinches, which are found once. Raises ConfigError when too few draws leave none."""
        self.hand, self.config = hand, config or HandPoseConfig()
        self._shapes = [shape(name) for name in SHAPES]
        self._pinches = self._find_pinches(np.random.default_rng(seed), mesh) if self.config.pinch else []

    def sample(self, rng: np.random.Generator) -> HandPose:
        """A pose that a hand can take."""
        config, kind = self.config, rng.random()
        if kind < config.pinch:
            pose, noise = self._pinch(rng), 0.3 * config.disturb
        elif kind < config.pinch + config.anything:
            pose, noise = self._anything(rng), config.disturb
        else:
            pose, noise = self._shapes[rng.integers(len(SHAPES))], config.disturb
            if rng.random() < config.between:
                pose = pose.towards(self._shapes[rng.integers(len(SHAPES))], rng.random())
            pose = HandPose(pose.bend, self._spread(rng, pose.bend))
        disturbed = pose.bend + rng.normal(0.0, noise, (5, 3))
        disturbed[1:, 2] = disturbed[1:, 1] + rng.normal(0.0, 0.3 * noise, 4)
        return HandPose(disturbed.clip(0.0, 1.0), pose.spread)

    def rotations(self, pose: HandPose) -> NDArray[np.float32]:
        """(B, 3, 3) float32, each bone's rotation from rest, in the axes of the hand at rest."""
        return bone_rotations(self.hand, pose.bend, pose.spread)

    def _anything(self, rng: np.random.Generator) -> HandPose:
        """Neighbouring fingers bend alike, more or less."""
        closed = np.clip(rng.uniform(-0.1, 1.1) + rng.normal(0.0, 0.35, 5), 0.0, 1.0)
        bend = closed[:, None] + rng.normal(0.0, 0.2, (5, 3))
        bend[4] += 0.5 * (bend[3] - bend[4])  # the little finger hardly bends without the ring finger, nor it alone
        bend[1:, 2] = bend[1:, 1]
        bend = bend.clip(0.0, 1.0)
        return HandPose(bend, self._spread(rng, bend))

    def _spread(self, rng: np.random.Generator, bend: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fingers spread together, and the less the more they are bent at their roots; the thumb as it likes."""
        fanned = rng.uniform(-0.2, 1.0) * np.array((0.5, 0.15, -0.2, -0.5)) + rng.normal(0.0, 0.06, 4)
        spread = 0.5 + fanned * (1.0 - 0.8 * bend[1:, 0])
        return np.clip([rng.uniform(0.1, 0.9), *spread], 0.0, 1.0)

    def _pinch(self, rng: np.random.Generator) -> HandPose:
        thumb, finger, number = self._pinches[rng.integers(len(self._pinches))]
        others = self._shapes[SHAPES.index(str(rng.choice(["open", "relaxed", "fist", "grasp"])))]
        bend, spread = others.bend.copy(), self._spread(rng, others.bend)
        bend[0], spread[0] = thumb.bend[0], thumb.spread[0]
        bend[number], spread[number] = finger.bend[number], finger.spread[number]
        return HandPose(bend, spread)

    def _find_pinches(self, rng: np.random.Generator, mesh: MeshSpec) -> list[tuple[HandPose, HandPose, int]]:
        """Pairs of poses and a finger: the thumb of the first touches that finger of the second.

        Fingers move independently, so every thumb that was drawn is tried with every finger.
        """
        assert mesh.joint_regressor is not None
        drawn, tips = [], []
        for _ in range(self.config.pinch_draws):
            bend = rng.uniform(0.05, 0.95, (5, 3))
            bend[1:, 2] = bend[1:, 1]
            drawn.append(HandPose(bend, rng.uniform(0.1, 0.9, 5)))
            tips.append(self._tips(drawn[-1], mesh.joint_regressor))
        places = np.stack(tips)
        found = []
        for number in (1, 2):
            near = cKDTree(places[:, 0]).query_ball_point(places[:, number], self.config.touch_m)
            found += [(drawn[thumb], drawn[finger], number) for finger, thumbs in enumerate(near) for thumb in thumbs]
        if not found:
            raise ConfigError("pinch_draws", expected="enough that a thumb touches a finger", got=len(drawn))
        return found

    def _tips(self, pose: HandPose, regressor: NDArray[np.float32]) -> NDArray[np.float64]:
        """(5, 3) fingertips of the average hand, metres."""
        hand = self.hand
        transforms = bone_transforms(self.rotations(pose), hand.template_heads, hand.bone_parents)
        tips = []
        for finger in FINGERS:
            vertex = int(regressor[HAND_21_NAMES.index(f"{finger}_4")].argmax())
            last = transforms[hand.bone(f"{finger}_3")]
            tips.append(last[:, :3] @ hand.template[vertex] + last[:, 3])
        return np.array(tips)
