"""Labelled clips: a fixed camera watches dressed people move; written as `metro_ros.core.clip` reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from metro_ros.core.clip import TRUTH_FILE, VIDEO_FILE
from metro_ros.core.errors import ConfigError, SourceError
from training.body import BodyBank
from training.mesh_spec import MeshSpec
from training.motion import Motion
from training.synth.actors import Actor, make_actor, walks
from training.synth.appearance import sample_appearance
from training.synth.backdrop import make_room
from training.synth.company import paint_company
from training.synth.crossing import hides, pose_all
from training.synth.furniture import Thing, furnish
from training.synth.light import sample_light
from training.synth.photograph import sample_look, take
from training.synth.placing import Placed, place
from training.synth.stage import Stage
from training.synth.views import ViewConfig

_ATTEMPTS = 60
_ATTEMPTS_AT_COMPANY = 600
"""Arrangements of several people: most end in each other, or out of view."""
_FARTHEST = (0.6, 0.25)
"""The smallest share of the configured nearness, of one person and of several: further away, nobody could be told in
the whole image."""
_WALKING_YEARS = 2.0
"""Company walks: who is younger acts alone, or is hidden behind everybody's knees."""
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
        people: in each clip.
        crossing: one walks by behind another, who hides more than half for a time in `hidden_s`, seconds, and
            `hidden_most` or more at some moment of it.
        occluders: things that stand before people.
    """

    frames: int = 300
    fps: float = 30.0
    truncation: float = 0.02
    noise_scale: float = 0.25
    people: int = 1
    crossing: bool = False
    hidden_s: tuple[float, float] = (0.2, 0.8)
    hidden_most: float = 0.7
    occluders: int = 0
    view: ViewConfig = field(
        default_factory=lambda: ViewConfig(
            camera_height_m=(0.4, 2.3), person_share=(0.35, 0.85), column_share=(0.25, 0.75), row_share=(0.4, 0.6)
        )
    )


def write_clip(
    bank: BodyBank,
    mesh: MeshSpec,
    motions: Sequence[Motion],
    rng: np.random.Generator,
    out: Path,
    config: ClipConfig,
) -> None:
    """Film `config.people` people, each by one of `motions`, and write clip.mp4, truth.npz and meta.json to `out`.

    Raises:
        ConfigError: no camera of the configured kind sees what it shall.
        SourceError: the video cannot be written.
    """
    stage = Stage(bank, mesh)
    old_enough = np.flatnonzero(bank.ages >= (_WALKING_YEARS if len(motions) > 1 else 0))
    identities = rng.choice(old_enough, len(motions), replace=len(motions) > len(old_enough)).tolist()
    actors = [make_actor(stage, who, motion) for who, motion in zip(identities, motions, strict=True)]
    # Before anybody is dressed: another wardrobe leaves everyone where they are.
    placed, things = _arrange(stage, actors, rng, config)
    appearances = [sample_appearance(rng, stage.regions, bank, identity) for identity in identities]
    room = make_room(rng, config.view.width, config.view.height).astype(np.float32) / 255.0
    look = sample_look(rng)
    look = replace(look, noise=look.noise * config.noise_scale, jpeg_quality=0)
    light = sample_light(rng)

    out.mkdir(parents=True, exist_ok=True)
    size = (config.view.width, config.view.height)
    writer = cv2.VideoWriter(str(out / VIDEO_FILE), cv2.VideoWriter.fourcc(*"mp4v"), config.fps, size)
    if not writer.isOpened():
        raise SourceError(f"cannot write {out / VIDEO_FILE}", expected="a video encoder in OpenCV", got="none")
    transforms, visible = [], []
    try:
        for frame in tqdm(range(len(placed.tracks[0].roots)), desc=out.name, unit="frame"):
            posed = pose_all(stage, actors, placed, frame)
            scene = room.copy()
            people = list(zip(posed, appearances, strict=True))
            visible.append(paint_company(scene, stage, people, things, placed, light))
            # Rooms and bodies are RGB; OpenCV writes BGR.
            writer.write(take(rng, scene, look)[:, :, ::-1])
            transforms.append([each.transforms for each in posed])
    finally:
        writer.release()
    np.savez_compressed(
        out / TRUTH_FILE,
        rest_vertices=bank.rest_vertices[identities],
        skin_indices=bank.skin_indices.astype(np.uint8),
        skin_weights=bank.skin_weights.astype(np.float16),
        bone_transforms=np.array(transforms, np.float32),
        visible=np.array(visible, np.float16),
        matrix=placed.view.camera.matrix,
        size=np.array(size, np.int32),
        fps=np.array(config.fps, np.float32),
    )
    played = [
        {
            "motion": actor.motion.name,
            "first_frame": track.first,
            "age_years": round(float(bank.ages[actor.identity]), 1),
        }
        for actor, track in zip(actors, placed.tracks, strict=True)
    ]
    meta = {"frames": len(visible), "people": played, "occluders": len(things)}
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _arrange(
    stage: Stage, actors: Sequence[Actor], rng: np.random.Generator, config: ClipConfig
) -> tuple[Placed, list[Thing]]:
    """People, camera and things; the clip is halved until a camera is found that keeps everyone in view.

    Tries at random, further and further away.
    """
    frames = min(config.frames, *(len(actor) for actor in actors))
    several = len(actors) > 1
    attempts = _ATTEMPTS_AT_COMPANY if several else _ATTEMPTS
    hidden_frames = (config.hidden_s[0] * config.fps, config.hidden_s[1] * config.fps)
    while True:
        for attempt in range(attempts):
            nearness = 1.0 - (1.0 - _FARTHEST[several]) * attempt / attempts
            low, high = (share * nearness for share in config.view.person_share)
            view = replace(config.view, person_share=(low, high))
            placed = place(actors, rng, frames, view, config.truncation, config.crossing)
            if placed is None or (
                config.crossing and not hides(stage, actors, placed, config.hidden_most, hidden_frames)
            ):
                continue
            things = furnish(rng, placed, config.occluders)
            if things is not None:
                return placed, things
        if frames <= _SHORTEST or config.crossing:
            raise ConfigError(
                f"no camera sees {', '.join(actor.motion.name for actor in actors)}",
                expected="somebody who walks by behind somebody" if config.crossing else "motions that stay in place",
                got=f"{frames} frames",
            )
        frames = max(_SHORTEST, frames // 2)


def write_clips(
    bank: BodyBank, mesh: MeshSpec, motions: list[Motion], count: int, seed: int, out: Path, config: ClipConfig
) -> None:
    """`count` clips to out/clip_0000 and on, taking the recordings in a random order; clips that exist are kept.

    Raises ConfigError when somebody shall cross and no recording walks, and as `write_clip` does.
    """
    order = np.random.default_rng(seed).permutation(len(motions))
    shuffled = [motions[index] for index in order]
    for number in range(count):
        folder = out / f"clip_{number:04d}"
        if (folder / "meta.json").exists():
            continue
        rng = np.random.default_rng([seed, number])
        write_clip(bank, mesh, cast(shuffled, number, config), rng, folder, config)


def cast(motions: Sequence[Motion], number: int, config: ClipConfig) -> list[Motion]:
    """The recordings of clip `number`, one a person, others before the same again; in a crossing the second one walks.

    Raises ConfigError when none does.
    """
    start = number * config.people
    chosen = [motions[(start + person) % len(motions)] for person in range(config.people)]
    if config.crossing:
        walkers = [motion for motion in motions if walks(motion)]
        if not walkers:
            raise ConfigError("nobody crosses", expected="a recording that walks", got=f"{len(motions)} that do not")
        chosen[1] = walkers[number % len(walkers)]
        if chosen[0] is chosen[1]:
            chosen[0] = motions[(start + 1) % len(motions)]
    return chosen
