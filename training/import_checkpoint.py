"""An original METRO checkpoint becomes a bundle, by the licensed files that its user holds or by the template alone.

python -m training.import_checkpoint --kind body --checkpoint FILE.bin --output BUNDLE
    --smpl FILE.pkl --sampling mesh_downsampling.npz --joint-regressor J_regressor_h36m_correct.npy
python -m training.import_checkpoint --kind hand --checkpoint FILE.bin --output BUNDLE
    --mano FILE.pkl --sampling mano_downsampling.npz
python -m training.import_checkpoint --kind body|hand --checkpoint FILE.bin --output BUNDLE --template FILE.npz

Nothing of these files is copied to anywhere but the bundle.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metro_ros.core.bundle import file_sha256
from metro_ros.core.errors import ConfigError, MetroError, SourceError
from training.build import build, paper_body, paper_hand
from training.checkpoint import load_original_weights
from training.export import ATTENTION_HELP, BundleInfo, agreement, export_bundle
from training.mesh_spec import HAND_21_NAMES, J14_NAMES, MeshSpec, body_431, hand_195
from training.model_files import (
    BodyModelArrays,
    FloatArray,
    read_body_model,
    read_joint_regressor,
    read_sampling,
    read_template,
)
from training.network import Metro
from training.network_config import MetroConfig
from training.original_mesh import H36M_JOINTS, body_mesh, hand_mesh, stand_in_mesh
from training.original_weights import read_state_dict

PADDING = 1.2
"""Of the original's crops: 1.2 times the larger side of a person's box."""
WEIGHTS_LICENCE = "the user's own file, under the terms it came with; check them before you pass it on"
BODY_LICENCE = (
    "template and faces derived from {model}, under the {model} licence that whoever imported this holds; "
    "not to be redistributed"
)
STAND_INS = "template of the finer levels, rows and joint regressor are stand-ins made by the network's own upsampling"
NO_FACES = "no faces were given: the mesh has vertices and joints, but cannot be drawn as a surface"
UNMEASURED = "not measured since it was imported: check it on images of your own"
RIGHT_ONLY = "right hands only"


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be imported.

    Attributes:
        model: of the body; its licence covers the template.
        files: options that name what the mesh is made from.
        mesh: the whole mesh from these files, by option, and the level sizes.
        config: of the network. spec: its mesh, as far as template tokens (T, 3) tell.
        joint_names, level_sizes: of the mesh, levels coarsest first.
        limits: for the manifest.
    """

    model: str
    files: tuple[str, ...]
    mesh: Callable[[Mapping[str, Path], tuple[int, ...]], MeshSpec]
    config: Callable[[], MetroConfig]
    spec: Callable[[FloatArray], MeshSpec]
    joint_names: tuple[str, ...]
    level_sizes: tuple[int, ...]
    limits: tuple[str, ...] = ()


def _body_from_files(files: Mapping[str, Path], level_sizes: tuple[int, ...]) -> MeshSpec:
    rows = read_sampling(files["sampling"], level_sizes)
    regressor = read_joint_regressor(files["joint_regressor"], (H36M_JOINTS, level_sizes[-1]))
    return body_mesh(_read_model(files["smpl"], level_sizes), rows, regressor)


def _hand_from_files(files: Mapping[str, Path], level_sizes: tuple[int, ...]) -> MeshSpec:
    rows = read_sampling(files["sampling"], level_sizes)
    mano = _read_model(files["mano"], level_sizes)
    if mano.hands_mean is None:
        raise SourceError(f"{files['mano']} has no mean hand", expected="an array hands_mean", got="nothing")
    return hand_mesh(mano, rows)


def _read_model(path: Path, level_sizes: tuple[int, ...]) -> BodyModelArrays:
    arrays = read_body_model(path)
    if len(arrays.v_template) != level_sizes[-1]:
        got = f"{len(arrays.v_template)} vertices"
        raise SourceError(f"{path} is another body model", expected=f"{level_sizes[-1]} vertices", got=got)
    return arrays


