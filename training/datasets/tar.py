"""Walk the headers of an uncompressed .tar as data: every size checked against the bytes that are there, no name used.

Python's tarfile reads far more dialects, an object a member, at a tenth of the speed; opening a large set by it would
take minutes.
"""

from __future__ import annotations

import mmap
import re
from typing import NamedTuple

from metro_ros.core.errors import MetroError, SourceError

BLOCK = 512
_NAME = re.compile(r"[\w./-]{1,255}", re.ASCII)
_FILE, _DIRECTORY, _EXTENSIONS = (b"0", b"\0"), b"5", (b"x", b"g")


class Member(NamedTuple):
    """One file: its name, and where its bytes are."""

    name: str
    start: int
    stop: int

    @property
    def end(self) -> int:
        """Where the next header begins: contents are padded to whole blocks."""
        return self.stop + -self.stop % BLOCK

    @property
    def key(self) -> str:
        """Up to the first dot of the file's name: what the members of one sample share."""
        folder, slash, name = self.name.rpartition("/")
        return folder + slash + name.partition(".")[0]

    @property
    def suffix(self) -> str:
        """After that dot, e.g. "jpg" or "mask.npy"."""
        return self.name.rpartition("/")[2].partition(".")[2]


def read_members(tar: bytes | mmap.mmap, what: str, ended: bool, error: type[MetroError] = SourceError) -> list[Member]:
    """The files of a tar, or of a stretch of whole members.

    Args:
        tar: its bytes.
        what: its name, for errors.
        ended: whether the block of zeros that ends a tar must come; without it the file was cut off.
        error: what to raise.

    Raises:
        error: a header is damaged, asks for more bytes than there are, has a name with odd characters, or is of a
            kind that ustar does not have.
    """
    members: list[Member] = []
    position, size = 0, len(tar)
    while position + BLOCK <= size:
        header = tar[position : position + BLOCK]
        if not header[0] and not any(header):
            return members
        member, kind = _parse(header, position, what, error)
        if member.stop > size:
            raise error(f"{what} is cut off", expected=f"{member.stop - member.start} bytes", got=size - member.start)
        if kind in _FILE:
            if not _NAME.fullmatch(member.name):
                raise error(f"odd name in {what}", expected="letters, digits and ./-_", got=ascii(member.name))
            members.append(member)
        elif kind in _EXTENSIONS:  # times and the like may be ignored, what says where the bytes are may not
            if re.search(rb" (path|size|linkpath|GNU\.sparse[^=]*)=", tar[member.start : member.stop]):
                raise error(f"unknown kind of tar in {what}", expected="names up to 100 characters", got="longer ones")
        elif kind != _DIRECTORY:
            raise error(f"unknown entry in {what}", expected="files and folders only", got=f"type {kind!r}")
        position = member.end
    if ended:
        raise error(f"{what} is cut off", expected="a block of zeros at its end", got=f"{size} bytes without one")
    return members


def _parse(header: bytes, position: int, what: str, error: type[MetroError]) -> tuple[Member, bytes]:
    try:
        checksum = int(header[148:156].strip(b" \0"), 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise error(f"{what} is damaged", expected="a tar header", got=f"something else at byte {position}") from None
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" ") or size < 0:
        raise error(f"{what} is damaged", expected="a header of its checksum", got=f"another at byte {position}")
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    full = (prefix + b"/" + name if prefix else name).decode("ascii", "replace")
    start = position + BLOCK
    return Member(full, start, start + size), header[156:157]
