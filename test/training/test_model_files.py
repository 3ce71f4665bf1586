"""SMPL, MANO, sampling, regressor and template files: what fits is read exactly, what does not is named."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_fixtures import (
    HAND_PARENTS,
    claim_size,
    evil_pickle,
    hand_fields,
    model_fields,
    npy_header,
    published,
    write_object_npz,
    write_sampling,
)
from scipy.sparse import csc_matrix

from metro_ros.core.errors import SourceError
from training.model_files import read_body_model, read_joint_regressor, read_sampling, read_template

NAMES = ("A", "B")


def test_published_hand(tmp_path: Path) -> None:
    fields = hand_fields()
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(published(fields))
    arrays = read_body_model(tmp_path / "MANO_RIGHT.pkl")
    assert tuple(arrays.parents) == HAND_PARENTS
    expected = {
        "v_template": fields["v_template"], "shapedirs": fields["shapedirs"], "posedirs": fields["posedirs"],
        "joint_regressor": fields["J_regressor"].toarray(), "weights": fields["weights"],
        "hands_mean": fields["hands_mean"],
    }  # fmt: skip
    for name, want in expected.items():
        np.testing.assert_array_equal(getattr(arrays, name), want.astype(np.float32), strict=True)
    np.testing.assert_array_equal(arrays.faces, fields["f"].astype(np.int32), strict=True)


@pytest.mark.parametrize("sparse", [True, False])
def test_npz_without_chumpy(tmp_path: Path, sparse: bool) -> None:
    fields = model_fields()
    regressor = fields["J_regressor"]
    fields["J_regressor"] = np.array(regressor, dtype=object) if sparse else regressor.toarray()
    np.savez(tmp_path / "smpl.npz", **fields)
    arrays = read_body_model(tmp_path / "smpl.npz")
    assert arrays.hands_mean is None
    np.testing.assert_allclose(arrays.joint_regressor, regressor.toarray(), rtol=1e-6)


def edited(name: str, value: Any) -> dict[str, Any]:
    return hand_fields() | {name: value}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (edited("v_template", np.zeros((60, 2))), r"v_template.*\(any, 3\).*\(60, 2\)"),
        (edited("v_template", np.full((60, 3), np.nan)), "v_template.*finite.*180"),
        (edited("weights", np.full((60, 16), 1e300)), "weights.*finite"),
        (edited("weights", np.ones((60, 16))), "weights.*sum to 1"),
        (edited("shapedirs", np.zeros((60, 3, 9))), "shapedirs.*10 shapes or more, got 9"),
        (edited("posedirs", np.zeros((60, 3, 207))), "posedirs.*135"),
        (edited("J_regressor", csc_matrix((24, 60))), "joint regressor.*16, 60"),
        (edited("f", np.array([[0, 1, 60]], np.uint32)), "faces.*60 vertices.*0 to 60"),
        (edited("f", np.array([[0, 1, 2**32 - 1]], np.uint32)), "faces"),
        (edited("f", np.array([[0.0, 1, 2]])), "faces.*float64"),
        (edited("kintree_table", np.array([[-1, 2, 0], [0, 1, 2]])), "joint tree.*parents before children"),
        (edited("kintree_table", np.array([[-1, 0], [0, 0]])), "kintree_table"),
        (edited("hands_mean", np.zeros(6)), "hands_mean.*45"),
        (edited("v_template", "text"), "v_template.*numbers.*str"),
        ({"v_template": np.zeros((60, 3))}, "shapedirs.*nothing"),
        ([1, 2], "no body model.*list"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path: Path, fields: Any, reason: str) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(fields, 2))
    with pytest.raises(SourceError, match=reason) as caught:
        read_body_model(tmp_path / "model.pkl")
    assert "model.pkl" in str(caught.value) and "\n" not in str(caught.value)


def test_sampling_composes_to_rows_of_the_finest_level(tmp_path: Path) -> None:
    middle, coarse = write_sampling(tmp_path / "sampling.npz", (5, 20, 60))
    rows = read_sampling(tmp_path / "sampling.npz", (5, 20, 60))
    assert [row.dtype for row in rows] == [np.int32] * 3
    np.testing.assert_array_equal(rows[2], np.arange(60))
    np.testing.assert_array_equal(rows[1], middle)
    np.testing.assert_array_equal(rows[0], middle[coarse])
    vertices = np.random.default_rng(0).random((60, 3))
    np.testing.assert_array_equal(vertices[rows[0]], vertices[middle][coarse])
    np.testing.assert_array_equal(read_sampling(tmp_path / "sampling.npz", (20, 60))[0], middle)  # as the hand's file


def one_hot(rows: list[int], columns: int, values: list[float] | None = None) -> csc_matrix:
    return csc_matrix((values or [1.0] * len(rows), (range(len(rows)), rows)), shape=(len(rows), columns))


@pytest.mark.parametrize(
    ("matrices", "reason"),
    [
        ([one_hot([0, 2], 5)], r"shape \(2, 4\), got \(2, 5\)"),
        ([one_hot([0, 2], 4, [1.0, 0.5])], "single 1"),
        ([one_hot([2, 2], 4)], "single 1"),
        ([csc_matrix([[1, 1, 0, 0], [0, 0, 0, 0]])], "single 1"),
        ([np.eye(2, 4)], "sparse matrix.*ndarray"),
        ([], "1 sparse matrices or more"),
    ],
)
def test_sampling_that_does_more_than_pick_is_refused(tmp_path: Path, matrices: list, reason: str) -> None:
    write_object_npz(tmp_path / "sampling.npz", D=matrices)
    with pytest.raises(SourceError, match=reason):
        read_sampling(tmp_path / "sampling.npz", (2, 4))


def test_joint_regressor(tmp_path: Path) -> None:
    path = tmp_path / "regressor.npy"
    regressor = np.random.default_rng(0).random((17, 30))
    np.save(path, regressor)
    read = read_joint_regressor(path, (17, 30))
    np.testing.assert_array_equal(read, regressor.astype(np.float32), strict=True)
    with pytest.raises(SourceError, match=r"\(17, 31\), got \(17, 30\)"):
        read_joint_regressor(path, (17, 31))
    for content, reason in (
        (evil_pickle(tmp_path / "victim"), "no array"),
        (npy_header("|O", (1,)) + evil_pickle(tmp_path / "victim"), "plain numbers"),
        (npy_header("<f8", (17, 10**10)), "lies"),
        (path.read_bytes()[:-8], "lies"),
        (npy_header("<f8", (1, 1)) + b"\xff" * 8, "finite"),
    ):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=reason):
            read_joint_regressor(path, (1, 1))
    assert not (tmp_path / "victim").exists()
    for other in (tmp_path, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(SourceError, match="cannot read"):
            read_joint_regressor(other, (1, 1))


def test_template(tmp_path: Path) -> None:
    path = tmp_path / "template.npz"
    tokens, faces = np.random.default_rng(0).normal(size=(6, 3)), np.array([[0, 1, 8]])
    np.savez(path, template=tokens, faces=faces, joint_names=NAMES, other=np.zeros(2))
    read = read_template(path, NAMES, (4, 9))
    np.testing.assert_array_equal(read.tokens, tokens.astype(np.float32), strict=True)
    np.testing.assert_array_equal(read.faces, faces.astype(np.int32), strict=True)
    np.savez(path, template=tokens)
    assert read_template(path, NAMES, (4, 9)).faces is None


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "an array template"),
        ({"template": np.zeros((7, 3))}, r"\(6, 3\), got \(7, 3\)"),
        ({"template": np.full((6, 3), np.inf)}, "finite"),
        ({"template": np.full((6, 3), 800.0)}, "metres.*800"),
        ({"template": np.zeros((6, 3)), "faces": np.array([[0, 1, 9]])}, "faces.*9 vertices"),
        ({"template": np.zeros((6, 3)), "faces": np.zeros((0, 3), int)}, "faces"),
        ({"template": np.zeros((6, 3)), "joint_names": np.array(["B", "A"])}, "joint_names.*A B.*B A"),
    ],
)
def test_templates_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict, reason: str) -> None:
    np.savez(tmp_path / "template.npz", **arrays)
    with pytest.raises(SourceError, match=reason) as caught:
        read_template(tmp_path / "template.npz", NAMES, (4, 9))
    assert "template.npz" in str(caught.value)


def test_a_template_that_claims_100_gb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "template.npz"
    np.savez(path, template=np.zeros((6, 3)))
    path.write_bytes(claim_size(path.read_bytes(), 0xFFFFFF00))
    with pytest.raises(SourceError, match="too large"):
        read_template(path, NAMES, (4, 9))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("template.npy", npy_header("<f8", (12_500_000_000,)) + b"\0" * 64)
    with pytest.raises(SourceError, match="lies"):
        read_template(path, NAMES, (4, 9))
