"""Decode JPEG and PNG from memory, after their own header has said that they are not too large."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.sample import SampleError

MAX_PIXELS = 1 << 26
"""Largest image taken: 67 million pixels, 200 MB decoded."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # Huffman tables, a reserved marker, arithmetic coding: among the frame markers


def decode_image(encoded: bytes, what: str) -> NDArray[np.uint8]:
    """JPEG or PNG bytes → (H, W, 3) uint8 RGB, as stored: a camera's note about turning it is ignored.

    Raises SampleError, naming `what`, when it is neither, larger than MAX_PIXELS, or damaged.
    """
    height, width = _image_size(encoded, what)
    if not 0 < height * width <= MAX_PIXELS:
        raise SampleError(f"{what}: image size", expected=f"1..{MAX_PIXELS} pixels", got=f"{width}x{height}")
    try:
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as cause:
        raise SampleError(f"{what}: damaged image", got=cause) from cause
    if bgr is None or bgr.shape[:2] != (height, width):
        raise SampleError(f"{what}: damaged image", expected=f"{width}x{height} pixels", got="no such image")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _image_size(encoded: bytes, what: str) -> tuple[int, int]:
    """(height, width) that the file's own header claims."""
    if encoded.startswith(_PNG) and len(encoded) >= 24:
        width, height = struct.unpack(">II", encoded[16:24])
        return height, width
    position = 2 if encoded.startswith(b"\xff\xd8") else len(encoded)
    while position + 9 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            height, width = struct.unpack(">HH", encoded[position + 5 : position + 9])
            return height, width
        # Fill bytes stand alone; every other marker before the picture carries its length.
        position += 1 if marker == 0xFF else 2 + struct.unpack(">H", encoded[position + 2 : position + 4])[0]
    raise SampleError(f"{what}: not an image", expected="JPEG or PNG", got=f"{len(encoded)} other bytes")
