"""Photographs without labels, on which a finder's answers are to stay what they were before it saw painted people."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from metro_ros.core.errors import SourceError
from training.finder.augment import AugmentConfig
from training.finder.device_augment import augment_batch
from training.finder.network import FinderConfig
from training.finder.stream import lay_out
from training.synth.frames import Frame

SUFFIXES = (".jpg", ".jpeg", ".png")
_NOBODY = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)


class Photographs:
    """Batches of a folder's photographs, changed as painted frames are, on a device."""

    def __init__(
        self,
        folder: Path,
        network: FinderConfig,
        batch: int,
        augment: AugmentConfig,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """batch: photographs in each, 2 or more. Raises SourceError when there are none, or one cannot be read."""
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise SourceError(f"photographs in {folder}", expected=f"images: {', '.join(SUFFIXES)}", got="none")
        frames = []
        for path in paths:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise SourceError(f"{path}", expected="an image", got="what OpenCV cannot read")
            frames.append(Frame(np.ascontiguousarray(np.asarray(image, np.uint8)[:, :, ::-1]), *_NOBODY))
        arrays = lay_out(frames, network.width, network.height)
        self._rows = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        self._batch, self._augment, self._seed = batch, augment, seed
        self._generator = torch.Generator(device)

    def __len__(self) -> int:
        return len(self._rows["image"])

    def batch(self, step: int) -> Tensor:
        """(N, H, W, 3) uint8 RGB, the same for the same step."""
        generator = self._generator.manual_seed((self._seed << 32) + step)
        rows = torch.randint(len(self), (self._batch,), generator=generator, device=generator.device)
        return augment_batch({name: field[rows] for name, field in self._rows.items()}, generator, self._augment).images
