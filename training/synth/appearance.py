"""What people look like: skin, hair and clothes as colours and thickness per vertex of the body, skirts and props."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.body import BodyBank
from training.synth.props import Prop, Skirt, sample_props, skirt_shape

# From light to dark, linear blends of neighbours (sRGB in [0, 1]).
_SKIN = np.array([[0.96, 0.82, 0.73], [0.89, 0.69, 0.56], [0.75, 0.53, 0.39], [0.53, 0.35, 0.25], [0.29, 0.19, 0.14]])
_HAIR = np.array([[0.06, 0.05, 0.05], [0.24, 0.15, 0.09], [0.45, 0.3, 0.16], [0.75, 0.6, 0.36], [0.72, 0.71, 0.7]])


@dataclass(frozen=True, slots=True)
class Regions:
    """Where garments may reach, per vertex of the template (V,).

    Attributes:
        arm: 0 at the shoulder to 1 at the wrist, -1 off the arms.
        leg: 0 at the hip to 1 at the ankle, -1 off the legs.
        torso: 0 at the hips to 1 at the neck, -1 off the torso.
        foot, scalp, eye: bool.
        template: (V, 3) metres, for patterns.
    """

    arm: NDArray[np.float32]
    leg: NDArray[np.float32]
    torso: NDArray[np.float32]
    foot: NDArray[np.bool_]
    scalp: NDArray[np.bool_]
    eye: NDArray[np.bool_]
    template: NDArray[np.float32]


def find_regions(bank: BodyBank) -> Regions:
    """Read the regions off the template's skinning weights and bones."""
    strongest = bank.skin_indices[np.arange(len(bank.template)), bank.skin_weights.argmax(axis=1)]
    owner = np.array(bank.bone_names)[strongest]
    heads = bank.rest_heads.mean(axis=0)

    def owned(*prefixes: str) -> NDArray[np.bool_]:
        return np.array([name.startswith(prefixes) for name in owner])

    def along(mask: NDArray[np.bool_], start: str, end: str, values: NDArray[np.float32]) -> None:
        a, b = heads[bank.bone(start)], heads[bank.bone(end)]
        values[mask] = ((bank.template[mask] - a) @ (b - a)) / np.dot(b - a, b - a)

    left = bank.template[:, 0] > 0
    arm, leg, torso = (np.full(len(owner), -1.0, np.float32) for _ in range(3))
    for side, here in (("L", left), ("R", ~left)):
        along(owned("upperarm", "lowerarm") & here, f"upperarm01.{side}", f"wrist.{side}", arm)
        along(owned("upperleg", "lowerleg") & here, f"upperleg01.{side}", f"foot.{side}", leg)
    along(owned("spine", "root", "pelvis", "clavicle", "shoulder"), "root", "neck01", torso)
    head = owned("head")
    crown, chin = bank.template[head, 1].min(), bank.template[head, 1].max()
    level = (bank.template[:, 1] - crown) / (chin - crown)  # 0 at the crown, 1 at the chin
    front = bank.template[:, 2] - np.median(bank.template[head, 2])
    scalp = head & ((level < 0.28) | ((level < 0.85) & (front > 0.02)))
    return Regions(
        arm=np.where(arm > -1, np.clip(arm, 0.0, None), arm),
        leg=np.where(leg > -1, np.clip(leg, 0.0, None), leg),
        torso=np.where(torso > -1, np.clip(torso, 0.0, None), torso),
        foot=owned("foot", "toe"),
        scalp=scalp,
        eye=owned("eye"),
        template=bank.template,
    )


@dataclass(frozen=True, slots=True)
class Appearance:
    """One dressed person. colours (V, 3) float32 sRGB in [0, 1]; thickness (V,) float32 metres along the normal; skirt:
    or the lower part of a coat, if there is one; props: what is worn on the body or carried."""

    colours: NDArray[np.float32]
    thickness: NDArray[np.float32]
    skirt: Skirt | None = None
    props: tuple[Prop, ...] = ()


def _palette(rng: np.random.Generator, colours: NDArray) -> NDArray:
    place = rng.uniform(0, len(colours) - 1)
    low = int(place)
    return colours[low] + (place - low) * (colours[min(low + 1, len(colours) - 1)] - colours[low])


def _cloth_colour(rng: np.random.Generator) -> NDArray:
    # Half of all cloth is close to grey: black, white, denim; the rest is any colour.
    value, tint = rng.uniform(0.05, 0.95), rng.uniform(0.0, 1.0, 3)
    return value + (tint - 0.5) * (0.12 if rng.random() < 0.5 else rng.uniform(0.3, 0.9))


