"""The folder where engines keep what this machine worked out: compiled models, plans, measurements.

Everything in it can be made again, so nothing that goes wrong with it may stop an engine: a damaged entry is a missing
one, and what cannot be written is worked out again next time. Each trouble is one line in the log.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

ENVIRONMENT = "METRO_ROS_CACHE"
LIMIT_BYTES = 4 << 30
"""What a folder of the cache may hold: the entries that were not used for longest go first."""
DIGEST_BYTES = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """$METRO_ROS_CACHE, else metro_ros in $XDG_CACHE_HOME, else in ~/.cache. It need not exist."""
    if chosen := os.environ.get(ENVIRONMENT):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path("~/.cache").expanduser()) / "metro_ros"


def writable_folder(name: str) -> Path | None:
    """The cache's folder `name`, made if it is missing; None, with one line in the log, when it cannot be written."""
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
    except OSError as error:
        log.warning(
            "nothing is cached: %s cannot be written (%s); set %s to another folder", folder, error, ENVIRONMENT
        )
        return None
    return folder


def store(path: Path, content: bytes) -> bool:
    """Write an entry whole or not at all, its folder if need be; False, with one line in the log, when it cannot be.

    The file is the SHA-256 of the content, then the content.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            partial = Path(scratch) / "partial"
            with partial.open("wb") as file:
                file.write(hashlib.sha256(content).digest())
                file.write(content)
            partial.replace(path)
        _prune(path)
    except OSError as error:
        log.warning("%s is not cached (%s); it will be made again next time", path, error)
        return False
    return True


def recall(path: Path) -> bytes | None:
    """What was stored, or None; a file that cannot be read or is damaged is none, with one line in the log."""
    try:
        with path.open("rb") as file:
            digest, content = file.read(DIGEST_BYTES), file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("the cached %s cannot be read (%s); making it again", path, error)
        return None
    if hashlib.sha256(content).digest() != digest:
        log.warning("the cached %s is damaged; making it again", path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used
    return content


def _prune(newest: Path) -> None:
    """Delete what was not used for longest, until the folder of `newest` holds no more than LIMIT_BYTES."""
    entries = [path for path in newest.parent.iterdir() if path != newest and path.is_file()]
    used = {path: path.stat() for path in entries}
    total = newest.stat().st_size + sum(stat.st_size for stat in used.values())
    for path in sorted(entries, key=lambda path: used[path].st_mtime):
        if total <= LIMIT_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= used[path].st_size
