"""Pickles of the original files are read as data; all else in a pickle is refused, in one line, and never run."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from model_fixtures import (
    claim_size,
    evil_pickle,
    fake_chumpy,
    model_fields,
    npy_header,
    published,
    python2_pickle,
    write_object_npz,
)
from scipy.sparse import coo_array, coo_matrix, csc_matrix, csr_matrix

from metro_ros.core.errors import SourceError
from training import unpickler
from training.pickle_records import Refused, SparseMatrix, UnknownNode
from training.unpickler import loads, read_npz, read_pickle


def refusal(data: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        loads(data, "the file")
    text = str(caught.value)
    assert "\n" not in text and text.isprintable() and len(text) < 400
    return text


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_published_model_is_read_without_chumpy(tmp_path: Path, protocol: int) -> None:
    fields = model_fields()
    (tmp_path / "model.pkl").write_bytes(published(fields, protocol))
    read = read_pickle(tmp_path / "model.pkl")
    assert read.keys() == fields.keys()
    for name in ("v_template", "shapedirs", "posedirs", "weights", "kintree_table", "f"):
        assert read[name].dtype == fields[name].dtype
        np.testing.assert_array_equal(read[name], fields[name])
    np.testing.assert_array_equal(read["J_regressor"].dense(), fields["J_regressor"].toarray())
    assert (read["bs_style"], read["bs_type"]) == ("lbs", "lrotmin")


@pytest.mark.parametrize("protocol", range(6))
def test_python_3_writes_the_same(protocol: int) -> None:
    value = OrderedDict(
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)), big=np.arange(3, dtype=">i4"), scalar=np.float32(2.5),
        empty=np.zeros((0, 3)), text=np.array(["ab", "c"]), names=["a", ("b", None)], bits=np.array([True, False]),
        raw=b"\xff", nothing=b"", matrix=csc_matrix([[0, 2.0], [1, 0]]), few={"x", 1},
    )  # fmt: skip
    read = loads(pickle.dumps(value, protocol), "memory")
    assert list(read) == list(value)
    for name in ("fortran", "big", "scalar", "empty", "text", "bits"):
        np.testing.assert_array_equal(read[name], value[name], strict=True)
    assert all(read[name] == value[name] for name in ("names", "raw", "nothing", "few"))
    np.testing.assert_array_equal(read["matrix"].dense(), value["matrix"].toarray())


@pytest.mark.parametrize("kind", [csc_matrix, csr_matrix, coo_matrix, coo_array])
def test_sparse_matrices_of_every_layout(kind) -> None:
    random = np.random.default_rng(1)
    dense = random.random((5, 7)) * (random.random((5, 7)) < 0.4)
    read = loads(pickle.dumps(kind(dense)), "memory")
    assert isinstance(read, SparseMatrix) and read.shape == (5, 7)
    np.testing.assert_array_equal(read.dense(), dense)


def test_a_large_sparse_matrix_stays_sparse() -> None:
    read = loads(pickle.dumps(csc_matrix((10**6, 10**6))), "memory")
    with pytest.raises(Refused, match="too large"):
        read.dense()


def test_other_nodes_of_chumpy_are_named_and_not_computed() -> None:
    with fake_chumpy() as (make_ch, _):
        make_ch.__name__ = make_ch.__qualname__ = "MatVecMult"
        __import__("sys").modules["chumpy.ch"].MatVecMult = make_ch
        data = python2_pickle({"J": make_ch(x=np.eye(3))})
    read = loads(data, "memory")
    assert isinstance(read["J"], UnknownNode) and read["J"].name == "chumpy.ch.MatVecMult"


def test_a_sequence_of_3dpw_with_lists_of_arrays() -> None:
    poses = [np.arange(6.0).reshape(2, 3), np.ones((3, 72))]
    read = loads(python2_pickle({"poses": poses, "genders": ["m", "f"], "sequence": "s\xe9"}), "memory")
    np.testing.assert_array_equal(read["poses"][0], poses[0])
    assert read["genders"] == ["m", "f"] and read["sequence"] == "s\xe9"


def named(module: str, name: str, protocol: int) -> bytes:
    """A pickle that calls what it names with one argument."""
    if protocol < 4:
        return f"c{module}\n{name}\n(S'x'\ntR.".encode()
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + words + b"\x93\x8c\x01x\x85R."


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "eval"), ("numpy", "load"),
        ("os", "path.join"), ("numpy", "core.multiarray._reconstruct"), ("numpy.core.multiarray", "fromstring"),
        ("collections", "OrderedDict.update"), ("scipy.sparse", "load_npz"), ("chumpy", "os.system"),
        ("chumpy.os.path", "a.b"), ("training.unpickler", "loads"), ("builtins", "getattr"), ("", "x"),
    ],
)  # fmt: skip
def test_other_globals_are_refused_by_name(module: str, name: str, protocol: int) -> None:
    assert f"{module}.{name}" in refusal(named(module, name, protocol))


def test_a_refused_command_is_not_run(tmp_path: Path) -> None:
    assert "os.system" in refusal(evil_pickle(tmp_path / "victim"))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"cchumpy.ch\nCh\n(tR.", "call"),  # a class is made, never called
        (b"cbuiltins\nset\n}S'a'\nI1\nsb.", "state"),  # BUILD would set attributes of a function
        (b"(lS'__class__'\n}b.", "state"),
        (b"cchumpy.ch\nCh\nI1\n\x85\x81.", "class"),
        (b"S'os'\n(tR.", "call"),
        (b"cbuiltins\nset\n.", "value of type builtins.set"),
        (b"Pname\n.", "step"),
        (b"\x82\x01.", "step"),
        (b"(ios\nsystem\n.", "step"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", ""),  # a bytearray of more than a terabyte
        (b"}" + b")" + b"\x85" * 50_000 + b"I1\ns.", "nested tuples"),
        (b"cbuiltins\nset\n(" + b")" + b"\x85" * 50_000 + b"ltR.", ""),
        (b"(" * 3 + b"]" + b"]a" * 100, ""),
        (b"]" + b"]a" * 3 + b"0" * 9, ""),
    ],
)
def test_steps_that_reach_beyond_records_are_refused(data: bytes, reason: str) -> None:
    assert reason in refusal(data)


def test_lists_that_hold_themselves_or_each_other_many_times_end() -> None:
    refusal(b"]q\x00h\x00a.")
    doubling = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"."
    assert len(loads(doubling, "memory")) == 2


def test_endless_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickler, "MAX_STEPS", 1000)
    assert "1000 steps" in refusal(b"N0" * 501 + b"N.")


def array_pickle(shape: str, code: str = "f8", content: str = "") -> bytes:
    return (
        f"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n{shape}"
        f"cnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'{content}'\ntb."
    ).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (array_pickle("(I100000000000\nt"), "shape"),
        (array_pickle("(L" + "9" * 4000 + "L\nt"), "shape"),
        (array_pickle("(I-1\nt"), "shape"),
        (array_pickle("(I2\nt", content="1234567"), "fit"),
        (array_pickle("(I1\nt", "O8", "x"), "fit"),
        (array_pickle("(I1\nt", "V8", "12345678"), "type"),
        (array_pickle("(I1\nt", "S99999999999", "1"), "type"),
        (array_pickle("(" + "I1\n" * 40 + "t", content="12345678"), "tuple"),
    ],
)
def test_arrays_that_claim_more_than_they_bring_are_refused(data: bytes, reason: str) -> None:
    assert reason in refusal(data)
    assert loads(array_pickle("(I1\nt", content="12345678"), "memory").shape == (1,)


@pytest.mark.parametrize(
    "change",
    [
        {"indices": np.array([0, 5], np.int32)}, {"indices": np.array([0, -1], np.int32)},
        {"indptr": np.array([0, 2, 1], np.int32)}, {"indptr": np.array([0, 1], np.int32)},
        {"indptr": np.array([0, 1, 9], np.int32)}, {"indices": np.array([0.0, 1.0])}, {"data": np.ones(1)},
        {"_shape": (2, 10**12)}, {"_shape": None}, {"data": None},
    ],
)  # fmt: skip
def test_damaged_sparse_matrices_are_refused(change: dict) -> None:
    matrix = csc_matrix(np.eye(2))
    matrix.__dict__.update(change)
    refusal(pickle.dumps(matrix))


def test_truncated_and_damaged_pickles_are_refused_or_read() -> None:
    data = published(model_fields(12))
    for length in range(0, len(data) - 1, 97):
        refusal(data[:length])
    random = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(256)
        try:
            loads(bytes(damaged), "the file")
        except SourceError as error:
            assert "\n" not in str(error)


def test_files_that_are_none(tmp_path: Path) -> None:
    for reader in (read_pickle, lambda path: read_npz(path, ("D",))):
        for path in (tmp_path, tmp_path / "missing", Path("/dev/zero")):
            with pytest.raises(SourceError, match="cannot read"):
                reader(path)
    (tmp_path / "large").write_bytes(pickle.dumps([0] * 99))
    with pytest.raises(SourceError, match="too large: expected at most 50 bytes"):
        unpickler.read_bytes(tmp_path / "large", 50)


def test_npz_of_object_arrays(tmp_path: Path) -> None:
    matrices = [csc_matrix(np.eye(3)), csc_matrix(np.ones((2, 3)))]
    write_object_npz(tmp_path / "old.npz", A=["unread"], D=matrices)
    objects = np.empty(2, object)
    objects[:] = matrices
    np.savez(tmp_path / "new.npz", D=objects, plain=np.arange(3), one=np.array(matrices[0], dtype=object))
    for name in ("old.npz", "new.npz"):
        read = read_npz(tmp_path / name, ("D", "plain"), optional=("plain",))
        np.testing.assert_array_equal(read["D"][1].dense(), np.ones((2, 3)))
    np.testing.assert_array_equal(read["plain"], np.arange(3))
    assert set(read_npz(tmp_path / "new.npz", ("D",))) == {"D"}
    with pytest.raises(SourceError, match="an array missing"):
        read_npz(tmp_path / "new.npz", ("missing",))


def test_npz_that_lies_or_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"

    def refused(**entries: bytes) -> str:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(f"{name}.npy", content)
        with pytest.raises(SourceError) as caught:
            read_npz(path, ("D",))
        return str(caught.value)

    assert "os.system" in refused(D=npy_header("|O", (1,)) + evil_pickle(tmp_path / "victim"))
    assert not (tmp_path / "victim").exists()
    assert "lies" in refused(D=npy_header("<f8", (12_500_000_000,)) + b"\0" * 8)
    assert "lies" in refused(D=npy_header("|O", (2,)) + python2_pickle(np.empty(1, object)))
    assert "lies" in refused(D=npy_header("|O", (1,)) + pickle.dumps([1]))
    assert "unknown type" in refused(D=npy_header("<c16", (1,)) + b"\0" * 16)
    assert "no array" in refused(D=b"not an array")
    file = io.BytesIO()
    np.savez(file, D=np.zeros(3))
    path.write_bytes(claim_size(file.getvalue(), 0xFFFFFFF0))
    with pytest.raises(SourceError, match="too large"):
        read_npz(path, ("D",))
    path.write_bytes(file.getvalue()[:-40])
    with pytest.raises(SourceError, match="cannot read"):
        read_npz(path, ("D",))
