"""One person through time: where it was seen last, how it moves, and where it must be now."""

import math

import numpy as np
import numpy.typing as npt

from metro_ros.core.colours import blend
from metro_ros.core.crop import Box, box_around
from metro_ros.core.look import LIKELY, Look, change

VELOCITY_MEMORY_S = 0.2
"""Velocities are averaged over about so long: monocular depth jumps by some per cent from image to image."""
RESTLESS = 0.1
"""Change of the box, see look.change, from which on a look is not calm: on no one, looks wander or shrink."""
COLOUR_MEMORY = 0.1
"""How much of what it wears is taken from each image that shows it uncovered."""
COVERED_MEMORY_S = 0.2
"""How long the prediction lasts of someone whom another one covers in part."""
STOPPING_S = 1.0
"""Whoever is out of sight is assumed to slow down, by a factor of e in this time."""
MAX_APPROACH_PER_S = 1.0
"""No one is believed to come nearer by more than a factor of e a second."""
NEAREST_M = 0.05


class Track:
    """One person that is followed.

    look: what the image at hand shows of it; None: it is hidden, or not looked for yet. score, sure: of the last look;
    seen_s: when that was. bounds: (4,), left, top, right and bottom where it must be now, px; position: (3,), where its
    root must be now, x and y in metres and the logarithm of the depth in metres.
    """

    def __init__(self, look: Look, now_s: float) -> None:
        self.look: Look | None = look
        self.score, self.sure = look.body.score, look.body.sure
        self.seen_s = now_s
        self._box, self._crop = look.box, look.crop
        self.was_seen = False
        """Whether the image before showed it"""
        self.id = 0
        """Given when it is shown first"""
        self.confirmed = False
        """Whether it is to be shown, once it was it stays so"""
        self.detected = True
        """Whether a detection in the image at hand agrees"""
        self.proof = LIKELY
        """How much the last detection that agreed proves that somebody is there, see Sight.is_nobody"""
        self.detections = 0
        """Images in which one agreed"""
        self.calm = int(look.change < RESTLESS)
        """Calm looks in a row"""
        self.undetected_since_s: float | None = None
        """Since when the detector, when asked, does not see it"""
        self.colours = look.colours
        """Of what it wears, see colours.bone_colours"""
        self.doubtful = False
        """Whether it may follow someone else by now, see mingling; its colours are those from before"""
        self._state, self._size = _measured(look)
        self._velocity = np.zeros_like(self._state)
        self._moves = 0
        self.predict(now_s)

    def predict(self, now_s: float) -> None:
        """Where it must be now, at constant velocity, damped by the time it was not seen."""
        reach_s = STOPPING_S * (1 - math.exp(-(now_s - self.seen_s) / STOPPING_S))
        state = self._state + self._velocity * reach_s
        half = self._size / 2 * math.exp(self._state[4] - state[4])  # as much larger as it is nearer
        self.bounds: npt.NDArray[np.float64] = np.concatenate((state[:2] - half, state[:2] + half))
        self.position: npt.NDArray[np.float64] = state[2:]

    def see(self, look: Look, now_s: float, smoothing: float, covered: bool) -> None:
        """Take what an image shows. smoothing: part of the last box in the next one.

        covered: someone stands before it, with whom the network may have mixed it up: the prediction is believed more.
        """
        elapsed_s = now_s - self.seen_s
        state, size = _measured(look)
        if covered:
            gain = 1 - math.exp(-elapsed_s / COVERED_MEMORY_S)
            foreseen = np.concatenate(((self.bounds[:2] + self.bounds[2:]) / 2, self.position))
            state = foreseen + gain * (state - foreseen)
            foreseen_size = self.bounds[2:] - self.bounds[:2]
            size = foreseen_size + gain * (size - foreseen_size)
            self._velocity *= math.exp(-elapsed_s / STOPPING_S)
        elif elapsed_s > 1e-3:
            if not self.doubtful:
                self.colours = blend(self.colours, look.colours, COLOUR_MEMORY)
            self._moves += 1
            gain = max(1 / self._moves, 1 - math.exp(-elapsed_s / VELOCITY_MEMORY_S))
            self._velocity += gain * ((state - self._state) / elapsed_s - self._velocity)
            self._velocity[4] = np.clip(self._velocity[4], -MAX_APPROACH_PER_S, MAX_APPROACH_PER_S)
        state[:2] += smoothing * (self._state[:2] - state[:2])
        self._state, self._size = state, smoothing * self._size + (1 - smoothing) * size
        moved = change(self._box, look.box)  # whoever is looked at in the same crop again rests beside its middle
        self.calm = self.calm + 1 if min(look.change, moved) < RESTLESS else 0
        self._box, self._crop = look.box, look.crop
        self.look, self.score, self.sure, self.seen_s = look, look.body.score, look.body.sure, now_s

    def crop(self, padding: float) -> Box:
        """The crop that must show it now."""
        return box_around(self.bounds, padding)

    def same_crop(self) -> Box:
        """The crop that showed it last, moved as it must have moved."""
        x, y = (self.bounds[:2] + self.bounds[2:]) / 2 - self._state[:2]
        return Box(self._crop.cx + float(x), self._crop.cy + float(y), self._crop.size)


def _measured(look: Look) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """State (5,), the centre of the bounds in px and the position, and size (2,), width and height in px."""
    left, top, right, bottom = look.bounds
    x, y, z = look.translation
    state = np.array(((left + right) / 2, (top + bottom) / 2, x, y, math.log(max(z, NEAREST_M))))
    return state, np.array((right - left, bottom - top))
