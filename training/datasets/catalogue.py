"""Datasets by name, as a command line gives them: KIND:PATH or KIND:PATH@WEIGHT, left-KIND for left hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metro_ros.core.errors import ConfigError
from training.datasets.coco import CocoKeypoints
from training.datasets.freihand import FreiHand
from training.datasets.metro_tsv import MetroTsv
from training.datasets.mirrored import Mirrored
from training.datasets.mixture import Source
from training.datasets.sample import Dataset
from training.datasets.shards import ShardDataset
from training.datasets.threedpw import ThreeDPW
from training.mesh_spec import MeshSpec

LEFT = "left-"
KINDS: dict[str, Callable[[Path, MeshSpec], Dataset]] = {
    "shards": lambda path, mesh: ShardDataset(path),
    "synth": lambda path, mesh: _stream(path, mesh),
    "tsv": lambda path, mesh: MetroTsv(path, "hand" if is_hand(mesh) else "body"),
    "freihand": lambda path, mesh: FreiHand(path),
    "3dpw": lambda path, mesh: ThreeDPW(path),
    "3dpw-validation": lambda path, mesh: ThreeDPW(path, "validation"),
    "coco": lambda path, mesh: CocoKeypoints(path, coco_images(path)),
}
"""Kind -> what opens it for a mesh; training splits unless they say otherwise."""


def _stream(path: Path, mesh: MeshSpec) -> Dataset:
    from training.synth.stream import SyntheticStream  # the renderer is no business of other sets

    return SyntheticStream(path, mesh)


def coco_images(annotations: Path) -> Path:
    """Where COCO's archives put the images of person_keypoints_X.json: X beside it, or beside its folder."""
    name = annotations.stem.rpartition("_")[2]
    beside = annotations.parent / name
    return beside if beside.is_dir() else annotations.parent.parent / name


def is_hand(mesh: MeshSpec) -> bool:
    """Whether the mesh is of a hand."""
    return "Wrist" in mesh.joint_names


def open_source(text: str, mesh: MeshSpec) -> Source:
    """One dataset of a mix; of left hands mirrored to right ones, if its kind begins with `left-`.

    Raises ConfigError for a kind or weight that is none, SourceError for a bad folder.
    """
    named, colon, rest = text.partition(":")
    kind = named.removeprefix(LEFT)
    if kind not in KINDS or not colon:
        raise ConfigError("a dataset", expected=f"KIND:PATH, KIND one of {', '.join(KINDS)}", got=text)
    path, at, weight = rest.rpartition("@")
    if not at:
        path, weight = rest, "1"
    try:
        share = float(weight)
    except ValueError as error:
        raise ConfigError("the weight of a dataset", expected="a number after @", got=text) from error
    dataset = KINDS[kind](Path(path), mesh)
    if named == kind:
        return Source(dataset, share)
    if not is_hand(mesh):
        raise ConfigError(f"the dataset {text}", expected=f"a hand, for {LEFT}", got=mesh.name)
    return Source(Mirrored(dataset), share)
