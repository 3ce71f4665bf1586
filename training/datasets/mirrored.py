"""A dataset of left hands as one of right hands, which is what the network knows."""

from __future__ import annotations

from training.datasets.prepare import mirror_sample
from training.datasets.sample import Dataset, Sample


class Mirrored:
    """Every sample of another dataset as a mirror shows it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.name, self.joint_names = dataset, f"{dataset.name}, mirrored", dataset.joint_names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Raises SampleError when the row cannot be used."""
        return mirror_sample(self.dataset[index])
