"""The files in which built TensorRT plans are kept: what a plan was built for and from, before its bytes.

    magic, length of the header (4 bytes, little endian), header (JSON), plan

A damaged plan, or one of another version, can take the process down inside of the library, so nothing of a file reaches
it before all of this was checked.
"""

import dataclasses
import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metro_ros.core.engines.base import Precision
from metro_ros.core.errors import EngineError

MAGIC = b"metro_ros TensorRT plan 1\n"
LENGTH_BYTES = 4
MAX_HEADER_BYTES = 1 << 16
ANY_GPU = "any"


class PlanUnusable(Exception):
    """A file does not hold the plan that was asked for; `str()` says why, as the end of `PATH …`."""


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """The numbers of crops that a plan takes at once: 1 to `largest`, the fastest at `best`. Raises EngineError."""

    largest: int = 16
    best: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.best <= self.largest <= 1024:
            raise EngineError(
                "batch profile", expected="1 <= best <= largest <= 1024 crops", got=f"{self.best}, {self.largest}"
            )


@dataclass(frozen=True, slots=True)
class PlanKey:
    """What a plan is good for. model: SHA-256 of the ONNX file; gpu: its name, or ANY_GPU of the compute capability."""

    model: str
    precision: Precision
    library: str
    version: str
    gpu: str
    compute_capability: str

    @property
    def file_name(self) -> str:
        """The same for every version of the library: a plan of an older one is replaced, not left behind."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return f"{self.model[:16]}.{self.precision}.{self.library}.{gpu}.sm{self.compute_capability}.plan"


class Plan(NamedTuple):
    """A plan as the library serialised it, any buffer of bytes, and the numbers of crops that it takes."""

    content: Any
    profile: BatchProfile


def write_plan(path: Path, key: PlanKey, plan: Plan) -> None:
    """Write a plan file, whole or not at all, its folder if need be. Raises OSError."""
    header = {
        "key": dataclasses.asdict(key),
        "profile": dataclasses.asdict(plan.profile),
        "bytes": memoryview(plan.content).nbytes,
        "sha256": hashlib.sha256(plan.content).hexdigest(),
    }
    encoded = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        partial = Path(scratch) / "partial"
        with partial.open("wb") as file:
            file.write(MAGIC + len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded)
            file.write(plan.content)
        partial.replace(path)


def read_plan(path: Path, key: PlanKey, profile: BatchProfile | None = None) -> Plan | None:
    """The plan in a file, or None where there is none. profile: the one that it must have; None for any.

    Raises PlanUnusable when the file is damaged or another plan.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(file)
            _compare(header["key"], dataclasses.asdict(key))
            found, size, digest = BatchProfile(**header["profile"]), header["bytes"], header["sha256"]
            if profile not in (None, found):
                raise PlanUnusable(f"was built for 1 to {found.largest} crops, best {found.best}")
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PlanUnusable(f"cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, EngineError) as error:
        raise PlanUnusable("has a damaged header") from error
    if len(content) != size:
        raise PlanUnusable(f"is truncated: {len(content)} of {size} bytes")
    if hashlib.sha256(content).hexdigest() != digest:
        raise PlanUnusable("is damaged: its SHA-256 is another")
    return Plan(content, found)


def _read_header(file: Any) -> dict[str, Any]:
    if file.read(len(MAGIC)) != MAGIC:
        raise PlanUnusable("is not a plan of this version of metro_ros")
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise PlanUnusable("has a damaged header")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise PlanUnusable("has a damaged header")
    return header


def _compare(found: dict[str, str], wanted: dict[str, str]) -> None:
    for name, value in wanted.items():
        if found[name] != value:
            raise PlanUnusable(f"is of {name.replace('_', ' ')} {found[name]}, not {value}")