def _pattern(rng: np.random.Generator, template: NDArray) -> NDArray:
    """(V, 3) colours of a cloth: plain, striped, checked or blotched."""
    base = np.broadcast_to(_cloth_colour(rng), template.shape).copy()
    kind = rng.random()
    if kind < 0.5:
        return base
    other = _cloth_colour(rng)
    if kind < 0.75:
        axis = template[:, 1] if rng.random() < 0.7 else template[:, 0]
        amount = np.sin(axis * rng.uniform(30, 160) + rng.uniform(0, 6)) > rng.uniform(-0.6, 0.6)
    elif kind < 0.87:
        period = rng.uniform(30, 110)
        amount = np.sin(template[:, 1] * period) * np.sin(template[:, 0] * period) > 0
    else:
        waves = rng.normal(0, 25, (6, 3))
        lines = template @ waves.T.astype(np.float32) + rng.uniform(0, 6, 6).astype(np.float32)
        amount = np.sin(lines).sum(axis=1) > rng.uniform(-1, 1)
    return np.where(amount[:, None], other, base)


def _folds(rng: np.random.Generator, template: NDArray) -> NDArray:
    """(V,) metres about zero: soft waves, as loose cloth falls."""
    waves = rng.normal(0, 14, (4, 3)) * [1.0, 0.5, 1.0]
    height, phases = rng.uniform(0, 0.006), rng.uniform(0, 6, 4)
    # Single precision: a sine takes a fifth of the time.
    lines = template @ waves.T.astype(np.float32) + phases.astype(np.float32)
    return height * np.sin(lines).sum(axis=1)


def sample_appearance(rng: np.random.Generator, regions: Regions, bank: BodyBank, identity: int) -> Appearance:
    """Dress someone at random: top, trousers, skirt, dress or coat, shoes, hair or none, and what they carry."""
    count = len(regions.template)
    colours = np.broadcast_to(_palette(rng, _SKIN) * rng.uniform(0.85, 1.1), (count, 3)).copy()
    thickness = np.zeros(count)
    sleeve = rng.choice([-0.5, 0.15, 0.35, 0.55, 0.95], p=[0.08, 0.12, 0.35, 0.1, 0.35])
    waist = rng.uniform(0.0, 0.25)
    trouser = rng.choice([0.2, 0.45, 0.7, 0.97], p=[0.1, 0.25, 0.1, 0.55])
    bottom = ((regions.leg > -1) & (regions.leg < trouser)) | ((regions.torso > -1) & (regions.torso < waist + 0.06))
    top = ((regions.torso >= waist) & (regions.torso < rng.uniform(0.86, 1.05))) | (
        (regions.arm > -1) & (regions.arm < sleeve)
    )
    if rng.random() < 0.12:  # a dress
        top |= ((regions.leg > -1) & (regions.leg < rng.uniform(0.2, 0.6))) | (
            (regions.torso > -1) & (regions.torso < 0.3)
        )
    cloths = []
    for garment, loosest in ((bottom, 0.03), (top, 0.04)):
        cloths.append(_pattern(rng, regions.template))
        colours[garment] = cloths[-1][garment]
        loose = rng.uniform(0.002, loosest) if rng.random() < 0.5 else rng.uniform(0.002, 0.012)
        # Looser towards the hem, as a sleeve or a trouser leg hangs.
        hanging = 1.0 + np.clip(np.maximum(regions.leg, regions.arm), 0, 1)
        thickness[garment] = (np.clip(loose * hanging + _folds(rng, regions.template), 0.001, None))[garment]
    skirt = None
    if rng.random() < 0.14:
        rings, spokes = skirt_shape()
        cloth = cloths[int(rng.random() < 0.5)]  # a skirt of its own, or the coat's or dress's lower part
        picked = cloth[rng.integers(len(cloth), size=(rings, spokes))].reshape(-1, 3)
        plain = np.broadcast_to(cloth[0], picked.shape)
        skirt = Skirt(
            hem=float(rng.uniform(0.25, 0.95)),
            flare=float(rng.uniform(0.0, 0.15)),
            colours=np.clip(picked if rng.random() < 0.3 else plain, 0.0, 1.0).astype(np.float32),
        )
    if rng.random() < 0.85:
        shoes = regions.foot | (regions.leg > rng.uniform(0.93, 1.0))
        colours[shoes], thickness[shoes] = _cloth_colour(rng), rng.uniform(0.004, 0.015)
    hair = _palette(rng, _HAIR) * rng.uniform(0.8, 1.2)
    if rng.random() < 0.92:
        colours[regions.scalp] = hair
        thickness[regions.scalp] = rng.uniform(0.002, 0.035)
    colours[regions.eye] = rng.uniform(0.0, 0.25)
    # What no plain colour has: dirt, seams, pores.
    colours *= 1.0 + rng.uniform(0.0, 0.06) * rng.standard_normal((count, 1))
    props = sample_props(rng, bank, identity, np.clip(hair, 0, 1), np.clip(_cloth_colour(rng), 0, 1))
    return Appearance(
        np.clip(colours, 0.0, 1.0).astype(np.float32), np.maximum(thickness, 0).astype(np.float32), skirt, props
    )
