"""From samples of a dataset to the meshes that a network sees in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.crop import Box
from metro_ros.core.engines import Output
from training.datasets.crops import CropStyle, crop_pixels
from training.datasets.sample import Dataset, Sample, SampleError

BATCH = 32
"""Crops a network gets at once."""

Predict = Callable[[Sequence[Sample]], NDArray[np.float32]]
"""N samples → (N, V, 3) float32, the finest meshes; metres, root-relative, axes as the bundle's camera_frame says.

Raises SampleError when one of them cannot be cropped.
"""


class Network(Protocol):
    """What predicts; `metro_ros.core.engines.Engine` is one."""

    def infer(self, crops: NDArray[np.uint8]) -> Output:
        """Crops uint8 (N, S, S, 3) RGB → N joints, vertices, cameras."""


@dataclass(frozen=True, slots=True)
class SampleCrop:
    """What the network is shown of a sample. size: pixels a side; style: see `training.datasets.crops`."""

    size: int
    style: CropStyle = "paper"

    def __call__(self, sample: Sample, scale: float = 1.0, rotation_deg: float = 0.0) -> NDArray[np.uint8]:
        """The sample's box, its side times `scale`, the picture turned counter-clockwise: uint8 (size, size, 3) RGB.

        Raises SampleError when the box cannot be cropped.
        """
        box = Box(sample.box.cx, sample.box.cy, sample.box.size * scale)
        pixels = crop_pixels(sample.image, box, rotation_deg, self.size, self.style)
        return pixels.round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class PlainPrediction:
    """One look at each sample, nothing augmented. A `Predict`."""

    network: Network
    crop: SampleCrop

    def __call__(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """See `Predict`."""
        return self.network.infer(np.stack([self.crop(sample) for sample in samples])).vertices


class Row(NamedTuple):
    """A row of a dataset: its sample and (V, 3) mesh, or neither, but why it could not be used."""

    number: int
    sample: Sample | None
    vertices: NDArray[np.float32] | None
    problem: str | None


def predict_dataset(dataset: Dataset, predict: Predict, batch: int = BATCH) -> Iterator[Row]:
    """Every row of the dataset, in its order, under a progress bar; batch: samples that `predict` gets at once."""
    with tqdm(total=len(dataset), desc=dataset.name, unit="sample") as bar:
        for start in range(0, len(dataset), batch):
            rows = [_read(dataset, index) for index in range(start, min(start + batch, len(dataset)))]
            meshes = iter(_predict(predict, [row for row in rows if isinstance(row, Sample)]))
            for index, sample in enumerate(rows, start):
                outcome = next(meshes) if isinstance(sample, Sample) else sample
                if isinstance(outcome, SampleError):
                    yield Row(index, None, None, str(outcome))
                elif isinstance(sample, Sample):
                    yield Row(index, sample, outcome, None)
            bar.update(len(rows))


def _read(dataset: Dataset, index: int) -> Sample | SampleError:
    try:
        return dataset[index]
    except SampleError as error:
        return error


def _predict(predict: Predict, samples: Sequence[Sample]) -> list[NDArray[np.float32] | SampleError]:
    """A mesh for every sample; where one of a batch cannot be cropped, they are taken one by one to find it."""
    if not samples:
        return []
    try:
        return list(predict(samples))
    except SampleError as error:
        return [error] if len(samples) == 1 else [each for sample in samples for each in _predict(predict, [sample])]
