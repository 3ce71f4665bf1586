"""The file that the FreiHAND server takes: predicted joints and vertices of the whole evaluation set."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.errors import ConfigError, SourceError

MEMBER = "pred.json"
"""What the file in the archive must be called."""
JOINTS, VERTICES = 21, 778
DECIMALS = 7
"""Tenths of a micrometre: far below any error, and a third of the text of exact numbers."""


def check_submission(path: Path, vertices: int) -> None:
    """Before hours of work: raises ConfigError unless `path` is a .json and the model has FreiHAND's `vertices`."""
    if path.suffix != ".json":
        raise ConfigError("the file of a submission", expected="a name in .json", got=path)
    if vertices != VERTICES:
        raise ConfigError("the model of a submission", expected=f"MANO's {VERTICES} vertices", got=vertices)


def write_submission(
    path: Path, joints: Sequence[NDArray[np.floating]], vertices: Sequence[NDArray[np.floating]]
) -> Path:
    """Write `path`, a JSON file, and beside it the .zip with it that is uploaded; each whole, or not at all.

    The JSON is a list of two: the (21, 3) joints of every sample, then the (778, 3) vertices of every sample.

    Args:
        path: of the JSON; its folder is made.
        joints: N arrays (21, 3), metres, wrist-relative, in the order of the evaluation set.
        vertices: N arrays (778, 3), likewise.

    Returns:
        The path of the .zip.

    Raises:
        ConfigError: shapes, lengths or numbers that the server would refuse.
        SourceError: the files cannot be written.
    """
    if len(joints) != len(vertices) or not len(joints):
        raise ConfigError(
            "a submission", expected="joints and vertices of 1 sample or more", got=(len(joints), len(vertices))
        )
    for what, arrays, count in (("joints", joints, JOINTS), ("vertices", vertices, VERTICES)):
        for row, array in enumerate(arrays):
            finite = np.isfinite(array).all()
            if array.shape != (count, 3) or not finite:
                got = array.shape if finite else "NaN or infinity"
                raise ConfigError(f"{what} of row {row} of a submission", expected=f"finite ({count}, 3)", got=got)
    archive = path.with_suffix(".zip")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
            staged, staged_archive = Path(scratch) / MEMBER, Path(scratch) / "archive.zip"
            with staged.open("w", encoding="ascii") as file:
                file.write("[")
                _write_list(file, joints)
                file.write(", ")
                _write_list(file, vertices)
                file.write("]\n")
            with zipfile.ZipFile(staged_archive, "w", zipfile.ZIP_DEFLATED) as packed:
                packed.write(staged, MEMBER)
            staged.replace(path)
            staged_archive.replace(archive)
    except OSError as error:
        raise SourceError(f"cannot write {path}", got=error) from error
    return archive


def _write_list(file: TextIO, arrays: Sequence[NDArray[np.floating]]) -> None:
    """One sample after the other: the whole evaluation set as Python numbers would take a gigabyte."""
    for row, array in enumerate(arrays):
        file.write(", " if row else "[")
        file.write(json.dumps(np.asarray(array, np.float64).round(DECIMALS).tolist()))
    file.write("]")
