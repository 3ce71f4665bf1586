import dataclasses
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import make_tiny_bundle, tiny_mesh

from metro_ros.core import bundle as bundles
from metro_ros.core.bundle import Bundle, load_bundle, record_measurement, write_bundle
from metro_ros.core.errors import BundleError, ConfigError

FIELDS: dict[str, Any] = {
    "name": "test",
    "licence": {"weights": "Apache-2.0", "body_model": "none"},
    "origin": {},
    "crop": {"size": 64, "padding": 1.2, "color": "rgb", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "joints": {"names": [f"j{index}" for index in range(17)], "parents": [-1] * 17},
    "camera": {"model": "weak_perspective", "frame": "crop_ray"},
}


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))


def rehash(path: Path) -> None:
    """Make the manifest agree with changed files, so that what is behind the hash is reached."""
    from hashlib import sha256

    manifest = json.loads((path / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry["sha256"] = sha256((path / name).read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_built_in_bundles_go_by_their_names(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MODELS", copy.parent / "models")
    (copy.parent / "models" / "demo_clip").mkdir(parents=True)
    shutil.copytree(copy, copy.parent / "models" / "hand")
    monkeypatch.chdir(copy.parent)
    assert bundles.built_in_bundles() == ("hand",)
    assert load_bundle("hand").path == copy.parent / "models" / "hand"
    for name in ("foot", "demo_clip", "../hand"):
        with pytest.raises(BundleError, match=r"no model bundle: expected a directory with manifest.json or hand, got"):
            load_bundle(name)
    shutil.copytree(copy, copy.parent / "hand")
    assert load_bundle("hand").path == Path("hand")  # a directory of that name comes first


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    mesh = tiny_mesh()
    write_bundle(tmp_path / "a" / "bundle", FIELDS, b"model", mesh)
    bundle = load_bundle(tmp_path / "a" / "bundle")
    assert bundle.model_path.read_bytes() == b"model"
    assert bundle.levels == (18, 66, 258)
    assert bundle.skeleton.names == tuple(FIELDS["joints"]["names"])
    assert bundle.manifest.camera_frame == "crop_ray"
    assert bundle.manifest.crop.padding == 1.2
    np.testing.assert_array_equal(bundle.template, mesh["template"])
    np.testing.assert_array_equal(bundle.joint_regressor, mesh["joint_regressor"])
    for level in range(3):
        np.testing.assert_array_equal(bundle.faces[level], mesh[f"faces_{level}"])
        np.testing.assert_array_equal(bundle.rows[level], mesh[f"rows_{level}"])
    with pytest.raises(ValueError, match="read-only"):
        bundle.template[0] = 0


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        write_bundle(tmp_path / "bundle", FIELDS, b"model", tiny_mesh())
        contents.append({file.name: file.read_bytes() for file in (tmp_path / "bundle").iterdir()})
    assert contents[0] == contents[1]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_refused_bundle_does_not_touch_the_one_that_is_there(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", FIELDS, b"model", tiny_mesh())
    broken = tiny_mesh()
    broken["template"][0] = np.nan
    with pytest.raises(BundleError, match="template"):
        write_bundle(tmp_path / "bundle", {**FIELDS, "name": "new"}, b"model", broken)
    assert load_bundle(tmp_path / "bundle").manifest.name == "test"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_level_by_vertex_count(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.level(66) == 1
    with pytest.raises(ConfigError, match="18 or 66 or 258"):
        tiny_bundle.level(1229)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json.*nowhere"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "mesh.npz"])
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"expected {name}, got no such file"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["model.onnx", "mesh.npz"])
def test_a_wrong_hash(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=f"{name} is not the file that the manifest describes.*SHA-256"):
        load_bundle(copy)


def drop(*keys: str) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        del fields[keys[-1]]

    return change


def put(value: Any, *keys: str) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        fields[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("schema"), "schema"),
        (put(2, "schema"), "schema: expected 1, got 2"),
        (put("", "name"), "name"),
        (put("feet", "units"), "units"),
        (put("z up", "axes"), "axes"),
        (put("no", "crop"), "crop: expected an object"),
        (put(1, "crop", "colour"), "crop"),
        (drop("crop", "size"), "crop"),
        (put("64", "crop", "size"), "crop.size"),
        (put(0.5, "crop", "padding"), "crop.padding"),
        (put(float("nan"), "crop", "padding"), "crop.padding"),
        (put("bgr", "crop", "color"), "crop.color"),
        (put([0, 0], "crop", "mean"), "crop.mean"),
        (put([1, 0, 1], "crop", "std"), "crop.std"),
        (put(5, "crop", "std"), "crop"),
        (put([], "joints", "names"), "joints.names"),
        (put([0] * 17, "joints", "parents"), "ancestor"),
        (put(["left"] * 17, "joints", "sides"), "joints.sides"),
        (put(5, "joints", "sides"), "joints.sides"),
        (put([258, 66, 18], "levels"), "levels"),
        (put([18, 66, 257], "levels"), "rows_"),
        (put([66, 258], "levels"), "faces_0|rows_0"),
        (put("perspective", "camera", "model"), "camera.model"),
        (put("world", "camera", "frame"), "crop_ray or camera"),
        (put({}, "licence"), "licence"),
        (put(50, "confidence"), "confidence: expected an object"),
        (put({}, "confidence"), "confidence: expected threshold_mm"),
        (put({"threshold_mm": 0}, "confidence"), "confidence: expected threshold_mm, a number of millimetres above 0"),
        (put({"threshold_mm": float("nan")}, "confidence"), "confidence: expected threshold_mm"),
        (put({"threshold_mm": "50"}, "confidence"), "confidence: expected threshold_mm"),
        (put({"threshold_mm": 50, "threshold_m": 0.05}, "confidence"), "and nothing else"),
        (put({"threshold_mm": 50, "least": 1.5}, "confidence"), "confidence, least: expected a number from 0 to 1"),
        (put({"threshold_mm": 50, "least": "low"}, "confidence"), "confidence, least: expected a number from 0 to 1"),
        (drop("origin"), "origin"),
        (drop("measured"), "measured"),
        (put({}, "files"), "files.model.onnx.sha256"),
        (put("1234", "files", "mesh.npz", "sha256"), "files.mesh.npz.sha256"),
    ],
)
def test_a_manifest_that_is_wrong(copy: Path, change: Callable[[Any], None], says: str) -> None:
    fields = json.loads((copy / "manifest.json").read_text())
    change(fields)
    (copy / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=says):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, " " * 2_000_000, "\xff"])
def test_a_manifest_that_is_none(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("faces_0", lambda a: a + 15, "faces_0, index out of range: expected 0..17"),
        ("faces_1", lambda a: a - 1, "faces_1, index out of range"),
        ("faces_2", lambda a: a.astype(np.int64), "int32"),
        ("faces_2", lambda a: a[:, :2], r"\(any, 3\)"),
        ("rows_0", lambda a: a + 258, "rows_0, index out of range"),
        ("rows_1", lambda a: a[:-1], "66"),
        ("rows_2", lambda a: a[::-1], "finest level"),
        ("template", lambda a: a * np.nan, "template: expected finite"),
        ("template", lambda a: a.astype(np.float64), "float32"),
        ("joint_regressor", lambda a: a[:14], "17, 258"),
        ("joint_regressor", lambda a: a / np.float32(0), "joint_regressor: expected finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_mesh_that_is_wrong(tmp_path: Path, name: str, change: Callable[[Any], Any], says: str) -> None:
    mesh = tiny_mesh()
    mesh[name] = change(mesh[name])
    with pytest.raises(BundleError, match=says):
        write_bundle(tmp_path / "bundle", {**FIELDS, "levels": [18, 66, 258]}, b"model", mesh)


def test_a_mesh_with_more_or_less_than_it_should_have(tmp_path: Path) -> None:
    mesh = tiny_mesh()
    with pytest.raises(BundleError, match="unknown arrays"):
        write_bundle(tmp_path / "bundle", FIELDS, b"model", {**mesh, "extra": np.zeros(3)})
    del mesh["template"]
    with pytest.raises(BundleError, match=r"template.*nothing"):
        write_bundle(tmp_path / "bundle", FIELDS, b"model", mesh)


def npy(header: str, data: bytes) -> bytes:
    """A hand-made .npy file, whose header may say anything."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3)}\n", b"\0" * 12), "header.*lies"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -3)}\n", b"\0" * 12), "header.*lies"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"\0" * 8), "plain numbers"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}\n", b"\0" * 12), "plain numbers"),
        (npy("__import__('os').getcwd()\n", b""), "no array"),
        (b"not an array", "no array"),
        (b"\x93NUMPY\x09\x00", "no array"),
    ],
)
def test_an_array_that_is_none(copy: Path, entry: bytes, says: str) -> None:
    with zipfile.ZipFile(copy / "mesh.npz", "w") as archive:
        archive.writestr("template.npy", entry)
    rehash(copy)
    with pytest.raises(BundleError, match=says):
        load_bundle(copy)


def test_a_pickle_is_never_opened(copy: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "trap",))

    packed = io.BytesIO()
    np.savez(packed, template=np.array([Trap()], dtype=object))
    (copy / "mesh.npz").write_bytes(packed.getvalue())
    rehash(copy)
    with pytest.raises(BundleError, match="plain numbers"):
        load_bundle(copy)
    assert not (tmp_path / "trap").exists()


def test_an_archive_that_would_grow_too_large(copy: Path) -> None:
    with zipfile.ZipFile(copy / "mesh.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        zeros = bytes(1 << 20)
        with archive.open("template.npy", "w") as file:
            for _ in range(300):
                file.write(zeros)
    rehash(copy)
    assert (copy / "mesh.npz").stat().st_size < 1 << 20
    with pytest.raises(BundleError, match="too large"):
        load_bundle(copy)


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_a_truncated_archive(copy: Path, keep: int) -> None:
    whole = (copy / "mesh.npz").read_bytes()
    (copy / "mesh.npz").write_bytes(whole[:keep])
    rehash(copy)
    with pytest.raises(BundleError, match=r"mesh\.npz"):
        load_bundle(copy)


def test_no_flipped_bit_gets_through(copy: Path) -> None:
    """Anywhere in the archive: an error of ours, or a byte that means nothing (a time stamp)."""
    whole = (copy / "mesh.npz").read_bytes()
    template = load_bundle(copy).template
    refused = 0
    for position in range(0, len(whole), len(whole) // 60):
        content = bytearray(whole)
        content[position] ^= 0x10
        (copy / "mesh.npz").write_bytes(bytes(content))
        rehash(copy)
        try:
            np.testing.assert_array_equal(load_bundle(copy).template, template)
        except BundleError:
            refused += 1
    assert refused > 40


def test_a_measurement_is_kept_and_nothing_else_changes(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "b")
    once = record_measurement(bundle, "indoors", {"frames": 3, "mpjpe_mm": 80.5})
    twice = record_measurement(once, "outdoors", {"frames": 4})
    assert twice.manifest.measured == {"indoors": {"frames": 3, "mpjpe_mm": 80.5}, "outdoors": {"frames": 4}}
    assert dataclasses.replace(twice.manifest, measured={}) == dataclasses.replace(bundle.manifest, measured={})
    assert sorted(path.name for path in bundle.path.iterdir()) == ["manifest.json", "mesh.npz", "model.onnx"]
    (tmp_path / "b").rename(tmp_path / "gone")
    with pytest.raises(BundleError, match=r"cannot write .*manifest\.json"):
        record_measurement(twice, "nowhere", {})


def test_the_meaning_of_confidence_is_kept(tmp_path: Path) -> None:
    assert make_tiny_bundle(tmp_path / "a").manifest.confidence_mm is None
    bundle = make_tiny_bundle(tmp_path / "b", calibrated=True, least_confidence=0.25)
    assert bundle.manifest.confidence_mm == 50 and bundle.manifest.least_confidence == 0.25
    again = record_measurement(bundle, "indoors", {"frames": 3}).manifest
    assert again.confidence_mm == 50 and again.least_confidence == 0.25
