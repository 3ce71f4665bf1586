"""Several datasets as one: prepared examples by position, and batches that say which of their labels exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.augment import AugmentConfig
from training.datasets.crops import CropStyle
from training.datasets.joints import JointSelection
from training.datasets.order import InTurn, MixOrder
from training.datasets.prepare import Example, prepare
from training.datasets.sample import Dataset, Sample, SampleError
from training.masking import sample_token_mask
from training.mesh_spec import MeshSpec

PROBES = 20
"""Rows of a dataset that are looked at first, spread over it, for which labels it has; a label that none of them has is
left out of the mix. And rows tried in place of a damaged one."""


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset of a mix and its share, of any positive scale."""

    dataset: Dataset
    weight: float = 1.0


class Batch(NamedTuple):
    """N examples. A label that no dataset of the mix has is None; one that a sample lacks is 0 there.

    Attributes:
        image: (N, S, S, 3) float32 RGB in [0, 255].
        keypoints: (N, J, 2) crop coordinates in [-1, 1]. keypoint_confidence: (N, J).
        joints: (N, J, 3) metres. joint_confidence: (N, J). has_joints: (N,).
        vertices: (N, V, 3) metres, of one level of the mesh, or None. has_vertices: (N,).
        pose: (N, P) radians, or None. betas: (N, 10), or None. has_pose: (N,).
        mask: (N, D, D) share of the person, or None. surface: (N, 3, D, D) metres, or None. has_dense: (N,).
        person: (N,) 0 for images without anyone.
        token_mask: (N, T, 1), 0 where masked vertex modelling hides a token.
        first: the position of the first example.
        skipped: rows that could not be used, "key: reason"; others took their places.
    """

    image: Tensor
    keypoints: Tensor
    keypoint_confidence: Tensor
    joints: Tensor
    joint_confidence: Tensor
    has_joints: Tensor
    vertices: Tensor | None
    has_vertices: Tensor
    pose: Tensor | None
    betas: Tensor | None
    has_pose: Tensor
    mask: Tensor | None
    surface: Tensor | None
    has_dense: Tensor
    person: Tensor
    token_mask: Tensor
    first: int
    skipped: tuple[str, ...] = ()


class Item(NamedTuple):
    """What one position gave."""

    position: int
    example: Example
    token_mask: Tensor
    skipped: tuple[str, ...]


