"""People who came close to each other and parted again: whether each still is who it was, by what they wear.

While two overlap, the network may see either in either's crop, and their tracks can end up with each other's person.
What they wore before tells, as soon as both are seen apart.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metro_ros.core.colours import difference
from metro_ros.core.track import Track

CLOSE = 0.1
"""Part of the smaller one's bounds that two share who are close."""
LOOKS = 5
"""Images that show both apart before it is decided."""
MARGIN = 0.1
"""By how much less the colours must differ, in the mean of those, if the tracks change people; see colours."""
SAME_DEPTH = 0.7
"""Largest difference of the logarithms of depths at which the network may have taken one for the other."""
FORGOTTEN_S = 3.0
"""How long after they were close it is still to be decided."""


@dataclass(slots=True)
class _Doubt:
    """A pair that was close.

    close_s: when; gain: how much better they would fit the other way, summed over so many looks.
    """

    close_s: float
    gain: float = 0.0
    looks: int = 0


class Mingling:
    """Pairs of tracks that cannot be sure of themselves."""

    def __init__(self) -> None:
        self._doubts: dict[tuple[Track, Track], _Doubt] = {}

    def settle(self, tracks: Sequence[Track], now_s: float) -> None:
        """Notice who is close, and let two tracks change ids when what they wear says so, once an image.

        Tracks in doubt keep the colours that they had before.
        """
        together = set(map(id, tracks))
        self._doubts = {
            pair: doubt
            for pair, doubt in self._doubts.items()
            if now_s - doubt.close_s <= FORGOTTEN_S and {id(pair[0]), id(pair[1])} <= together
        }
        for pair in itertools.combinations(tracks, 2):
            if not all(track.confirmed for track in pair):
                continue
            if _are_close(*pair):
                self._doubts[pair] = _Doubt(now_s)
            elif pair in self._doubts:
                self._weigh(*pair)
        doubtful = {id(track) for pair in self._doubts for track in pair}
        for track in tracks:
            track.doubtful = id(track) in doubtful

    def _weigh(self, one: Track, other: Track) -> None:
        if one.look is None or other.look is None:
            return
        as_they_are = difference(one.colours, one.look.colours) + difference(other.colours, other.look.colours)
        changed = difference(one.colours, other.look.colours) + difference(other.colours, one.look.colours)
        if not np.isfinite(as_they_are + changed):
            return
        doubt = self._doubts[one, other]
        doubt.gain += as_they_are - changed
        doubt.looks += 1
        if doubt.looks >= LOOKS:
            if doubt.gain > MARGIN * doubt.looks:
                one.id, other.id = other.id, one.id
                one.colours, other.colours = other.colours, one.colours
            del self._doubts[one, other]


def _are_close(one: Track, other: Track) -> bool:
    """Whether their bounds share more than CLOSE of the smaller one, at about the same depth."""
    a, b = (track.bounds if track.look is None else track.look.bounds for track in (one, other))
    shared = float(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod())
    smaller = min(float((a[2:] - a[:2]).prod()), float((b[2:] - b[:2]).prod()))
    return shared > CLOSE * smaller and abs(float(one.position[2] - other.position[2])) < SAME_DEPTH
