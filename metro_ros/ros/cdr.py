"""Where the fields of a serialised message lie: plain little-endian CDR, which every ROS 2 middleware sends by default.

Between fields CDR leaves bytes that mean nothing, and rclpy leaves whatever the memory held before in them.
"""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from rosidl_parser.definition import AbstractGenericString, AbstractSequence, Array, BasicType, NamespacedType

from metro_ros.core.errors import ConfigError

ENCAPSULATION = b"\x00\x01"  # plain CDR, little-endian
ENCAPSULATION_BYTES = 4
"""Alignment counts from behind the encapsulation header."""

_SIZES = {
    **{"boolean": 1, "octet": 1, "char": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "wchar": 4},
    **{"int32": 4, "uint32": 4, "float": 4, "int64": 8, "uint64": 8, "double": 8},
}


def field_offsets(data: bytes, message_type: type) -> dict[str, int]:
    """Offset of the first byte of every number and string in `data`, a serialised `message_type`, by its path.

    Paths read like code, ``header.stamp.sec``, ``points[0].x``; ``points.size`` is the length of a sequence. A sequence
    of numbers has one entry, for its first. Raises ConfigError when the data is not plain little-endian CDR.
    """
    return {path: offset for path, offset, _ in _walk(data, message_type)}


def content_mask(data: bytes, message_type: type) -> npt.NDArray[np.bool_]:
    """For each byte of `data`, a serialised `message_type`, whether it means something. Raises as `field_offsets`."""
    mask = np.zeros(len(data), np.bool_)
    mask[:ENCAPSULATION_BYTES] = True
    for _, offset, size in _walk(data, message_type):
        mask[offset : offset + size] = True
    return mask


def same_message(first: bytes, second: bytes, message_type: type) -> bool:
    """Whether two serialised messages are equal in every byte that means something."""
    if len(first) != len(second):
        return False
    differ = np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8)
    return not (differ & content_mask(first, message_type)).any()


def _walk(data: bytes, message_type: type) -> Iterator[tuple[str, int, int]]:
    """(path, offset, size in bytes) of every field in the order of the data."""
    if data[:2] != ENCAPSULATION:
        raise ConfigError("serialised message", expected="plain little-endian CDR, 0001", got=data[:2].hex())
    offset = ENCAPSULATION_BYTES

    def align(size: int) -> None:
        nonlocal offset
        offset += (ENCAPSULATION_BYTES - offset) % size

    def count() -> int:
        return int.from_bytes(data[offset : offset + 4], "little")

    def visit(path: str, kind: Any) -> Iterator[tuple[str, int, int]]:
        nonlocal offset
        if isinstance(kind, NamespacedType):
            module = importlib.import_module(".".join(kind.namespaces))
            nested = getattr(module, kind.name)
            for name, slot in zip(nested.get_fields_and_field_types(), nested.SLOT_TYPES, strict=True):
                yield from visit(f"{path}.{name}" if path else name, slot)
        elif isinstance(kind, AbstractGenericString):
            align(4)
            size = 4 + count()
            yield path, offset, size
            offset += size
        elif isinstance(kind, BasicType):
            yield from numbers(path, _SIZES[kind.typename], 1)
        else:
            length = kind.size if isinstance(kind, Array) else 0
            if isinstance(kind, AbstractSequence):
                align(4)
                length = count()
                yield f"{path}.size", offset, 4
                offset += 4
            if isinstance(kind.value_type, BasicType):
                if length:
                    yield from numbers(path, _SIZES[kind.value_type.typename], length)
            else:
                for index in range(length):
                    yield from visit(f"{path}[{index}]", kind.value_type)

    def numbers(path: str, size: int, length: int) -> Iterator[tuple[str, int, int]]:
        nonlocal offset
        align(size)
        yield path, offset, size * length
        offset += size * length

    for name, slot in zip(message_type.get_fields_and_field_types(), message_type.SLOT_TYPES, strict=True):  # type: ignore[attr-defined]
        yield from visit(name, slot)
