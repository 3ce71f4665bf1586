"""Stand-ins for the tests of evaluation: datasets from lists, and a network that reads how its crop was turned."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.crop import Box
from metro_ros.core.engines import Output
from training.datasets.sample import Sample, SampleError


class ListDataset:
    """Samples from a list; None is a damaged row."""

    def __init__(self, samples: Sequence[Sample | None], joint_names: Sequence[str], name: str = "listed") -> None:
        self.samples, self.joint_names, self.name = samples, tuple(joint_names), name

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if sample is None:
            raise SampleError(f"row {index}", expected="a sample", got="damage")
        return sample


def make_sample(
    joints: NDArray | None = None,
    *,
    joint_count: int = 14,
    image: NDArray[np.uint8] | None = None,
    box: Box | None = None,
    confidence: NDArray | None = None,
    vertices: NDArray | None = None,
    pose: NDArray | None = None,
    key: str = "sample",
) -> Sample:
    """A sample with these labels and no others."""
    count = joint_count if joints is None else len(joints)
    known = np.zeros(count) if joints is None else np.ones(count)
    return Sample(
        key=key,
        image=np.zeros((8, 8, 3), np.uint8) if image is None else image,
        box=box or Box(3.5, 3.5, 8.0),
        keypoints_px=np.zeros((count, 2), np.float32),
        keypoint_confidence=np.zeros(count, np.float32),
        joints=np.zeros((count, 3), np.float32) if joints is None else joints.astype(np.float32),
        joint_confidence=(known if confidence is None else confidence).astype(np.float32),
        vertices=None if vertices is None else vertices.astype(np.float32),
        pose=None if pose is None else pose.astype(np.float32),
        betas=None if pose is None else np.zeros(10, np.float32),
    )


class CompassNetwork:
    """Answers with `mesh` turned and scaled as the picture is: it sees where a bright disc lies from the middle.

    Attributes:
        angles_deg: of every crop so far, counter-clockwise as one sees it.
        spreads: distance of the disc from the middle in every crop so far, pixels.
        batches: sizes of the batches so far.
    """

    def __init__(self, mesh: NDArray[np.float32], joint_count: int = 21) -> None:
        self.mesh, self.joint_count = mesh, joint_count
        self.angles_deg: list[float] = []
        self.spreads: list[float] = []
        self.batches: list[int] = []

    def infer(self, crops: NDArray[np.uint8]) -> Output:
        self.batches.append(len(crops))
        meshes = [self._answer(crop) for crop in crops]
        count = len(crops)
        return Output(
            np.zeros((count, self.joint_count, 3), np.float32),
            np.stack(meshes).astype(np.float32),
            np.ones((count, 3), np.float32),
            None,
        )

    def _answer(self, crop: NDArray[np.uint8]) -> NDArray[np.float64]:
        size = crop.shape[0]
        grid = np.arange(size) - (size - 1) / 2
        mass = crop.astype(np.float64).sum(axis=2)
        x, y = (mass.sum(axis=0) * grid).sum() / mass.sum(), (mass.sum(axis=1) * grid).sum() / mass.sum()
        angle = np.arctan2(-y, x)  # rows count downwards
        self.angles_deg.append(float(np.degrees(angle)))
        spread = float(np.hypot(x, y))
        self.spreads.append(spread)
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([(cosine, sine, 0), (-sine, cosine, 0), (0, 0, 1)])  # y points down
        return spread / size * self.mesh @ turn.T


def compass_image() -> NDArray[np.uint8]:
    """121 x 121 pixels, black, with a bright disc 12 to the right of its middle pixel (60, 60)."""
    image = np.zeros((121, 121, 3), np.uint8)
    cv2.circle(image, (72, 60), 6, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
    return image
