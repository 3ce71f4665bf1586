"""A trained network becomes a bundle: fold, export to ONNX, compare with torch, and only then write.

python -m training.export --checkpoint CKPT --output DIR [--info FILE.json] [--attention]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from metro_ros.core.bundle import Bundle, CropSpec, add_part, write_bundle
from metro_ros.core.errors import ConfigError, MetroError
from metro_ros.core.manifest import CameraFrame
from training.checkpoint import load_checkpoint
from training.export_attention import checked_attention_view
from training.folding import FoldedMetro
from training.mesh_spec import MeshSpec
from training.network import Metro
from training.network_config import MetroConfig
from training.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from training.onnx_graph import ROUNDED_TOLERANCE, TOLERANCE, borrow_weights, check_against, halve_weights, to_onnx
from training.reliability import sighting

ATTENTION_HELP = "with the attention view, for metro-ros attention; it reads its weights out of model.onnx"


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What a manifest says that the network does not know.

    Attributes:
        name: of the model.
        camera_frame: axes of the outputs, `crop_ray` or `camera`.
        padding: side of a training crop over the person's extent.
        weights_licence, body_licence: for the manifest.
        least_confidence: what shows less, as the mean of all joints, is none of its kind; for a network that tells.
        origin: who made it from what; measured: what it scored, on what. Free-form, JSON.
    """

    name: str = "metro-anny"
    camera_frame: CameraFrame = "crop_ray"
    padding: float = 1.2
    weights_licence: str = "Apache-2.0"
    body_licence: str = "Anny: code Apache-2.0, data CC0-1.0"
    least_confidence: float = 0.0
    origin: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> BundleInfo:
        """From a checkpoint's record. Raises ConfigError on unknown fields."""
        unknown = set(fields) - {known.name for known in dataclasses.fields(cls)}
        if unknown:
            raise ConfigError("bundle fields", expected="the fields of BundleInfo", got=", ".join(sorted(unknown)))
        return cls(**fields)


class ExportGraph(nn.Module):
    """uint8 (N, S, S, 3) RGB -> joints, vertices, camera and, where the network has them, confidence and visibility."""

    def __init__(self, folded: FoldedMetro) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.folded = folded

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value in self.folded(self.normalize(image)) if value is not None)


def export_bundle(
    metro: Metro,
    config: MetroConfig,
    info: BundleInfo,
    output: str | Path,
    *,
    attention: bool = False,
    compact: bool = False,
) -> Bundle:
    """Write the bundle of a network in eval mode to `output` and return it as the core loads it.

    Args:
        attention: let the attention view come along, see training.export_attention.
        compact: store the weights in float16; see onnx_graph.halve_weights.

    Raises:
        ExportError: ONNX Runtime and torch differ by more than TOLERANCE, or, with rounded weights, ROUNDED_TOLERANCE;
            nothing is written.
        ConfigError: the mesh spec lacks what a bundle holds.
    """
    mesh = mesh_arrays(metro.mesh)
    crops = probe_crops(config.image_size)
    model = export_onnx(FoldedMetro(metro), config.image_size)
    differences = check_against_torch(model, metro, crops)
    if compact:
        model = halve_weights(model, rounded=True)
        differences = check_against_torch(model, metro, crops, ROUNDED_TOLERANCE)
    view = checked_attention_view(metro, crops, compact) if attention else None
    fields = manifest_fields(metro.mesh, config, info)
    fields["origin"] = {**fields["origin"], "largest_difference_onnx_torch": differences}
    bundle = write_bundle(output, fields, model, mesh)
    if view is None:
        return bundle
    attending, details = view
    return add_part(bundle, "attention", borrow_weights(attending, model, bundle.model_path.name), details)


def export_onnx(folded: FoldedMetro, image_size: int) -> bytes:
    """A folded network as a serialised ONNX model, N dynamic."""
    names = ["joints", "vertices", "camera"]
    names += ["confidence"] if folded.keypoint_head is not None else []
    names += ["visibility"] if folded.reliability_head is not None else []
    return to_onnx(ExportGraph(folded), image_size, names)


