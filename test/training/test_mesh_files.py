"""Mesh specs on disk: what goes in comes out, and nothing damaged comes in."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_network import make_mesh

from metro_ros.core.errors import SourceError
from training.mesh_files import load_mesh_spec, save_mesh_spec
from training.mesh_spec import MeshSpec


def assert_same(first: MeshSpec, second: MeshSpec) -> None:
    """Every field, its type, and its arrays bit by bit."""
    for field in dataclasses.fields(MeshSpec):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, tuple) and a and isinstance(a[0], np.ndarray):
            assert len(a) == len(b)
            pairs = list(zip(a, b, strict=True))
        elif isinstance(a, np.ndarray):
            pairs = [(a, b)]
        else:
            assert a == b and type(a) is type(b), field.name
            continue
        for left, right in pairs:
            assert left.dtype == right.dtype and np.array_equal(left, right), field.name


def test_a_whole_spec_and_a_bare_one_come_back(tmp_path: Path) -> None:
    whole = dataclasses.replace(make_mesh(), name="whole ☃", root_regressor=np.full(20, 0.05, np.float32))
    bare = MeshSpec("bare", whole.joint_names, whole.joint_parents, (0,), (6, 10, 20), whole.template_tokens)
    for spec in (whole, bare):
        path = tmp_path / "new" / "folder" / "spec.npz"
        save_mesh_spec(path, spec)  # over the one before it
        assert_same(load_mesh_spec(path), spec)
        assert list(path.parent.iterdir()) == [path]


def test_what_comes_back_can_become_tensors(tmp_path: Path) -> None:
    """torch shares memory with arrays, and warns of those that it must not write to."""
    save_mesh_spec(tmp_path / "spec.npz", make_mesh())
    spec = load_mesh_spec(tmp_path / "spec.npz")
    assert spec.template is not None and spec.joint_regressor is not None
    for array in (spec.template_tokens, spec.template, spec.joint_regressor, *spec.faces, *spec.rows, *spec.upsampling):
        assert array.flags.writeable


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, np.ndarray]:
    """The arrays of a good file."""
    save_mesh_spec(tmp_path / "good.npz", make_mesh())
    with np.load(tmp_path / "good.npz") as file:
        return dict(file)


def names(**fields: object) -> np.ndarray:
    return np.frombuffer(json.dumps(fields).encode(), np.uint8)


DAMAGE = {
    "a pickle": ({"template": np.array([{"a": 1}], object)}, "plain numbers"),
    "text": ({"names": np.array(["a", "b"])}, "plain numbers"),
    "names that are no JSON": ({"names": np.array([255, 0], np.uint8)}, "names: expected JSON"),
    "names without joints": ({"names": names(name="x")}, "names: expected JSON"),
    "names that are numbers": ({"names": names(name="x", joint_names=[1, 2, 3, 4, 5])}, "names: expected JSON"),
    "too few joints": ({"names": names(name="x", joint_names=["a", "b"])}, "contradicts itself"),
    "a cycle": ({"joint_parents": np.array([1, 0, -1, -1, -1])}, "contradicts itself"),
    "another type": ({"template": np.zeros((20, 3))}, "template: expected float32"),
    "another shape": ({"faces_1": np.zeros((4, 4), np.int32)}, "faces_1: expected int32"),
    "an index out of range": ({"faces_2": np.full((4, 3), 20, np.int32)}, "faces of level 2"),
    "NaN": ({"joint_regressor": np.full((5, 20), np.nan, np.float32)}, "joint_regressor: expected finite"),
    "no levels": ({"level_sizes": np.zeros(0, np.int64)}, "level_sizes: expected one level"),
    "a negative level": ({"level_sizes": np.array([6, -10, 20])}, "contradicts itself"),
    "a stranger": ({"surprise": np.zeros(3)}, "unknown arrays.*surprise"),
}


@pytest.mark.parametrize(("changes", "says"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], changes: dict[str, np.ndarray], says: str
) -> None:
    np.savez(tmp_path / "bad.npz", **{**arrays, **changes})
    with pytest.raises(SourceError, match=says):
        load_mesh_spec(tmp_path / "bad.npz")


@pytest.mark.parametrize("missing", ["names", "level_sizes", "template_tokens", "rows_1"])
def test_what_is_missing_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], missing: str) -> None:
    del arrays[missing]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(SourceError, match=missing.removesuffix("_1")):
        load_mesh_spec(tmp_path / "bad.npz")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    for path in (tmp_path / "nowhere.npz", tmp_path / "text.npz", tmp_path):
        with pytest.raises(SourceError, match="cannot read"):
            load_mesh_spec(path)
    with pytest.raises(SourceError, match="cannot write the mesh spec"):
        save_mesh_spec(tmp_path / "text.npz" / "spec.npz", make_mesh())
