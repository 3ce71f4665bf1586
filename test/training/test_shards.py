"""Shards: what is written is read, by us and by webdataset, and nothing damaged is believed."""

import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from samples import NAMES, make_dense, make_sample

from metro_ros.core.errors import ConfigError, SourceError
from training.datasets import decode, record, shards
from training.datasets.record import encode_sample
from training.datasets.sample import Sample, SampleError
from training.datasets.shards import ShardDataset, write_shard, write_shards

SMOOTH = np.indices((80, 96)).sum(axis=0)[..., None].astype(np.uint8) + np.uint8([0, 20, 40])


def _samples(count: int = 3) -> list[Sample]:
    """A full one, one with a pose and no vertices, and one without labels, again and again."""
    rng = np.random.default_rng(0)
    vertices = rng.uniform(-1, 1, (11, 3)).astype(np.float32)
    pose, betas = rng.normal(size=72).astype(np.float32), rng.normal(size=10).astype(np.float32)
    none = np.zeros(len(NAMES), np.float32)
    kinds = (
        {"vertices": vertices, "dense": make_dense()},
        {"pose": pose, "betas": betas},
        {"person": False, "joint_confidence": none, "keypoint_confidence": none},
    )
    return [make_sample(row, image=SMOOTH, **kinds[row % 3]) for row in range(count)]


def _shard(folder: Path, count: int = 3) -> Path:
    path = folder / "a_00000.tar"
    write_shard(path, _samples(count), NAMES)
    return path


def _rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write the tar again with every member's bytes changed, or left out where None."""
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            changed = change(name, content)
            if changed is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed)
                tar.addfile(info, io.BytesIO(changed))


def _change_first(suffix: str, content: bytes | None) -> Callable[[str, bytes], bytes | None]:
    return lambda name, old: content if name == f"a_00000_000000.{suffix}" else old


def _change_labels(**changes: object) -> Callable[[str, bytes], bytes]:
    def change(name: str, old: bytes) -> bytes:
        if not name.endswith("000000.json"):
            return old
        labels = {**json.loads(old), **changes}
        return json.dumps({key: value for key, value in labels.items() if value != "drop"}).encode()

    return change


def test_what_is_written_is_read(tmp_path: Path) -> None:
    _shard(tmp_path)
    data = ShardDataset(tmp_path)
    assert len(data) == 3 and data.joint_names == NAMES and data.name == tmp_path.name
    for row, made in enumerate(_samples()):
        stored = data[row]
        assert (stored.key, stored.box, stored.person) == (made.key, made.box, made.person)
        for name in ("keypoints_px", "keypoint_confidence", "joints", "joint_confidence", "pose", "betas"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(made, name))
        assert np.abs(stored.image.astype(int) - made.image).mean() < 2.0
        assert (stored.vertices is None, stored.dense is None) == (made.vertices is None, made.dense is None)
    full, made = data[0], _samples()[0]
    assert full.vertices is not None and made.vertices is not None and full.dense is not None and made.dense is not None
    np.testing.assert_allclose(full.vertices, made.vertices, atol=5e-4)
    np.testing.assert_allclose(full.dense.mask, made.dense.mask, atol=5e-4)
    np.testing.assert_allclose(full.dense.surface, made.dense.surface, atol=5e-4)


def test_vertices_far_away_keep_their_precision(tmp_path: Path) -> None:
    far = np.random.default_rng(0).uniform(4, 6, (11, 3)).astype(np.float32)
    write_shard(tmp_path / "far.tar", [make_sample(vertices=far)], NAMES)
    np.testing.assert_array_equal(ShardDataset(tmp_path)[0].vertices, far)


