"""SMPL, MANO and sampling files made of nothing but spheres, written as the real ones are: by Python 2, with chumpy."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csc_matrix
from scipy.spatial import ConvexHull

BODY_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
HAND_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
TOUCH = "touch"


class Python2Pickler(pickle._Pickler):
    """Protocols 0 to 2 as Python 2 wrote them: bytes and text are one type, and modules have their old names."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text: bytes | str) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        if self.proto == 0:
            escaped = "".join(chr(b) if 32 <= b < 127 and b not in b"\\'" else f"\\x{b:02x}" for b in raw)
            self.write(b"S'" + escaped.encode() + b"'\n")
        else:
            self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[bytes] = save_string
    dispatch[str] = save_string


def python2_pickle(value: object, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol).dump(value)
    raw = file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return raw.replace(b"scipy.sparse._csc", b"scipy.sparse.csc").replace(b"scipy.sparse._coo", b"scipy.sparse.coo")


@contextmanager
def fake_chumpy() -> Iterator[tuple[type, type]]:
    """Classes Ch and Select in modules of chumpy's names, which are gone afterwards."""
    modules = {name: ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}

    class Ch:
        def __init__(self, **state: object) -> None:
            self.__dict__.update(state, _dirty_vars={"x"}, _itr=None)

    class Select(Ch):
        pass

    for cls, module in ((Ch, "chumpy.ch"), (Select, "chumpy.reordering")):
        cls.__module__, cls.__qualname__ = module, cls.__name__
        setattr(modules[module], cls.__name__, cls)
    sys.modules.update(modules)
    try:
        yield Ch, Select
    finally:
        for name in modules:
            del sys.modules[name]


@cache
def sphere(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3) points on the unit sphere and (2 count - 4, 3) faces with normals outward."""
    height = 1 - (2 * np.arange(count) + 1) / count
    around = np.pi * (1 + 5**0.5) * np.arange(count)
    radius = np.sqrt(1 - height**2)
    points = np.stack([radius * np.cos(around), height, radius * np.sin(around)], axis=1)
    faces = ConvexHull(points).simplices
    corners = points[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normals * corners[:, 0]).sum(axis=1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return points, faces.astype(np.uint32)


def model_fields(vertices: int = 60, parents: tuple[int, ...] = HAND_PARENTS, seed: int = 0) -> dict[str, Any]:
    """The entries of a published model, plain; its joints lie on a line through the sphere."""
    random = np.random.default_rng(seed)
    points, faces = sphere(vertices)
    joints = len(parents)
    regressor = random.random((joints, vertices)) * (random.random((joints, vertices)) < 0.3)
    weights = random.random((vertices, joints)) ** 4
    return {
        "v_template": points * [0.3, 0.9, 0.2],
        "shapedirs": random.normal(0, 0.01, (vertices, 3, 10)),
        "posedirs": random.normal(0, 0.001, (vertices, 3, 9 * (joints - 1))),
        "J_regressor": csc_matrix(regressor / regressor.sum(axis=1, keepdims=True)),
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, *parents[1:]], range(joints)], np.uint32),
        "f": faces,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def hand_fields(vertices: int = 60, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    mean = random.normal(0, 0.3, 45)
    return model_fields(vertices, HAND_PARENTS, seed) | {"hands_mean": mean, "hands_components": np.eye(45)}


def published(fields: dict[str, Any], protocol: int = 2) -> bytes:
    """As a pickle of the real layout: shapedirs is a Select over a Ch with twice as many shapes, v_template a Ch."""
    shapes = fields["shapedirs"]
    stored = np.concatenate([shapes, 1 + shapes], axis=2)
    chosen = np.arange(stored.size).reshape(stored.shape)[:, :, : shapes.shape[2]].ravel()
    with fake_chumpy() as (make_ch, make_select):
        select = make_select(a=make_ch(x=stored), idxs=chosen, preferred_shape=shapes.shape)
        layout = fields | {"shapedirs": select, "v_template": make_ch(x=fields["v_template"])}
        return python2_pickle(layout, protocol)


def picking(rows: np.ndarray, columns: int) -> csc_matrix:
    """A one-hot matrix, one row for each of `rows`."""
    return csc_matrix((np.ones(len(rows)), (np.arange(len(rows)), rows)), shape=(len(rows), columns))


def write_object_npz(path: Path, **lists: list) -> None:
    """An .npz of object arrays, each a header and a pickle by Python 2."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, items in lists.items():
            array = np.empty(len(items), object)
            array[:] = items
            archive.writestr(f"{name}.npy", npy_header("|O", array.shape) + python2_pickle(array))


def write_sampling(path: Path, level_sizes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """A sampling file for levels coarsest first. Returns the rows of each level in the next finer one, finest first."""
    random = np.random.default_rng(seed)
    steps = list(zip(reversed(level_sizes[1:]), reversed(level_sizes[:-1]), strict=True))
    rows = [np.sort(random.choice(fine, coarse, replace=False)) for fine, coarse in steps]
    matrices = [picking(chosen, fine) for chosen, (fine, _) in zip(rows, steps, strict=True)]
    write_object_npz(path, A=[matrices[0].T @ matrices[0]], D=matrices, U=[matrix.T for matrix in matrices])
    return rows


def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def evil_pickle(victim: Path) -> bytes:
    """Asks to run a command that would create `victim`."""
    return b"cos\nsystem\n(S'" + f"{TOUCH} {victim}".encode() + b"'\ntR."


def claim_size(archive: bytes, size: int) -> bytes:
    """The .npz with a central directory that declares `size` bytes for its first entry."""
    start = archive.index(b"PK\x01\x02") + 24
    return archive[:start] + struct.pack("<I", size) + archive[start + 4 :]
