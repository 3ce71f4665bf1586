"""One sample as the members of a WebDataset record, and back.

    jpg            the image, quality 95 with full colour resolution; png is read too
    json           key, joint_names, box (cx, cy, size), keypoints_px, keypoint_confidence, joints, joint_confidence,
                   person and, where known, pose and betas: see `training.datasets.sample.Sample`
    vertices.npy   where known
    mask.npy, surface.npy   `Dense`, where known; half precision, as vertices are where that is exact to 0.5 mm

Every sample names its own joints, so that it means the same after any tool has sorted it into other files. One of our
128-pixel crops takes 29 KB: 7 KB of it JPEG, which reads as fast as PNG's 20 KB, the rest mostly vertices and surface.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from metro_ros.core.arrays import Header, read_header
from metro_ros.core.crop import Box
from metro_ros.core.errors import ConfigError
from training.datasets.decode import decode_image
from training.datasets.sample import Dense, Sample, SampleError

_MAX_LABEL_BYTES = 1 << 20
_MAX_KEY = 200
_HALF_BELOW = 2.0  # metres: up to here half precision steps by at most 1 mm
_JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
_REQUIRED = ("keypoints_px", "keypoint_confidence", "joints", "joint_confidence")
_OPTIONAL = ("pose", "betas")


def encode_sample(sample: Sample, joint_names: Sequence[str]) -> dict[str, bytes]:
    """Suffix → bytes of each member. Raises SampleError when the sample has another number of joints than names."""
    if len(sample.joints) != len(joint_names):
        raise SampleError(f"{sample.key}: joints", expected=len(joint_names), got=len(sample.joints))
    labels: dict[str, Any] = {
        "key": sample.key,
        "person": sample.person,
        "joint_names": list(joint_names),
        "box": [sample.box.cx, sample.box.cy, sample.box.size],
    }
    for name in (*_REQUIRED, *_OPTIONAL):
        array = getattr(sample, name)
        if array is not None:
            labels[name] = _shortest(array)
    written, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(sample.image[..., ::-1]), _JPEG)
    if not written:
        raise SampleError(f"{sample.key}: image", expected="at most 65535 px a side", got=sample.image.shape)
    members = {"jpg": jpeg.tobytes(), "json": json.dumps(labels, separators=(",", ":")).encode()}
    if sample.vertices is not None:
        members["vertices.npy"] = _npy(sample.vertices)
    if sample.dense is not None:
        members |= {"mask.npy": _npy(sample.dense.mask), "surface.npy": _npy(sample.dense.surface)}
    return members


def decode_sample(members: Mapping[str, bytes], joint_names: Sequence[str], what: str) -> Sample:
    """The sample of members that `encode_sample` wrote, or another tool in the same layout.

    Args:
        members: suffix → bytes; others are ignored.
        joint_names: that it must have.
        what: names the row in errors.

    Raises:
        SampleError: a member is missing or damaged.
    """
    labels = _labels(members, what)
    if labels.get("joint_names") != list(joint_names):
        raise SampleError(f"{what}: joint names", expected=list(joint_names), got=labels.get("joint_names"))
    image = next((members[suffix] for suffix in ("jpg", "jpeg", "png") if suffix in members), b"")
    try:
        person, key = labels["person"], labels["key"]
        if not isinstance(person, bool) or not isinstance(key, str) or len(key) > _MAX_KEY or not key.isprintable():
            raise ValueError(f"person {person!r}, key of type {type(key).__name__}")
        box = Box(*(float(number) for number in labels["box"]))
        numbers = {name: np.asarray(labels[name], np.float32) for name in (*_REQUIRED, *_OPTIONAL) if name in labels}
    except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as cause:
        got = f"{type(cause).__name__} {cause}"
        raise SampleError(f"{what}: labels", expected="what write_shard writes", got=got) from cause
    missing = [name for name in _REQUIRED if name not in numbers]
    if missing:
        raise SampleError(f"{what}: labels", expected=", ".join(_REQUIRED), got=f"no {missing[0]}")
    return Sample(
        key=key,
        image=decode_image(image, what),
        box=box,
        vertices=_array(members, "vertices.npy", 2, what) if "vertices.npy" in members else None,
        dense=_dense(members, what) if "mask.npy" in members else None,
        person=person,
        **numbers,
    )


def joint_names_of(members: Mapping[str, bytes], what: str) -> tuple[str, ...]:
    """What the joints of a record are called. Raises SampleError unless they are different names."""
    names = _labels(members, what).get("joint_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise SampleError(f"{what}: joint names", expected="a list of names", got=type(names).__name__)
    if len(set(names)) != len(names):
        raise SampleError(f"{what}: joint names", expected="different ones", got=names)
    return tuple(names)


def _labels(members: Mapping[str, bytes], what: str) -> dict[str, Any]:
    raw = members.get("json")
    if raw is None:
        raise SampleError(f"{what}: no labels", expected="a .json member", got=", ".join(members) or "nothing")
    if len(raw) > _MAX_LABEL_BYTES:
        raise SampleError(f"{what}: labels too long", expected=f"up to {_MAX_LABEL_BYTES} bytes", got=len(raw))
    try:
        labels = json.loads(raw)
    except (ValueError, RecursionError) as cause:
        raise SampleError(f"{what}: damaged labels", expected="JSON", got=cause) from cause
    if not isinstance(labels, dict):
        raise SampleError(f"{what}: labels", expected="a JSON object", got=type(labels).__name__)
    return labels


def _shortest(array: NDArray[np.float32]) -> list[Any]:
    """Nested lists of the shortest decimals that read back as the same float32."""
    return np.array([float(str(number)) for number in array.ravel()]).reshape(array.shape).tolist()


def _npy(array: NDArray[np.float32]) -> bytes:
    exact_enough = np.abs(array).max(initial=0.0) < _HALF_BELOW
    file = BytesIO()
    np.lib.format.write_array(file, array.astype(np.float16 if exact_enough else np.float32), (1, 0), False)
    return file.getvalue()


@lru_cache(maxsize=64)
def _header(raw: bytes) -> Header:
    """What an .npy header claims; all rows of a set have the same few, and numpy takes 25 µs for one."""
    header = read_header(BytesIO(raw), "a member", SampleError)
    if header.fortran_order or header.dtype not in (np.float16, np.float32) or min(header.shape, default=0) < 0:
        raise ValueError(f"{header.dtype} {header.shape}")
    return header


def _array(members: Mapping[str, bytes], suffix: str, dimensions: int, what: str) -> NDArray[np.float32]:
    """An .npy member as float32; its header is believed only if it asks for exactly the bytes that follow."""
    raw = members.get(suffix, b"")
    start = min(10 + int.from_bytes(raw[8:10], "little"), len(raw))
    try:
        header = _header(raw[:start])
        array = np.frombuffer(raw, header.dtype, offset=start).reshape(header.shape).astype(np.float32)
    except (SampleError, ValueError) as cause:
        raise SampleError(f"{what}: damaged {suffix}", expected="float16 or float32 .npy", got=cause) from cause
    if array.ndim != dimensions or not np.isfinite(array).all():
        got = f"shape {array.shape}, {np.count_nonzero(~np.isfinite(array))} not finite"
        raise SampleError(f"{what}: {suffix}", expected=f"{dimensions} dimensions, finite numbers", got=got)
    return array


def _dense(members: Mapping[str, bytes], what: str) -> Dense:
    mask, surface = _array(members, "mask.npy", 2, what), _array(members, "surface.npy", 3, what)
    cells = len(mask)
    if mask.shape != (cells, cells) or surface.shape != (3, cells, cells):
        raise SampleError(f"{what}: dense", expected="(D, D) and (3, D, D)", got=f"{mask.shape} and {surface.shape}")
    return Dense(mask, surface)
