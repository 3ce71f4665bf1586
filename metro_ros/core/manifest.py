"""manifest.json of a bundle: what it has to say, checked field by field."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from metro_ros.core.errors import BundleError, ConfigError
from metro_ros.core.skeleton import Skeleton

SCHEMA = 1
AXES = "x right, y down, z forward"
UNITS = "metres"
CAMERA_MODEL = "weak_perspective"
CAMERA_FRAMES = ("crop_ray", "camera")
MAX_BYTES = 1_000_000
VARIANT_PRECISIONS = ("bf16", "fp16", "int8")
CONFIDENCE = {"threshold_mm", "least"}
VARIANT_FILE = re.compile(r"[a-z0-9][a-z0-9._-]*\.onnx")
PARTS = ("finder", "pose_detector", "attention")
"""Networks that may come along with the model, each in a file of its own, see Part."""
MAX_VARIANT_MM = 2.0
"""A variant whose vertices are further off in the mean is not offered."""

CameraFrame = Literal["crop_ray", "camera"]


@dataclass(frozen=True, slots=True)
class CropSpec:
    """What the network sees. size: px; padding: side of the crop over the person's extent; mean, std: of RGB in 0..1.

    Casting and normalisation are inside of the graph; mean and std are told for information.
    """

    size: int
    padding: float = 1.2
    color: str = "rgb"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not (isinstance(self.size, int) and 16 <= self.size <= 2048):
            _fail("crop.size", "16 to 2048 pixels", self.size)
        if not (_is_number(self.padding) and 1.0 <= self.padding <= 4.0):
            _fail("crop.padding", "a number from 1 to 4", self.padding)
        if self.color != "rgb":
            _fail("crop.color", "rgb", self.color)
        for name, values in (("crop.mean", self.mean), ("crop.std", self.std)):
            if len(values) != 3 or not all(map(_is_number, values)):
                _fail(name, "3 numbers", values)
        if min(self.std) <= 0:
            _fail("crop.std", "deviations above 0", self.std)


@dataclass(frozen=True, slots=True)
class Variant:
    """The same network in a narrower number format, and what that costs on the crops it was measured with.

    file: its ONNX model in the bundle; mean_vertex_mm, max_vertex_mm: mean and largest distance of a vertex to where
    the fp32 network puts it; joints_mm: mean distance of a joint.
    """

    file: str
    mean_vertex_mm: float
    max_vertex_mm: float
    joints_mm: float

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not VARIANT_FILE.fullmatch(self.file):
            _fail("variants, file", "a name such as model.int8.onnx", repr(self.file))
        for name in ("mean_vertex_mm", "max_vertex_mm", "joints_mm"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                _fail(f"variants.{name}", "a number of millimetres", getattr(self, name))
        if self.mean_vertex_mm > MAX_VARIANT_MM:
            _fail(
                f"variants, {self.file}", f"a mean vertex error of at most {MAX_VARIANT_MM:g} mm", self.mean_vertex_mm
            )


@dataclass(frozen=True, slots=True)
class Part:
    """A network that comes along with the model.

    file: its ONNX model in the bundle; details: free-form, JSON, what its reader in the core has to know.
    """

    file: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not VARIANT_FILE.fullmatch(self.file):
            _fail("parts, file", "a name such as finder.onnx", repr(self.file))
        if not isinstance(self.details, Mapping):
            _fail(f"parts, {self.file}, details", "an object", repr(self.details))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The checked content of manifest.json.

    camera_frame: the axes of joints and vertices, `crop_ray` (turned so that z runs through the centre of the crop) or
    `camera`; levels: vertices per mesh level, coarsest first; licence: of weights and body model; origin, measured:
    free-form; sha256: hex digest by file name; variants: by precision; parts: by name, see PARTS; confidence_mm: a
    joint's confidence is the probability that it is within so many millimetres of the truth, both root-relative, and
    the model tells visibility apart; None for a model whose confidence, if it has any, is visibility;
    least_confidence: in 0..1, what shows less, as the mean of all joints, is none of the model's kind.
    """

    name: str
    crop: CropSpec
    skeleton: Skeleton
    levels: tuple[int, ...]
    camera_frame: CameraFrame
    licence: Mapping[str, str]
    origin: Mapping[str, Any]
    measured: Mapping[str, Any]
    sha256: Mapping[str, str]
    variants: Mapping[str, Variant] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    confidence_mm: float | None = None
    least_confidence: float = 0.0