KINDS = {
    "body": Kind(
        "SMPL", ("smpl", "sampling", "joint_regressor"), _body_from_files, paper_body, body_431,
        J14_NAMES, (431, 1723, 6890),
    ),
    "hand": Kind(
        "MANO", ("mano", "sampling"), _hand_from_files, paper_hand, hand_195, HAND_21_NAMES, (195, 778), (RIGHT_ONLY,)
    ),
}  # fmt: skip
FILES = ("smpl", "mano", "sampling", "joint_regressor", "template")


def import_network(kind: Kind, checkpoint: Path, files: Mapping[str, Path]) -> tuple[Metro, MetroConfig]:
    """The network of an original checkpoint in eval mode, its mesh complete, and its config.

    Args:
        files: by option; those of the kind, or `template` alone, and then parts of the mesh are stand-ins.

    Raises:
        SourceError: a file cannot be read or is not what its option says.
        ConfigError: options or weights that are missing or do not belong to this kind of network.
    """
    _check_files(kind, files)
    template = read_template(files["template"], kind.joint_names, kind.level_sizes) if "template" in files else None
    mesh = kind.mesh(files, kind.level_sizes) if template is None else kind.spec(template.tokens)
    weights = read_state_dict(checkpoint)
    config = kind.config()
    metro = build(config, mesh).eval()
    load_original_weights(metro, weights)
    if template is not None:
        metro.mesh = stand_in_mesh(metro, template.faces)
    return metro, config


def bundle_info(name: str, kind: Kind, mesh: MeshSpec, checkpoint: Path, files: Mapping[str, Path]) -> BundleInfo:
    """What the manifest says of names, licences, origin and limits."""
    limits = [*kind.limits, UNMEASURED]
    if "template" in files:
        limits.append(STAND_INS)
    if not mesh.faces[-1].size:
        limits.append(NO_FACES)
    inputs = {"checkpoint": checkpoint, **files}
    return BundleInfo(
        name=f"metro-{name}",
        camera_frame="camera",  # the original learns from joints in the camera's axes
        padding=PADDING,
        weights_licence=WEIGHTS_LICENCE,
        body_licence=BODY_LICENCE.format(model=kind.model),
        origin={
            "importer": "python -m training.import_checkpoint",
            "inputs": {option: {"file": path.name, "sha256": file_sha256(path)} for option, path in inputs.items()},
        },
        measured={"limits": limits},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line of explanation."""
    options = _parser().parse_args(arguments)
    files = {name: getattr(options, name) for name in FILES if getattr(options, name) is not None}
    kind = KINDS[options.kind]
    try:
        metro, config = import_network(kind, options.checkpoint, files)
        print("weights read; exporting, and comparing ONNX Runtime with torch", flush=True)
        info = bundle_info(options.kind, kind, metro.mesh, options.checkpoint, files)
        bundle = export_bundle(metro, config, info, options.output, attention=options.attention)
    except MetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {agreement(bundle)}")
    for name, terms in bundle.manifest.licence.items():
        print(f"licence of {name}: {terms}")
    for limit in info.measured["limits"]:
        print(f"limit: {limit}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.import_checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=tuple(KINDS), required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original *_state_dict.bin, or safetensors")
    parser.add_argument("--output", type=Path, required=True, help="directory of the bundle; replaced whole")
    parser.add_argument("--smpl", type=Path, help="body: neutral SMPL model, .pkl as published or .npz")
    parser.add_argument("--mano", type=Path, help="hand: MANO_RIGHT.pkl, or .npz")
    parser.add_argument("--sampling", type=Path, help="mesh_downsampling.npz or mano_downsampling.npz")
    parser.add_argument("--joint-regressor", type=Path, help="body: J_regressor_h36m_correct.npy")
    parser.add_argument("--template", type=Path, help="instead of these: .npz with template (T, 3), perhaps faces")
    parser.add_argument("--attention", action="store_true", help=ATTENTION_HELP)
    return parser


def _check_files(kind: Kind, files: Mapping[str, Path]) -> None:
    wanted = ("template",) if "template" in files else kind.files
    if set(files) != set(wanted):
        raise ConfigError(
            f"files for {kind.model}",
            expected=f"{_flags(kind.files)}, or --template alone",
            got=_flags(files) or "none",
        )


def _flags(names: Iterable[str]) -> str:
    return " ".join("--" + name.replace("_", "-") for name in names)


if __name__ == "__main__":
    sys.exit(main())
