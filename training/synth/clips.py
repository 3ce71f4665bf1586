"""Labelled clips: a fixed camera watches one dressed person move; written as `metro_ros.core.clip` reads them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.clip import TRUTH_FILE, VIDEO_FILE
from metro_ros.core.errors import ConfigError, SourceError
from training.body import BodyBank
from training.mesh_spec import MeshSpec
from training.motion import Motion
from training.synth.appearance import sample_appearance
from training.synth.backdrop import make_room
from training.synth.light import sample_light
from training.synth.photograph import sample_look, take
from training.synth.render import NEAR_M
from training.synth.stage import Stage
from training.synth.views import View, ViewConfig, sample_view, yaw_rotation

_ATTEMPTS = 60
_FARTHEST = 0.6
"""The smallest share of the configured nearness: further away, nobody could be told in the whole image."""
_SHORTEST = 15
"""Frames of the shortest clip of a recording that walks out of every longer one's view."""


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """How clips are filmed.

    Attributes:
        frames: at most so many; fewer where the recording is shorter.
        fps: frames a second, the motions' own rate.
        truncation: the share of (frame, joint) pairs that may lie outside of the image.
        noise_scale: over the noise of training images: video codecs spend their bits on it.
        view: as for training; the hips start nearer to the centre, since people walk.
    """

    frames: int = 300
    fps: float = 30.0
    truncation: float = 0.02
    noise_scale: float = 0.25
    view: ViewConfig = field(
        default_factory=lambda: ViewConfig(
            camera_height_m=(0.4, 2.3), person_share=(0.35, 0.85), column_share=(0.25, 0.75), row_share=(0.4, 0.6)
        )
    )


def write_clip(
    bank: BodyBank, mesh: MeshSpec, motion: Motion, rng: np.random.Generator, out: Path, config: ClipConfig
) -> None:
    """Film one recording and write clip.mp4, truth.npz and meta.json to the folder `out`.

    Raises:
        ConfigError: no camera of the configured kind sees the whole recording.
        SourceError: the video cannot be written.
    """
    stage = Stage(bank, mesh)
    identity = int(rng.integers(len(bank)))
    appearance = sample_appearance(rng, stage.regions, bank, identity)
    first, rotations, roots, view = _film(stage, identity, motion, rng, config)
    room = make_room(rng, config.view.width, config.view.height).astype(np.float32) / 255.0
    look = sample_look(rng)
    look = replace(look, noise=look.noise * config.noise_scale, jpeg_quality=0)
    light = sample_light(rng)

    out.mkdir(parents=True, exist_ok=True)
    size = (config.view.width, config.view.height)
    writer = cv2.VideoWriter(str(out / VIDEO_FILE), cv2.VideoWriter.fourcc(*"mp4v"), config.fps, size)
    if not writer.isOpened():
        raise SourceError(f"cannot write {out / VIDEO_FILE}", expected="a video encoder in OpenCV", got="none")
    transforms = []
    try:
        for turned, root in tqdm(zip(rotations, roots, strict=True), total=len(roots), desc=out.name, unit="frame"):
            posed = stage.pose(identity, turned, root)
            scene = room.copy()
            down = view.camera_from_world[:, 1]
            stage.paint(scene, posed, appearance, view.camera.matrix, down, light)
            # Rooms and bodies are RGB; OpenCV writes BGR.
            writer.write(take(rng, scene, look)[:, :, ::-1])
            transforms.append(posed.transforms)
    finally:
        writer.release()
    np.savez_compressed(
        out / TRUTH_FILE,
        rest_vertices=bank.rest_vertices[identity],
        skin_indices=bank.skin_indices.astype(np.uint8),
        skin_weights=bank.skin_weights.astype(np.float16),
        bone_transforms=np.stack(transforms),
        matrix=view.camera.matrix,
        size=np.array(size, np.int32),
        fps=np.array(config.fps, np.float32),
    )
    meta = {"motion": motion.name, "first_frame": first, "frames": len(roots), "age_years": float(bank.ages[identity])}
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _film(
    stage: Stage, identity: int, motion: Motion, rng: np.random.Generator, config: ClipConfig
) -> tuple[int, NDArray[np.float32], NDArray[np.float64], View]:
    """The longest window that a camera keeps in view, halved until one does: its first frame, and `_place_camera`'s."""
    frames = min(config.frames, len(motion))
    while True:
        first = int(rng.integers(len(motion) - frames + 1))
        window = slice(first, first + frames)
        placed = _place_camera(stage, identity, motion.rotations[window], motion.root[window], rng, config)
        if placed is not None:
            return first, *placed
        if frames <= _SHORTEST:
            raise ConfigError(
                f"no camera sees {motion.name}", expected="a motion that stays in one place", got=f"{frames} frames"
            )
        frames = max(_SHORTEST, frames // 2)


def _place_camera(
    stage: Stage,
    identity: int,
    rotations: NDArray[np.float32],
    path: NDArray[np.float32],
    rng: np.random.Generator,
    config: ClipConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float64], View] | None:
    """A camera that keeps the person in view; rotations (T, B, 3, 3) and hips (T, 3) in its frame. None: there is none.

    Tries cameras at random, further and further away.
    """
    rest = stage.bank.rest_vertices[identity]
    stature = float(np.ptp(rest[:, 1]))
    grown = stature / float(np.ptp(stage.bank.template[:, 1]))  # a child takes a child's steps
    walked = (path - path.mean(axis=0)) * grown
    for attempt in range(_ATTEMPTS):
        nearness = 1.0 - (1.0 - _FARTHEST) * attempt / _ATTEMPTS
        low, high = (share * nearness for share in config.view.person_share)
        view = sample_view(rng, replace(config.view, person_share=(low, high)), stature, 0.53 * stature)
        turn = view.camera_from_world @ yaw_rotation(rng.uniform(-math.pi, math.pi))
        roots = view.root + walked @ turn.T
        turned = (turn @ rotations).astype(np.float32)
        if _in_view(stage, identity, turned, roots, view, config):
            return turned, roots, view
    return None


def _in_view(
    stage: Stage,
    identity: int,
    rotations: NDArray[np.float32],
    roots: NDArray[np.float64],
    view: View,
    config: ClipConfig,
) -> bool:
    outside, total = 0, 0
    for frame in range(0, len(roots), 10):
        posed = stage.pose(identity, rotations[frame], roots[frame])
        if posed.vertices[:, 2].min() < 4 * NEAR_M:
            return False
        pixels = view.camera.project(posed.joints)
        inside = ((pixels > 0) & (pixels < [config.view.width - 1, config.view.height - 1])).all(axis=1)
        outside, total = outside + int((~inside).sum()), total + len(pixels)
    return outside <= config.truncation * total


def write_clips(
    bank: BodyBank, mesh: MeshSpec, motions: list[Motion], count: int, seed: int, out: Path, config: ClipConfig
) -> None:
    """`count` clips to out/clip_0000 and on, taking the recordings in a random order; clips that exist are kept."""
    order = np.random.default_rng(seed).permutation(len(motions))
    for number in range(count):
        folder = out / f"clip_{number:04d}"
        if (folder / "meta.json").exists():
            continue
        rng = np.random.default_rng([seed, number])
        write_clip(bank, mesh, motions[order[number % len(order)]], rng, folder, config)