def read_manifest(path: Path, files: tuple[str, ...]) -> Manifest:
    """Read and check manifest.json at `path`, which must give a hash for each of `files`. Raises BundleError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        fields = json.loads(raw) if len(raw) <= MAX_BYTES else _fail("size", f"at most {MAX_BYTES} bytes", "more")
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"cannot read {path}", expected="JSON", got=f"{type(error).__name__} {error}") from error
    manifest = parse_manifest(fields)
    further: list[Variant | Part] = [*manifest.variants.values(), *manifest.parts.values()]
    for name in (*files, *(entry.file for entry in further)):
        digest = manifest.sha256.get(name, "")
        if len(digest) != 64:
            _fail(f"files.{name}.sha256", "64 hexadecimal digits", digest)
    return manifest


def parse_manifest(fields: object) -> Manifest:
    """Check the parsed JSON. Raises BundleError naming the field, what it should be and what it is."""
    if not isinstance(fields, Mapping):
        _fail("top level", "an object", type(fields).__name__)
    for name, expected in (("schema", SCHEMA), ("axes", AXES), ("units", UNITS)):
        if fields.get(name) != expected:
            _fail(name, repr(expected), repr(fields.get(name)))
    title = fields.get("name")
    if not isinstance(title, str) or not title:
        _fail("name", "a non-empty string", repr(title))
    crop = dict(_object(fields, "crop"))
    try:
        crop_spec = CropSpec(**crop)
    except TypeError as error:
        _fail("crop", "size, padding, color, mean, std", error)
    camera = _object(fields, "camera")
    if camera.get("model") != CAMERA_MODEL:
        _fail("camera.model", CAMERA_MODEL, repr(camera.get("model")))
    if camera.get("frame") not in CAMERA_FRAMES:
        _fail("camera.frame", " or ".join(CAMERA_FRAMES), repr(camera.get("frame")))
    levels = fields.get("levels")
    if (
        not isinstance(levels, list | tuple)
        or not levels
        or not all(isinstance(level, int) and level > 0 for level in levels)
        or list(levels) != sorted(set(levels))
    ):
        _fail("levels", "increasing vertex counts", levels)
    licence = _object(fields, "licence")
    if not all(isinstance(licence.get(part), str) for part in ("weights", "body_model")):
        _fail("licence", "strings for weights and body_model", dict(licence))
    files = _object(fields, "files") if "files" in fields else {}
    return Manifest(
        name=title,
        crop=crop_spec,
        skeleton=_skeleton(_object(fields, "joints")),
        levels=tuple(levels),
        camera_frame=camera["frame"],
        licence=licence,
        origin=_object(fields, "origin"),
        measured=_object(fields, "measured"),
        sha256={name: str(entry.get("sha256")) for name, entry in files.items() if isinstance(entry, Mapping)},
        variants=parse_variants(_object(fields, "variants") if "variants" in fields else {}),
        parts=parse_parts(_object(fields, "parts") if "parts" in fields else {}),
        **(_confidence(_object(fields, "confidence")) if "confidence" in fields else {}),
    )


def manifest_json(manifest: Manifest) -> str:
    """The text of manifest.json; `parse_manifest` reads back an equal Manifest."""
    skeleton = manifest.skeleton
    fields = {
        "schema": SCHEMA,
        "name": manifest.name,
        "files": {name: {"sha256": digest} for name, digest in manifest.sha256.items()},
        "licence": dict(manifest.licence),
        "origin": dict(manifest.origin),
        "crop": asdict(manifest.crop),
        "joints": {
            "names": list(skeleton.names),
            "parents": list(skeleton.parents),
            "sides": list(skeleton.sides),
        },
        "levels": list(manifest.levels),
        "axes": AXES,
        "units": UNITS,
        "camera": {"model": CAMERA_MODEL, "frame": manifest.camera_frame},
        "measured": dict(manifest.measured),
    }
    if manifest.variants:
        fields["variants"] = {precision: asdict(variant) for precision, variant in manifest.variants.items()}
    if manifest.parts:
        fields["parts"] = {name: asdict(part) for name, part in manifest.parts.items()}
    if manifest.confidence_mm is not None:
        fields["confidence"] = {"threshold_mm": manifest.confidence_mm, "least": manifest.least_confidence}
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def parse_variants(fields: Mapping[str, Any]) -> dict[str, Variant]:
    """The variants by precision. Raises BundleError naming what is wrong with one, its error included."""
    variants = {}
    for precision in fields:
        if precision not in VARIANT_PRECISIONS:
            _fail("variants", " or ".join(VARIANT_PRECISIONS), repr(precision))
        try:
            variants[precision] = Variant(**_object(fields, precision))
        except TypeError as error:
            _fail(f"variants.{precision}", "file, mean_vertex_mm, max_vertex_mm, joints_mm", error)
    return variants


def parse_parts(fields: Mapping[str, Any]) -> dict[str, Part]:
    """The parts by name. Raises BundleError naming what is wrong with one."""
    parts = {}
    for name in fields:
        if name not in PARTS:
            _fail("parts", " or ".join(PARTS), repr(name))
        try:
            parts[name] = Part(**_object(fields, name))
        except TypeError as error:
            _fail(f"parts.{name}", "file, details", error)
    return parts


def _confidence(fields: Mapping[str, Any]) -> dict[str, float]:
    threshold_mm, least = fields.get("threshold_mm"), fields.get("least", 0.0)
    if not isinstance(threshold_mm, int | float) or not 0 < threshold_mm < math.inf or set(fields) - CONFIDENCE:
        _fail("confidence", "threshold_mm, a number of millimetres above 0, least, and nothing else", dict(fields))
    if not isinstance(least, int | float) or not 0 <= least <= 1:
        _fail("confidence, least", "a number from 0 to 1", repr(least))
    return {"confidence_mm": float(threshold_mm), "least_confidence": float(least)}


def _skeleton(joints: Mapping[str, Any]) -> Skeleton:
    names, parents = joints.get("names"), joints.get("parents")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or not names:
        _fail("joints.names", "strings", names)
    if not isinstance(parents, list | tuple) or not all(isinstance(parent, int) for parent in parents):
        _fail("joints.parents", "indices", parents)
    try:
        skeleton = Skeleton(tuple(names), tuple(parents))
    except ConfigError as error:
        raise BundleError(f"manifest.json, joints: {error.what}", expected=error.expected, got=error.got) from error
    if joints.get("sides", list(skeleton.sides)) not in (list(skeleton.sides), skeleton.sides):
        _fail("joints.sides", f"{list(skeleton.sides)}, by the names", joints["sides"])
    return skeleton


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if not isinstance(value, Mapping):
        _fail(name, "an object", repr(value))
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _fail(name: str, expected: object, got: object) -> NoReturn:
    raise BundleError(
        f"manifest.json, {name}",
        expected=expected,
        got=got,
        remedy="write the bundle again with this version's exporter",
    )
