"""Where people and the camera stand in a clip: in view, apart from each other, and crossing where that is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from training.synth.actors import Actor
from training.synth.render import NEAR_M
from training.synth.views import View, ViewConfig, sample_view, yaw_rotation

STRIDE = 3
"""Every so manieth frame is looked at: a tenth of a second."""
_APART_M = 0.1
_SPREAD_M = 0.6
"""Of a group's places about its centre: the standard deviation for one more person; it grows with the root of them."""
_AT_ONCE = 5.0
"""So many times the truncation may be reached in one frame."""
_GAP_M = (0.7, 1.6)
"""From who is passed to who passes."""
_HIPS = 0.53
"""Of a standing person's stature."""


@dataclass(frozen=True, slots=True)
class Track:
    """One placed person over T frames, camera frame, metres.

    rotations (T, B, 3, 3), roots (T, 3) mid-hip, outline (T / STRIDE, M, 3); first: frame of the recording.
    """

    rotations: NDArray[np.float32]
    roots: NDArray[np.float64]
    outline: NDArray[np.float64]
    first: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A camera, people before it, and where the floor is: camera = floor @ turn.T + shift, the floor at y = 0."""

    view: View
    tracks: list[Track]
    turn: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def down(self) -> NDArray[np.float64]:
        """(3,) unit, gravity in the camera frame."""
        return self.turn[:, 1]


@dataclass(frozen=True, slots=True)
class _Walk:
    """A window of a recording, placed on the floor: yaw turns (3, 3), roots (T, 3), outline as in `Track`."""

    yaw: NDArray[np.float64]
    roots: NDArray[np.float64]
    outline: NDArray[np.float64]
    first: int


def place(
    actors: Sequence[Actor], rng: np.random.Generator, frames: int, view: ViewConfig, truncation: float, crossing: bool
) -> Placed | None:
    """One try at an arrangement; None when somebody leaves the view or gets into somebody else.

    Args:
        actors: everyone. With `crossing`, the second one walks by behind or in front of the first one.
        rng: source of randomness.
        frames: how many, at most the shortest recording's.
        view: ranges of cameras; a standing person's share of the height is that of the tallest one, at the centre.
        truncation: the share of a person's (frame, outline point) pairs that may lie outside of the image.
        crossing: whether somebody shall be hidden by somebody else in the middle of the clip. Whether that came out
            is for the caller to see.
    """
    walks = _crossing(actors[:2], rng, frames) if crossing else []
    walks += [_anywhere(actor, rng, frames, len(actors)) for actor in actors[len(walks) :]]
    if not _apart(walks):
        return None
    stature = max(actor.stature for actor in actors)
    camera = sample_view(rng, view, stature, _HIPS * stature)
    if crossing:  # the floor's z axis along the view
        ahead = camera.camera_from_world.T @ camera.root
        angle = math.atan2(ahead[0], ahead[2])
    else:
        angle = rng.uniform(-math.pi, math.pi)
    turn = camera.camera_from_world @ yaw_rotation(angle)
    shift = camera.root + _HIPS * stature * turn[:, 1]
    tracks = []
    for actor, walk in zip(actors, walks, strict=True):
        track = Track(
            rotations=(turn @ walk.yaw @ actor.motion.rotations[walk.first : walk.first + frames]).astype(np.float32),
            roots=walk.roots @ turn.T + shift,
            outline=walk.outline @ turn.T + shift,
            first=walk.first,
        )
        if not _in_view(track, camera, truncation):
            return None
        tracks.append(track)
    return Placed(camera, tracks, turn, shift)


def _window(actor: Actor, rng: np.random.Generator, frames: int) -> int:
    return int(rng.integers(len(actor) - frames + 1))


def _walk(actor: Actor, first: int, frames: int, angle: float, moment: int, at: NDArray[np.float64]) -> _Walk:
    """A window turned by `angle` about gravity and moved so that the hips are over `at` (x, z) in frame `moment`."""
    yaw, window = yaw_rotation(angle), slice(first, first + frames)
    path = actor.path[window] @ yaw.T
    path[:, [0, 2]] += at - path[moment][[0, 2]]
    outline = actor.outline[window][::STRIDE] @ yaw.T + path[::STRIDE, None]
    return _Walk(yaw, path, outline, first)


def _anywhere(actor: Actor, rng: np.random.Generator, frames: int, people: int) -> _Walk:
    """About the middle of the scene, one alone with the middle of the path exactly there."""
    walk = _walk(actor, _window(actor, rng, frames), frames, rng.uniform(-math.pi, math.pi), 0, np.zeros(2))
    at = rng.normal(0, _SPREAD_M * math.sqrt(people - 1), 2)
    move = np.insert(at - walk.roots[:, [0, 2]].mean(axis=0), 1, 0.0)
    return _Walk(walk.yaw, walk.roots + move, walk.outline + move, walk.first)


def _crossing(pair: Sequence[Actor], rng: np.random.Generator, frames: int) -> list[_Walk]:
    """At some moment one is behind the other, as the camera sees it that looks along z, and the second walks across."""
    companion, walker = pair
    moment = int(rng.uniform(0.25, 0.75) * frames)
    gap = np.array([0.0, rng.uniform(*_GAP_M) / 2]) * rng.choice((-1, 1))
    first = _window(walker, rng, frames)
    ahead, behind = (min(max(first + moment + step, 0), len(walker) - 1) for step in (STRIDE, -STRIDE))
    step = walker.path[ahead] - walker.path[behind]
    across = math.atan2(step[2], step[0])  # a turn by this angle leads along x
    angle = across + rng.choice((0.0, math.pi)) + rng.normal(0, 0.35)
    return [
        _walk(companion, _window(companion, rng, frames), frames, rng.uniform(-math.pi, math.pi), moment, -gap),
        _walk(walker, first, frames, angle, moment, gap),
    ]


def _apart(walks: Sequence[_Walk]) -> bool:
    """Whether everyone stays on their side of the middle between any two of them.

    Then nobody touches anybody, and painting by the distance of the hips from the camera, far ones first, is exact:
    the sides are the cells of a Voronoi diagram on the floor.
    """
    for a, b in combinations(walks, 2):
        between = (b.roots - a.roots)[::STRIDE, [0, 2]]
        distance = np.maximum(np.linalg.norm(between, axis=1), 1e-9)
        for walk, side in ((a, between), (b, -between)):
            towards = (walk.outline - walk.roots[::STRIDE, None])[:, :, [0, 2]]
            reach = np.einsum("tmi,ti->tm", towards, side / distance[:, None]).max(axis=1)
            if (reach > (distance - _APART_M) / 2).any():
                return False
    return True


def _in_view(track: Track, view: View, truncation: float) -> bool:
    points = track.outline.reshape(-1, 3)
    if points[:, 2].min() < 4 * NEAR_M:
        return False
    pixels = view.camera.project(points)
    outside = ((pixels < 0) | (pixels > (view.camera.width - 1, view.camera.height - 1))).any(axis=1)
    by_frame = outside.reshape(-1, track.outline.shape[1]).mean(axis=1)
    return bool(by_frame.mean() <= truncation and by_frame.max() <= _AT_ONCE * truncation)
