"""How samples change from one sight to the next: ranges, and one draw from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.config import check_settings, setting
from metro_ros.core.errors import ConfigError

ScaleLaw = Literal["normal", "log-normal"]


class Change(NamedTuple):
    """One draw, applied in this order: scale and turn with the crop, then the mirror, then the colours.

    Attributes:
        scale: the box's side is multiplied by it.
        rotation_deg: the picture turns counter-clockwise by it.
        flip: the picture is mirrored, left to right.
        gain: (3,) float32, each channel is multiplied by it.
        channels: (3,) which channel becomes red, green and blue.
    """

    scale: float
    rotation_deg: float
    flip: bool
    gain: NDArray[np.float32]
    channels: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Spread of each change; N is a standard normal variable, U a uniform one. The defaults are the project's own.

    Raises ConfigError when a value is outside of its range.
    """

    flip: float = setting(0.0, "share of mirrored pictures; sides of a body change places, so never for hands", 0, 1)
    rotation_deg: float = setting(10.0, "the turn is this times N", 0, 180)
    rotation_limit_deg: float = setting(30.0, "and clipped to plus or minus this", 0, 180)
    upright: float = setting(0.4, "share of pictures that do not turn at all", 0, 1)
    scale: float = setting(0.07, "the box grows by 1 + this times N, or by exp(this times N)", 0, 1)
    scale_limits: tuple[float, float] = setting((0.5, 2.0), "and by no less and no more than this")
    scale_law: ScaleLaw = setting("log-normal", "which of the two: normal or log-normal")
    gain: tuple[float, float] = setting((0.7, 1.35), "range of U, which multiplies the whole picture")
    channel_gain: tuple[float, float] = setting((0.9, 1.1), "range of a U for each channel, which multiplies it too")
    swap_channels: float = setting(0.15, "share of pictures with their channels in random order", 0, 1)
    hide_outside: bool = setting(True, "keypoints that leave the crop lose their confidence")

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("scale_limits", "gain", "channel_gain"):
            low, high = limits = getattr(self, name)
            if not (math.isfinite(high) and 0 < low <= high):
                raise ConfigError(f"AugmentConfig.{name}", expected="0 < low <= high", got=limits)
        if self.scale_law not in get_args(ScaleLaw):
            expected = " or ".join(get_args(ScaleLaw))
            raise ConfigError("AugmentConfig.scale_law", expected=expected, got=self.scale_law)

    def draw(self, rng: np.random.Generator) -> Change:
        """One change. Takes the same random numbers whatever the settings are."""
        turn, stretch = rng.standard_normal(2)
        upright, flip, common, swap = rng.random(4)
        each, order = rng.random(3), rng.permutation(3)
        limit = self.rotation_limit_deg
        spread = self.scale * stretch
        scale = 1.0 + spread if self.scale_law == "normal" else math.exp(spread)
        low, high = self.gain
        low_each, high_each = self.channel_gain
        gain = (low + (high - low) * common) * (low_each + (high_each - low_each) * each)
        return Change(
            scale=float(np.clip(scale, *self.scale_limits)),
            rotation_deg=0.0 if upright < self.upright else float(np.clip(self.rotation_deg * turn, -limit, limit)),
            flip=bool(flip < self.flip),
            gain=gain.astype(np.float32),
            channels=order if swap < self.swap_channels else np.arange(3),
        )


DEFAULT = AugmentConfig()
"""For synthetic crops, which are drawn with turns, offsets, scales and mirror images of their own."""

HAND = replace(DEFAULT, rotation_deg=40.0, rotation_limit_deg=180.0, upright=0.3)
"""For synthetic crops of hands, which point anywhere."""

PAPER_BODY = AugmentConfig(
    flip=0.5,
    rotation_deg=30.0,
    rotation_limit_deg=60.0,
    upright=0.6,
    scale=0.25,
    scale_limits=(0.75, 1.25),
    scale_law="normal",
    gain=(1.0, 1.0),
    channel_gain=(0.6, 1.4),
    swap_channels=0.0,
    hide_outside=False,
)
"""METRO's published training on bodies. Keypoints outside of the crop count, as they do there."""

PAPER_HAND = replace(PAPER_BODY, flip=0.0, rotation_deg=90.0, rotation_limit_deg=180.0)
"""METRO's published training on hands, all of them right ones."""

NONE = AugmentConfig(
    flip=0.0,
    rotation_deg=0.0,
    rotation_limit_deg=0.0,
    upright=1.0,
    scale=0.0,
    gain=(1.0, 1.0),
    channel_gain=(1.0, 1.0),
    swap_channels=0.0,
    hide_outside=False,
)
"""Every sample as it is, for evaluation."""