def check_against_torch(
    model: bytes, metro: Metro, crops: npt.NDArray[np.uint8], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Run ONNX Runtime and the unfolded network in eager torch on the same crops.

    Returns and raises as `check_against`.
    """

    def expected(images: Tensor) -> dict[str, Tensor]:
        output = metro(images)
        known = {"joints": output.joints, "vertices": output.vertices[-1], "camera": output.camera}
        if output.confidence is not None:
            known["confidence"] = output.confidence.sigmoid()
        if output.reliability is not None and output.confidence is not None:
            known["confidence"] = output.reliability.sigmoid()
            known["visibility"] = sighting(output.confidence, output.heatmaps, output.mask)
        return known

    return check_against(model, expected, crops, tolerance)


def probe_crops(size: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(7, size, size, 3) uint8 crops that a wrong image path cannot answer alike: noise, extremes, ramps, edges."""
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 255, size), np.linspace(0, 255, size))
    disc = np.where(np.hypot(across - 127, down - 80) < 50, 230, 20)
    crops = np.stack(
        [
            random.integers(0, 256, (size, size, 3)),
            np.zeros((size, size, 3)),
            np.full((size, size, 3), 255),
            np.stack([across, down, 255 - across], axis=2),
            np.stack([down, np.full_like(down, 90), across], axis=2),
            np.stack([disc, disc, 255 - disc], axis=2),
            np.where(random.random((size, size, 1)) < 0.02, 255, np.stack([across, across, down], axis=2)),
        ]
    )
    return crops.astype(np.uint8)


def manifest_fields(mesh: MeshSpec, config: MetroConfig, info: BundleInfo) -> dict[str, Any]:
    """What write_bundle asks for."""
    crop = CropSpec(size=config.image_size, padding=info.padding, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    fields: dict[str, Any] = {
        "name": info.name,
        "licence": {"weights": info.weights_licence, "body_model": info.body_licence},
        "origin": {"network": config.name, "mesh": mesh.name, **info.origin},
        "measured": dict(info.measured),
        "crop": dataclasses.asdict(crop),
        "joints": {"names": list(mesh.joint_names), "parents": list(mesh.joint_parents)},
        "camera": {"model": "weak_perspective", "frame": info.camera_frame},
    }
    if config.reliability_mm is not None:
        fields["confidence"] = {"threshold_mm": config.reliability_mm, "least": info.least_confidence}
    return fields


def mesh_arrays(mesh: MeshSpec) -> dict[str, npt.NDArray]:
    """The arrays of mesh.npz. Raises ConfigError when the spec lacks one."""
    if not mesh.faces or not mesh.rows or mesh.template is None or mesh.joint_regressor is None:
        raise ConfigError(
            f"mesh {mesh.name} cannot be written into a bundle", expected="faces, rows, template and joint regressor"
        )
    return {
        **{f"faces_{level}": faces for level, faces in enumerate(mesh.faces)},
        **{f"rows_{level}": rows for level, rows in enumerate(mesh.rows)},
        "template": mesh.template,
        "joint_regressor": mesh.joint_regressor,
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigError when it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}", expected="a JSON file", got=error) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}", expected="a JSON object", got=type(value).__name__)
    return value


def agreement(bundle: Bundle) -> str:
    """How well the bundle's model agrees with the network that it was exported from, for people."""
    differences = bundle.manifest.origin["largest_difference_onnx_torch"]
    return "agrees with torch, " + ", ".join(f"{name} within {value:.1e}" for name, value in differences.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line of explanation."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="file written by training")
    parser.add_argument("--output", type=Path, required=True, help="directory of the bundle; replaced whole")
    parser.add_argument("--info", type=Path, help="JSON with fields of BundleInfo, over those in the checkpoint")
    parser.add_argument("--attention", action="store_true", help=ATTENTION_HELP)
    parser.add_argument("--compact", action="store_true", help="weights stored in float16: half the file")
    options = parser.parse_args(arguments)
    try:
        metro, config, fields = load_checkpoint(options.checkpoint)
        info = BundleInfo.from_dict(fields | (read_json(options.info) if options.info else {}))
        bundle = export_bundle(
            metro, config, info, options.output, attention=options.attention, compact=options.compact
        )
    except MetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {agreement(bundle)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