def test_webdataset_reads_what_we_write(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    path = _shard(tmp_path)
    rows = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    assert [row["__key__"] for row in rows] == [f"a_00000_{row:06d}" for row in range(3)]
    assert set(rows[0]) >= {"jpg", "json", "vertices.npy", "mask.npy", "surface.npy"}
    decoded = next(iter(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode()))
    assert decoded["json"]["joint_names"] == list(NAMES)
    np.testing.assert_allclose(decoded["vertices.npy"], _samples()[0].vertices, atol=5e-4)


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    png = cv2.imencode(".png", SMOOTH[..., ::-1])[1].tobytes()
    members = encode_sample(_samples()[0], NAMES)
    del members["jpg"]
    with webdataset.TarWriter(str(tmp_path / "other.tar"), encoder=False) as writer:
        writer.write({"__key__": "some/where", "png": png, "caption.txt": b"ours to ignore", **members})
    sample = ShardDataset(tmp_path)[0]
    np.testing.assert_array_equal(sample.image, SMOOTH)
    assert sample.dense is not None


def test_a_shard_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    def broken() -> Iterator[Sample]:
        yield make_sample()
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
        with pytest.raises(SourceError, match="no training shards"):
            ShardDataset(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.tar", broken(), NAMES)
    assert not list(tmp_path.iterdir())


def test_finished_shards_join_in_behind_the_others(tmp_path: Path) -> None:
    write_shard(tmp_path / "m.tar", _samples(2), NAMES)
    data = ShardDataset(tmp_path)
    write_shard(tmp_path / "a.tar", [make_sample(7, key="late")], NAMES)
    assert len(data) == 2 and data.refresh() == 1 and len(data) == 3
    assert data[0].key == "made/0" and data[2].key == "late"
    assert data.refresh() == 0
    again = pickle.loads(pickle.dumps(data))  # as the workers of a DataLoader get it
    assert again[2].key == "late"


class _Source:
    joint_names = NAMES

    def sample(self, rng: np.random.Generator) -> Sample:
        return make_sample(int(rng.integers(1 << 30)))


def test_shards_are_drawn_once_and_the_same_again(tmp_path: Path) -> None:
    write_shards(_Source(), tmp_path, seed=4, count=5, size=2, first=3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"4_0000{number}.tar" for number in (3, 4, 5)]
    kept = (tmp_path / "4_00004.tar").stat().st_mtime_ns
    joints = ShardDataset(tmp_path)[2].joints
    assert ShardDataset(tmp_path)[2].key == "4_00004/0"
    (tmp_path / "4_00003.tar").unlink()
    write_shards(_Source(), tmp_path, seed=4, count=6, size=2, first=3)
    assert (tmp_path / "4_00004.tar").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(ShardDataset(tmp_path)[2].joints, joints)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GOOD_NPY = _npy(np.zeros((16, 16), np.float16))
LARGE_PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 1 << 16, 1 << 16) + bytes(20)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("jpg", b"", "not an image"),
        ("jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "not an image"),
        ("jpg", cv2.imencode(".jpg", SMOOTH)[1].tobytes()[:40], "image"),
        ("jpg", LARGE_PNG, "image size: expected 1.."),
        ("jpg", LARGE_PNG[:16] + struct.pack(">II", 8, 8) + bytes(20), "damaged image"),
        ("jpg", None, "not an image"),
        ("json", None, "no labels"),
        ("json", b"{", "damaged labels"),
        ("json", b"[" * 100_000, "damaged labels"),
        ("json", b"[]", "a JSON object"),
        ("json", b" " * (1 << 21), "labels too long"),
        ("mask.npy", b"", "damaged .*npy"),
        ("mask.npy", GOOD_NPY[:-2], "damaged .*npy"),
        ("mask.npy", GOOD_NPY.replace(b"16, 16", b"99, 99"), "damaged .*npy"),
        ("mask.npy", _npy(np.array([None, {}])), "damaged .*npy"),
        ("mask.npy", _npy(np.zeros((16, 16), np.int64)), "damaged .*npy"),
        ("mask.npy", _npy(np.zeros((16, 8), np.float16)), "dense: expected"),
        ("mask.npy", _npy(np.full((16, 16), np.nan, np.float16)), "finite numbers"),
        ("surface.npy", None, "damaged .*npy"),
        ("vertices.npy", _npy(np.zeros((4, 2), np.float16)), "vertices"),
        ("vertices.npy", _npy(np.float16(3.0)), "vertices"),
        ("vertices.npy", _npy(np.full((4, 3), np.inf, np.float16)), "vertices"),
    ],
)
def test_a_damaged_member_costs_its_row_only(tmp_path: Path, suffix: str, content: bytes | None, message: str) -> None:
    path = _shard(tmp_path)
    data = ShardDataset(tmp_path)
    _rewrite(path, _change_first(suffix, content))
    data._rows = np.array([(0, *span) for span in shards._spans(path)], np.int64)
    with pytest.raises(SampleError, match=message) as caught:
        data[0]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert data[1].key == "made/1" and data[2].key == "made/2"


