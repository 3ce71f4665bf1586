"""Labelled clips of a hand: a fixed camera watches it move from pose to pose; as `metro_ros.core.clip` reads them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp
from tqdm import tqdm

from metro_ros.core.camera import Camera
from metro_ros.core.clip import TRUTH_FILE, VIDEO_FILE
from metro_ros.core.errors import ConfigError, SourceError
from training.anny_hand import Hand
from training.mesh_spec import MeshSpec
from training.synth.backdrop import make_room
from training.synth.hand_looks import find_hand_regions, sample_hand_look
from training.synth.hand_poses import HandPose, HandPoseSampler
from training.synth.hand_stage import NEAREST_M, Grip, HandStage
from training.synth.hands import HandSampleConfig, draw_camera, draw_wrist
from training.synth.light import sample_light
from training.synth.photograph import sample_look, take

_ATTEMPTS = 60


@dataclass(frozen=True, slots=True)
class HandClipConfig:
    """How clips are filmed.

    Attributes:
        frames: of each clip.
        fps: frames a second.
        key_frames: from one pose to the next, drawn anew each time.
        turn_deg: how far the hand turns from one to the next, at most; the first orientation is any.
        wander: how far it moves, in its own lengths, one standard deviation along each axis.
        noise_scale: over the noise of training images: video codecs spend their bits on it.
        look: of hands and cameras, as for training; nearer to the centre, and large enough to be found.
    """

    frames: int = 150
    fps: float = 30.0
    key_frames: tuple[int, int] = (20, 50)
    turn_deg: float = 70.0
    wander: float = 0.3
    noise_scale: float = 0.25
    look: HandSampleConfig = field(default_factory=lambda: HandSampleConfig(hand_share=(0.3, 0.7), place=(0.35, 0.65)))


class _Key(NamedTuple):
    """What the hand passes through. turn: camera from rest; wrist: of the forearm; middle (3,) metres, camera frame."""

    frame: int
    pose: HandPose
    turn: Rotation
    wrist: Rotation
    middle: NDArray[np.float64]


class _Film(NamedTuple):
    """A grip, and where the wrist is (3,), for every frame, before one camera."""

    camera: Camera
    grips: list[Grip]
    wrists: list[NDArray[np.float64]]


def write_hand_clips(
    hand: Hand, mesh: MeshSpec, count: int, seed: int, out: Path, config: HandClipConfig | None = None
) -> None:
    """`count` clips to out/clip_0000 and on; clips that exist are kept.

    Raises:
        ConfigError: no camera of the configured kind keeps the hand in view.
        SourceError: a video cannot be written.
    """
    config = config or HandClipConfig()
    stage = HandStage(hand, mesh, HandPoseSampler(hand, mesh, seed, config.look.pose))
    for number in range(count):
        folder = out / f"clip_{number:04d}"
        if not (folder / "meta.json").exists():
            _write_clip(stage, np.random.default_rng([seed, number]), folder, config)


def _write_clip(stage: HandStage, rng: np.random.Generator, out: Path, config: HandClipConfig) -> None:
    hand, look = stage.hand, config.look
    dressed = sample_hand_look(rng, find_hand_regions(hand))
    film = _direct(stage, rng, config)
    room = make_room(rng, look.width, look.height).astype(np.float32) / 255.0
    lens = sample_look(rng)
    lens = replace(lens, noise=lens.noise * config.noise_scale, jpeg_quality=0)
    light = sample_light(rng)

    out.mkdir(parents=True, exist_ok=True)
    size = (look.width, look.height)
    writer = cv2.VideoWriter(str(out / VIDEO_FILE), cv2.VideoWriter.fourcc(*"mp4v"), config.fps, size)
    if not writer.isOpened():
        raise SourceError(f"cannot write {out / VIDEO_FILE}", expected="a video encoder in OpenCV", got="none")
    transforms = []
    try:
        for grip, wrist in tqdm(zip(film.grips, film.wrists, strict=True), total=len(film.grips), desc=out.name):
            posed = stage.pose(grip, wrist)
            picture = room.copy()
            scene = stage.dress(posed, grip, dressed, None, np.zeros((1, 3)))
            stage.paint(picture, scene, film.camera.matrix, light)
            writer.write(take(rng, picture, lens)[:, :, ::-1])  # pictures are RGB; OpenCV writes BGR
            transforms.append(posed.transforms)
    finally:
        writer.release()
    identity = film.grips[0].identity
    np.savez_compressed(
        out / TRUTH_FILE,
        rest_vertices=hand.rest_vertices[identity][None],
        skin_indices=hand.skin_indices.astype(np.uint8),
        skin_weights=hand.skin_weights.astype(np.float16),
        bone_transforms=np.stack(transforms)[:, None],
        visible=np.ones((len(transforms), 1), np.float16),  # nothing is before it, and it stays in view
        matrix=film.camera.matrix,
        size=np.array(size, np.int32),
        fps=np.array(config.fps, np.float32),
    )
    meta = {"frames": len(transforms), "age_years": float(hand.ages[identity])}
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _direct(stage: HandStage, rng: np.random.Generator, config: HandClipConfig) -> _Film:
    """A hand, a camera and a movement that stays in view. Raises ConfigError when none is found."""
    identity = int(rng.integers(len(stage.hand)))
    length_m = stage.length_m * float(stage.sizes[identity])
    forearm_m = float(rng.uniform(*config.look.forearm_m))
    for _ in range(_ATTEMPTS):
        camera, middle = draw_camera(rng, config.look, length_m)
        keys = _draw_keys(stage, rng, config, middle, length_m)
        grips, wrists = _between(stage, keys, identity, forearm_m, config.frames)
        if _in_view(stage, grips, wrists, camera):
            return _Film(camera, grips, wrists)
    raise ConfigError("no camera keeps the hand in view", expected="a smaller hand_share", got=config.look.hand_share)


def _draw_keys(
    stage: HandStage, rng: np.random.Generator, config: HandClipConfig, middle: NDArray[np.float64], length_m: float
) -> list[_Key]:
    keys: list[_Key] = []
    frame, turn = 0, Rotation.random(random_state=rng)
    while not keys or keys[-1].frame < config.frames - 1:
        place = middle + rng.normal(0.0, config.wander, 3) * length_m
        keys.append(_Key(frame, stage.poses.sample(rng), turn, draw_wrist(rng, stage.hand, config.look), place))
        frame += int(rng.integers(config.key_frames[0], config.key_frames[1] + 1))
        axis = rng.normal(size=3)
        angle = np.radians(config.turn_deg * rng.random())
        turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)) * turn
    return keys


def _between(
    stage: HandStage, keys: list[_Key], identity: int, forearm_m: float, frames: int
) -> tuple[list[Grip], list[NDArray[np.float64]]]:
    """Every frame's grip and wrist, resting for a moment at each key."""
    grips, wrists = [], []
    for first, second in itertools.pairwise(keys):
        turns = Slerp((0.0, 1.0), Rotation.concatenate([first.turn, second.turn]))
        bends = Slerp((0.0, 1.0), Rotation.concatenate([first.wrist, second.wrist]))
        for frame in range(first.frame, min(second.frame, frames)):
            part = (frame - first.frame) / (second.frame - first.frame)
            part = part * part * (3.0 - 2.0 * part)
            grip = Grip(
                identity, first.pose.towards(second.pose, part), turns(part).as_matrix(), bends(part), forearm_m
            )
            posed = stage.pose(grip, np.zeros(3))
            middle = 0.5 * (posed.vertices.min(axis=0) + posed.vertices.max(axis=0))
            grips.append(grip)
            wrists.append(first.middle + part * (second.middle - first.middle) - middle)
    return grips, wrists


def _in_view(stage: HandStage, grips: list[Grip], wrists: list[NDArray[np.float64]], camera: Camera) -> bool:
    """Whether the hand is before the camera and inside of the image, in every fifth frame."""
    for grip, wrist in zip(grips[::5], wrists[::5], strict=True):
        posed = stage.pose(grip, wrist)
        if posed.vertices[:, 2].min() < 1.5 * NEAREST_M:
            return False
        pixels = camera.project(posed.vertices)
        if (pixels < 0).any() or (pixels > [camera.width - 1, camera.height - 1]).any():
            return False
    return True
