"""Variants of a bundle's network and parts beside it: kept with what is known of them, checked when asked for."""

import json
from pathlib import Path

import pytest
from tiny_bundle import make_tiny_bundle

from metro_ros.core.bundle import add_part, add_variant, load_bundle
from metro_ros.core.errors import BundleError, EngineError
from metro_ros.core.manifest import Variant

CLOSE = {"mean_vertex_mm": 0.5, "max_vertex_mm": 3.0, "joints_mm": 0.4}


def test_a_variant_is_offered_with_its_error(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "b")
    once = add_variant(bundle, "int8", b"narrow", **CLOSE)
    twice = add_variant(once, "bf16", b"wider", **CLOSE | {"mean_vertex_mm": 0.1})
    assert twice.manifest.variants["int8"] == Variant("model.int8.onnx", 0.5, 3.0, 0.4)
    assert twice.model_file("int8").read_bytes() == b"narrow"
    assert twice.model_file("bf16").read_bytes() == b"wider" and twice.model_file("fp32") == twice.model_path
    assert twice.manifest.variants["bf16"].mean_vertex_mm == 0.1
    again = add_variant(twice, "int8", b"narrower", **CLOSE)
    assert again.model_file("int8").read_bytes() == b"narrower"
    assert again.manifest.measured == bundle.manifest.measured


def test_a_variant_that_is_too_far_off_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "b")
    before = sorted((path.name, path.read_bytes()) for path in bundle.path.iterdir())
    for wrong in (2.01, float("nan"), -1.0):
        with pytest.raises(BundleError, match=r"mean_vertex_mm|mean vertex error of at most 2 mm, got 2\.01"):
            add_variant(bundle, "int8", b"narrow", **CLOSE | {"mean_vertex_mm": wrong})
    with pytest.raises(BundleError, match="bf16 or fp16 or int8, got 'int4'"):
        add_variant(bundle, "int4", b"narrow", **CLOSE)
    assert sorted((path.name, path.read_bytes()) for path in bundle.path.iterdir()) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("file", "../model.onnx"), ("file", 3), ("max_vertex_mm", "3"), ("joints_mm", -1), ("mean_vertex_mm", 2.5)],
)
def test_a_manifest_with_a_wrong_variant(tmp_path: Path, field: str, value: object) -> None:
    bundle = add_variant(make_tiny_bundle(tmp_path / "b"), "int8", b"narrow", **CLOSE)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["variants"]["int8"][field] = value
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest\.json, variants"):
        load_bundle(bundle.path)


def test_a_variant_that_is_missing_or_another_is_found_when_it_is_asked_for(tmp_path: Path) -> None:
    bundle = add_variant(make_tiny_bundle(tmp_path / "b"), "int8", b"narrow", **CLOSE)
    with pytest.raises(EngineError, match=r"expected fp32 or int8, got fp16\. Make it with"):
        bundle.model_file("fp16")
    (bundle.path / "model.int8.onnx").write_bytes(b"others")
    with pytest.raises(BundleError, match=r"model\.int8\.onnx is not the file that the manifest describes"):
        load_bundle(bundle.path).model_file("int8")
    (bundle.path / "model.int8.onnx").unlink()
    with pytest.raises(BundleError, match=r"expected model\.int8\.onnx, got no such file"):
        load_bundle(bundle.path).model_file("int8")


def test_a_part_comes_along_and_is_checked_when_it_is_asked_for(tmp_path: Path) -> None:
    plain = make_tiny_bundle(tmp_path / "b")
    assert plain.part_file("finder") is None
    once = add_part(plain, "finder", b"old", {})
    twice = add_part(add_part(once, "attention", b"looks", {}), "finder", b"finds", {"width": 320})
    assert load_bundle(twice.path).manifest.parts == twice.manifest.parts
    finder = twice.part_file("finder")
    assert finder is not None and finder.read_bytes() == b"finds"
    assert twice.manifest.parts["finder"].details == {"width": 320}
    finder.write_bytes(b"others")
    with pytest.raises(BundleError, match=r"finder\.onnx is not the file that the manifest describes"):
        load_bundle(twice.path).part_file("finder")
    with pytest.raises(BundleError, match="expected finder or pose_detector or attention, got 'nose'"):
        add_part(plain, "nose", b"", {})


@pytest.mark.parametrize(("field", "value"), [("file", "../finder.onnx"), ("details", 3), ("speed", 3)])
def test_a_manifest_with_a_wrong_part(tmp_path: Path, field: str, value: object) -> None:
    bundle = add_part(make_tiny_bundle(tmp_path / "b"), "finder", b"finds", {})
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["parts"]["finder"][field] = value
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest\.json, parts"):
        load_bundle(bundle.path)
