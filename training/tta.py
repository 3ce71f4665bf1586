"""Test-time augmentation of the hand: the average of what the network sees in turned and scaled crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.metrics import procrustes_align
from training.datasets.sample import Sample
from training.predict import BATCH, Network, PlainPrediction, SampleCrop

SCALES = (0.7, 0.8, 0.9, 1.0, 1.1)
"""Sides of the crop in sides of the sample's box."""
DEGREES = (0, *(sign * turn for turn in range(10, 91, 10) for sign in (1, -1)))
"""Turns of the picture: none, and 10 to 90 degrees both ways."""
LOOKS = tuple(look for look in product(SCALES, DEGREES) if look != (1.0, 0))
"""All but the plain one: 94."""


@dataclass(frozen=True, slots=True)
class AveragedPrediction:
    """Ninety-six meshes of each sample in one: METRO's figures for FreiHAND with test-time augmentation.

    Every look at the sample, at each of `SCALES` and `DEGREES`, is moved, turned and scaled onto the plain one
    (Procrustes, by all vertices), which also undoes the turn of the picture. Then they are averaged together with the
    plain one, which so counts twice. A `training.predict.Predict`.

    Attributes:
        batch: crops that the network gets at once.
    """

    network: Network
    crop: SampleCrop
    batch: int = BATCH

    def __call__(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """See `training.predict.Predict`."""
        plain = PlainPrediction(self.network, self.crop)(samples)
        return np.stack([self._average(sample, mesh) for sample, mesh in zip(samples, plain, strict=True)])

    def _average(self, sample: Sample, plain: NDArray[np.float32]) -> NDArray[np.float32]:
        total = 2.0 * plain.astype(np.float64)  # itself, and the look at scale 1 without a turn, which is the same
        for start in range(0, len(LOOKS), self.batch):
            crops = np.stack([self.crop(sample, *look) for look in LOOKS[start : start + self.batch]])
            total += procrustes_align(self.network.infer(crops).vertices, plain).sum(axis=0)
        return (total / (len(LOOKS) + 2)).astype(np.float32)