class Mixture(TorchDataset[Item]):
    """Prepared examples of weighted datasets; the same seed and position give the same example, in any process.

    Args:
        sources: datasets and their weights.
        mesh: names the joints, and has a level of as many vertices as the samples.
        config: how samples change.
        style: see `training.datasets.prepare`.
        size: S, the crop's side in pixels.
        pose_size: P, of the model that turns poses into meshes; None leaves poses out.
        in_turn: every row once, one dataset after the other, whatever the weights; else a mix without end.
        mask_ratio: of masked vertex modelling; see `training.masking`.
        seed: of order, change and masking.

    Raises:
        ConfigError: the labels of a dataset do not fit the mesh or each other.
        SourceError: a dataset has no usable row among those looked at.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mesh: MeshSpec,
        config: AugmentConfig,
        style: CropStyle,
        size: int,
        pose_size: int | None = None,
        *,
        in_turn: bool = False,
        mask_ratio: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.sources, self.mesh, self.config, self.style = tuple(sources), mesh, config, style
        self.size, self.mask_ratio, self.seed = size, mask_ratio, seed
        sizes = [len(source.dataset) for source in sources]
        mixed = MixOrder(sizes, [source.weight for source in sources], seed)
        self.order: MixOrder | InTurn = InTurn(sizes) if in_turn else mixed
        self.selections = [JointSelection.between(s.dataset.joint_names, mesh.joint_names) for s in sources]
        self.pose_size = pose_size
        probes = [sample for source in sources for sample in _probe(source.dataset)]
        self.vertex_count = _one_of("vertices", [None if p.vertices is None else len(p.vertices) for p in probes])
        if self.vertex_count is not None and self.vertex_count not in mesh.level_sizes:
            expected = " or ".join(map(str, mesh.level_sizes))
            raise ConfigError(f"vertices of the datasets for {mesh.name}", expected=expected, got=self.vertex_count)
        self.dense_size = _one_of("dense", [None if p.dense is None else len(p.dense.mask) for p in probes])

    def __len__(self) -> int:
        """Rows of all datasets together: what an epoch of one dataset is."""
        return sum(self.order.sizes)

    def __getitem__(self, position: int) -> Item:
        """The example at `position`, any number from 0. A row that cannot be used gives its place to another.

        Raises:
            SourceError: none of `PROBES` rows could be used.
        """
        skipped: list[str] = []
        for attempt in range(PROBES):
            dataset, row = self.order(position)
            if attempt:
                row = int(np.random.default_rng([self.seed, 3, position, attempt]).integers(self.order.sizes[dataset]))
            try:
                example = self._prepare(dataset, row, position)
            except SampleError as error:
                skipped.append(str(error))
                continue
            return Item(position, example, self._token_mask(position), tuple(skipped))
        name = self.sources[dataset].dataset.name
        raise SourceError(f"{name} is unusable", expected="readable rows", got=f"{PROBES} damaged ones: {skipped[-1]}")

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack examples; for a DataLoader's `collate_fn`."""
        examples = [item.example for item in items]

        def stack(field: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(example, field) for example in examples]))

        def stack_known(field: str, *shape: int | None) -> Tensor | None:
            return _stack_or_zero([getattr(example, field) for example in examples], shape)

        return Batch(
            image=stack("image"),
            keypoints=stack("keypoints"),
            keypoint_confidence=stack("keypoint_confidence"),
            joints=stack("joints"),
            joint_confidence=stack("joint_confidence"),
            has_joints=stack("has_joints"),
            vertices=stack_known("vertices", self.vertex_count, 3),
            has_vertices=stack("has_vertices"),
            pose=stack_known("pose", self.pose_size),
            betas=stack_known("betas", None if self.pose_size is None else 10),
            has_pose=stack("has_pose"),
            mask=stack_known("mask", self.dense_size, self.dense_size),
            surface=stack_known("surface", 3, self.dense_size, self.dense_size),
            has_dense=stack("has_dense"),
            person=stack("person"),
            token_mask=torch.stack([item.token_mask for item in items]),
            first=items[0].position,
            skipped=tuple(row for item in items for row in item.skipped),
        )

    def _prepare(self, dataset: int, row: int, position: int) -> Example:
        sample = self.sources[dataset].dataset[row]
        sample = self._known(sample)
        rng = np.random.default_rng([self.seed, 4, position])
        return prepare(sample, self.selections[dataset], self.config, self.style, self.size, rng)

    def _known(self, sample: Sample) -> Sample:
        """Without labels that the mix has no use for. Raises SampleError for one of another size than the others'."""
        if self.pose_size is None:
            sample = replace(sample, pose=None, betas=None)
        if self.vertex_count is None:
            sample = replace(sample, vertices=None)
        if self.dense_size is None:
            sample = replace(sample, dense=None)
        dense = None if sample.dense is None else sample.dense.mask
        for field, known, label in (
            ("vertices", self.vertex_count, sample.vertices),
            ("pose", self.pose_size, sample.pose),
            ("dense", self.dense_size, dense),
        ):
            if label is not None and len(label) != known:
                raise SampleError(f"{sample.key}: {field}", expected=f"{known}, as in other rows", got=len(label))
        return sample

    def _token_mask(self, position: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, 5, position]).integers(2**62)))
        joints, coarse = self.mesh.joint_count, self.mesh.level_sizes[0]
        return sample_token_mask(1, joints, coarse, self.mask_ratio, generator=generator)[0]


def _probe(dataset: Dataset) -> list[Sample]:
    """Usable rows among `PROBES` that are spread over the whole set."""
    samples, reason = [], "no rows"
    for row in np.unique(np.linspace(0, len(dataset) - 1, PROBES).astype(int)):
        try:
            samples.append(dataset[int(row)])
        except SampleError as error:
            reason = str(error)
    if not samples:
        raise SourceError(f"{dataset.name} is unusable", expected=f"a readable row in {PROBES}", got=reason)
    return samples


def _one_of(what: str, counts: Sequence[int | None]) -> int | None:
    known = {count for count in counts if count is not None}
    if len(known) > 1:
        raise ConfigError(f"{what} of the datasets in a mix", expected="the same number in all", got=sorted(known))
    return known.pop() if known else None


def _stack_or_zero(arrays: Sequence[NDArray[np.float32] | None], shape: tuple[int | None, ...]) -> Tensor | None:
    if None in shape:
        return None
    blank = np.zeros([length or 0 for length in shape], np.float32)
    return torch.from_numpy(np.stack([blank if array is None else array for array in arrays]))
