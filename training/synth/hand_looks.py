"""What hands look like: skin that is paler in the palm, knuckles, nails, gloves; sleeves, and the colours of things."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.anny_hand import FINGERS, Hand, finger_axes
from training.synth.stage import vertex_normals

# Back of the hand and palm from light to dark, sRGB in [0, 1]: palms have hardly any pigment.
_BACK = np.array([[0.95, 0.79, 0.7], [0.87, 0.66, 0.53], [0.73, 0.5, 0.37], [0.5, 0.33, 0.24], [0.27, 0.18, 0.13]])
_PALM = np.array([[0.96, 0.76, 0.69], [0.9, 0.68, 0.58], [0.82, 0.61, 0.5], [0.7, 0.51, 0.42], [0.55, 0.39, 0.32]])
_GLOVES = np.array([[0.2, 0.45, 0.8], [0.1, 0.1, 0.11], [0.9, 0.9, 0.88], [0.85, 0.65, 0.3], [0.2, 0.55, 0.35]])
"""Nitrile, black, cotton, leather, garden."""
_NAIL = np.array((0.98, 0.86, 0.84))
_NAIL_REACH_M = 0.011
"""How far back from its tip a finger's nail begins, on an adult."""


@dataclass(frozen=True, slots=True)
class HandRegions:
    """Where looks differ, per vertex of the template (V,).

    Attributes:
        palm: 0 at the back to 1 in the palm, of the hand and of each finger.
        knuckle: 0 to 1, near a joint, at the back.
        nail: bool.
        places: (V, 3) metres, for blotches.
    """

    palm: NDArray[np.float32]
    knuckle: NDArray[np.float32]
    nail: NDArray[np.bool_]
    places: NDArray[np.float32]


def find_hand_regions(hand: Hand) -> HandRegions:
    """Read the regions off the template, its bones and its normals."""
    normals = vertex_normals(hand.template, hand.faces)
    strongest = hand.skin_indices[np.arange(len(hand.template)), hand.skin_weights.argmax(axis=1)]
    heads = hand.template_heads.astype(np.float64)
    axes = finger_axes(hand)
    wrist, index, pinky = (heads[hand.bone(joint)] for joint in ("Wrist", "Index_1", "Pinky_1"))
    out_of_palm = np.cross(index - wrist, pinky - wrist)
    out_of_palm /= np.linalg.norm(out_of_palm)
    inward = np.tile(out_of_palm, (len(hand.template), 1))
    nail, knuckle = np.zeros(len(hand.template), bool), np.zeros(len(hand.template))
    for finger, (flexion, _) in zip(FINGERS, axes, strict=True):
        bones = [hand.bone(f"{finger}_{number}") for number in (1, 2, 3)]
        along = heads[bones[2]] - heads[bones[1]]
        towards = np.cross(flexion, along / np.linalg.norm(along))
        inward[np.isin(strongest, bones)] = towards
        last = strongest == bones[2]
        reach = hand.template @ along / np.linalg.norm(along)
        nail |= last & (normals @ towards < -0.55) & (reach > reach[last].max() - _NAIL_REACH_M)
        for bone in bones:
            distance = np.linalg.norm(hand.template - heads[bone], axis=1)
            knuckle = np.maximum(knuckle, np.clip(1.6 - distance / 0.009, 0.0, 1.0))
    facing = (normals * inward).sum(axis=1)
    palm = np.clip(0.5 + 1.5 * facing, 0.0, 1.0)
    return HandRegions(palm.astype(np.float32), (knuckle * (1.0 - palm)).astype(np.float32), nail, hand.template)


@dataclass(frozen=True, slots=True)
class HandLook:
    """One hand's look, constant over a clip.

    Attributes:
        colours: (V, 3) float32 sRGB in [0, 1]; thickness: (V,) float32 metres along the normal, of a glove.
        arm: (3,) bare forearm; sleeve: (3,), the colour of its cloth, and stripe: (3,), of every other ring.
        cuff_m: where the sleeve begins, from the wrist of an adult; cloth_m: how far it stands off.
    """

    colours: NDArray[np.float32]
    thickness: NDArray[np.float32]
    arm: NDArray[np.float32]
    sleeve: NDArray[np.float32]
    stripe: NDArray[np.float32]
    cuff_m: float
    cloth_m: float

    def forearm_colours(self, along: NDArray[np.float32], size: float) -> NDArray[np.float32]:
        """(V, 3) float32 for vertices `along` (V,) metres from the wrist of a hand of `size` times an adult's."""
        band = np.floor(along / (0.02 * size)).astype(int) % 2
        cloth = np.where(band[:, None] > 0, self.stripe, self.sleeve)
        return np.where((along >= self.cuff_m * size)[:, None], cloth, self.arm).astype(np.float32)


def skin_tones(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) of the back and (3,) of the palm of someone's hand."""
    place, brightness = rng.uniform(0, len(_BACK) - 1), rng.uniform(0.85, 1.1)
    low = min(int(place), len(_BACK) - 2)
    back, palm = (tones[low] + (place - low) * (tones[low + 1] - tones[low]) for tones in (_BACK, _PALM))
    return back * brightness, palm * brightness


def cloth_colour(rng: np.random.Generator) -> NDArray[np.float64]:
    """(3,), half of them close to grey."""
    tint = (rng.uniform(0.0, 1.0, 3) - 0.5) * (0.12 if rng.random() < 0.5 else rng.uniform(0.3, 0.9))
    return np.clip(rng.uniform(0.05, 0.95) + tint, 0.0, 1.0)


def sample_hand_look(rng: np.random.Generator, regions: HandRegions) -> HandLook:
    """Bare hands mostly, some of them painted nails; one in eight wears a glove; two in three wear sleeves."""
    back, palm = skin_tones(rng)
    colours = back + regions.palm[:, None] * (palm - back)
    flushed = np.array((1.02, rng.uniform(0.8, 0.97), rng.uniform(0.78, 0.97)))
    colours *= 1.0 + regions.knuckle[:, None] * (flushed - 1.0)
    waves = rng.normal(0, 120, (5, 3))
    blotches = np.sin(regions.places @ waves.T + rng.uniform(0, 6, 5)).mean(axis=1)
    colours *= 1.0 + rng.uniform(0.0, 0.12) * blotches[:, None]
    painted = rng.random() < 0.15
    nail = rng.uniform(0.1, 1.0, 3) if painted else 0.5 * (palm + _NAIL) * rng.uniform(0.9, 1.05)
    if rng.random() < 0.85:
        colours[regions.nail] = nail
    thickness, arm = np.zeros(len(colours)), back
    if rng.random() < 0.12:
        glove = _GLOVES[rng.integers(len(_GLOVES))] if rng.random() < 0.7 else cloth_colour(rng)
        colours = np.broadcast_to(glove, colours.shape) * (1.0 + rng.uniform(0.0, 0.15) * blotches[:, None])
        thickness += rng.uniform(0.0005, 0.003)
        arm = np.asarray(glove)
    sleeve = cloth_colour(rng)
    return HandLook(
        colours=np.clip(colours, 0.0, 1.0).astype(np.float32),
        thickness=thickness.astype(np.float32),
        arm=np.clip(arm, 0.0, 1.0).astype(np.float32),
        sleeve=sleeve.astype(np.float32),
        stripe=(cloth_colour(rng) if rng.random() < 0.25 else sleeve).astype(np.float32),
        cuff_m=float(rng.uniform(0.004, 0.16)) if rng.random() < 0.65 else 1.0,
        cloth_m=float(rng.uniform(0.001, 0.009)),
    )
