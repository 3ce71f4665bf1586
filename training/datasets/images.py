"""Read an image of a dataset from its own file, or from base64 text, bounded before anything is decoded."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.errors import SourceError
from training.datasets.decode import decode_image
from training.datasets.sample import SampleError
from training.unpickler import read_bytes

MAX_FILE_BYTES = 1 << 26
"""Largest JPEG or PNG taken: 64 MiB."""


def read_image(path: Path, what: str) -> NDArray[np.uint8]:
    """The JPEG or PNG at `path` → (H, W, 3) uint8 RGB.

    Raises SampleError, naming `what`, when there is no such file, or it is too large or damaged.
    """
    try:
        encoded = read_bytes(path, MAX_FILE_BYTES)
    except SourceError as cause:
        raise SampleError(f"{what}: {cause.what}", expected=cause.expected, got=cause.got) from cause
    return decode_image(encoded, f"{what}: {path.name}")


def decode_base64_image(text: bytes, what: str) -> NDArray[np.uint8]:
    """JPEG or PNG as base64 text → (H, W, 3) uint8 RGB. Raises SampleError, naming `what`, when it is damaged."""
    if len(text) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise SampleError(f"{what}: image", expected=f"at most {MAX_FILE_BYTES} bytes", got="more")
    try:
        encoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise SampleError(f"{what}: image", expected="base64 text", got=cause) from cause
    return decode_image(encoded, what)
