"""Whether one of two people really hides the other for a while."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.synth.actors import Actor
from training.synth.company import distance_along_floor, hidden_share
from training.synth.placing import STRIDE, Placed
from training.synth.stage import Posed, Stage

_HALF = 0.5
_COVERED = 0.4
"""Where the boxes share less than this of the smaller one, less than half is hidden."""
_CLEAR, _MOSTLY = 0.2, 0.5
"""Who is hidden by less than the first counts as clear: at the beginning, at the end, and in so much of the time."""


def hides(stage: Stage, actors: Sequence[Actor], placed: Placed, most: float, frames: tuple[float, float]) -> bool:
    """Whether one of the first two people hides more than half of the other for a time in a range, and else leaves it.

    Args:
        most: the share that has to be hidden once.
        frames: shortest and longest time; the other is looked at every `STRIDE` frames.
    """
    first, second = placed.tracks[:2]
    camera = placed.view.camera
    boxes = []
    for track in (first, second):
        pixels = camera.project(track.outline.reshape(-1, 3)).reshape(*track.outline.shape[:2], 2)
        boxes.append((pixels.min(axis=1), pixels.max(axis=1)))
    (low, high), (other_low, other_high) = boxes
    shared = np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0).prod(axis=1)
    smaller = np.minimum((high - low).prod(axis=1), (other_high - other_low).prod(axis=1))
    shares = []
    longest = run = 0
    for look, close in enumerate(shared > _COVERED * smaller):
        share = 0.0
        if close:
            frame = look * STRIDE
            (_, nearer), (_, farther) = sorted(
                zip((first, second), pose_all(stage, actors[:2], placed, frame), strict=True),
                key=lambda pair: distance_along_floor(pair[0].roots[frame], placed.down),
            )
            share = hidden_share(nearer, farther, stage, placed)
        run = run + 1 if share > _HALF else 0
        longest = max(longest, run)
        shares.append(share)
        if longest * STRIDE > frames[1] or shares[0] > _CLEAR:
            return False
    clear = np.array(shares) <= _CLEAR
    return longest * STRIDE >= frames[0] and max(shares) >= most and bool(clear[-1] and clear.mean() >= _MOSTLY)


def pose_all(stage: Stage, actors: Sequence[Actor], placed: Placed, frame: int) -> list[Posed]:
    """The first of the placed people, as many as there are `actors`, in one frame."""
    return [
        stage.pose(actor.identity, track.rotations[frame], track.roots[frame])
        for actor, track in zip(actors, placed.tracks, strict=False)
    ]