@pytest.mark.parametrize(
    "changes",
    [
        {"key": 5},
        {"key": "two\nlines"},
        {"key": "long" * 100},
        {"key": "drop"},
        {"box": [1, 2]},
        {"box": [1, 2, -3]},
        {"box": "near"},
        {"joints": [[1, 2, 3]]},
        {"joints": [[1, 2], [3]]},
        {"joints": None},
        {"joints": "drop"},
        {"joints": [[float("nan")] * 3] * 4},
        {"pose": [0.0] * 72},
        {"betas": {}},
        {"person": "yes"},
        {"joint_names": ["a", "b", "c", "d"]},
    ],
)
def test_labels_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path = _shard(tmp_path)
    data = ShardDataset(tmp_path)
    _rewrite(path, _change_labels(**changes))
    data._rows = np.array([(0, *span) for span in shards._spans(path)], np.int64)
    with pytest.raises(SampleError, match=r"row 0|made/0"):
        data[0]
    assert data[1].key == "made/1"


@pytest.mark.parametrize("names", [[], "Head", [1, 2], ["Head", "Head"], None])
def test_joints_without_names_are_refused(tmp_path: Path, names: object) -> None:
    path = _shard(tmp_path)
    _rewrite(path, _change_labels(joint_names=names))
    with pytest.raises(SampleError, match="joint names"):
        ShardDataset(tmp_path)


def _header(name: str = "a_00000_000000.jpg", size: int = 4, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


BLOCK = b"data".ljust(512, b"\0")
END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"no tar at all" * 100, "is damaged"),
        (_header() + BLOCK, "cut off"),
        (_header(size=5000) + BLOCK, "cut off"),
        (_header() + BLOCK + _header()[:300], "cut off"),
        (_header().replace(b"jpg", b"png") + BLOCK + END, "of its checksum"),
        (_header(kind=tarfile.SYMTYPE, size=0) + END, "files and folders only"),
        (_header(name="a\n.jpg") + BLOCK + END, "odd name"),
        (_header(name="x", kind=b"x", size=14) + b"14 path=/etc/a".ljust(512, b"\0") + END, "unknown kind of tar"),
        (END, "no training shards"),
        (_header(size=(1 << 26) + 1) + bytes((1 << 26) + 512) + END, "expected up to"),
    ],
)
def test_what_is_no_whole_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        ShardDataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_newcomer_is_not_taken_in(tmp_path: Path) -> None:
    _shard(tmp_path)
    data = ShardDataset(tmp_path)
    write_shard(tmp_path / "b.tar", _samples(1), NAMES)
    (tmp_path / "c.tar").write_bytes(b"x" * 1024)
    with pytest.raises(SourceError, match=r"c\.tar is damaged"):
        data.refresh()
    (tmp_path / "c.tar").unlink()
    assert len(data) == 3 and data.refresh() == 1


def test_a_shard_cut_off_later_costs_the_rows_behind(tmp_path: Path) -> None:
    path = _shard(tmp_path)
    data = ShardDataset(tmp_path)
    with path.open("r+b") as file:
        file.truncate(int(data._rows[1][2]) - 600)
    assert data[0].key == "made/0"
    with pytest.raises(SampleError, match=r"row 1 of .* is cut off"):
        data[1]
    with pytest.raises(SampleError, match=r"row 2 of .*: no labels"):
        data[2]


def test_a_shard_that_went_away_costs_its_rows(tmp_path: Path) -> None:
    path = _shard(tmp_path)
    data = ShardDataset(tmp_path)
    path.unlink()
    with pytest.raises(SampleError, match=r"row 1 .*cannot read a_00000.tar"):
        data[1]


def test_bad_input_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no training shards"):
        ShardDataset(tmp_path / "nowhere")
    for name in ("a.b.tar", "a", "a b.tar", ".tar"):
        with pytest.raises(ConfigError, match="name of a shard"):
            write_shard(tmp_path / name, [], NAMES)
    with pytest.raises(SampleError, match="made/0: joints: expected 2, got 4"):
        write_shard(tmp_path / "a.tar", [make_sample()], NAMES[:2])
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cannot write"):
        write_shard(tmp_path / "file" / "a.tar", [make_sample()], NAMES)


def test_headers_are_parsed_once() -> None:
    """Reading must stay far below a millisecond; numpy parses a header in 25 µs."""
    record._header.cache_clear()
    for _ in range(3):
        record._array({"mask.npy": GOOD_NPY}, "mask.npy", 2, "here")
    assert record._header.cache_info().hits == 2


def test_images_are_decoded_as_they_are_stored() -> None:
    orange = np.full((8, 16, 3), (240, 130, 20), np.uint8)
    for encoded in (cv2.imencode(".png", orange[..., ::-1])[1], cv2.imencode(".jpg", orange[..., ::-1])[1]):
        image = decode.decode_image(encoded.tobytes(), "here")
        assert image.shape == (8, 16, 3) and image.flags["C_CONTIGUOUS"]
        assert np.abs(image.astype(int) - orange).max() < 6
