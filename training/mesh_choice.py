"""The mesh a network is trained for: Anny's body or hand, your own, or SMPL's or MANO's, if you have a licence."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from metro_ros.core.errors import ConfigError
from metro_ros.core.manifest import CameraFrame
from training.anny_hand import load_anny_hand_spec
from training.anny_spec import load_anny_spec
from training.body import TRAINING_BANK, load_body_bank
from training.import_checkpoint import BODY_LICENCE, PADDING
from training.mesh_files import load_mesh_spec
from training.mesh_spec import MeshSpec
from training.model_files import read_body_model, read_joint_regressor, read_sampling
from training.motion import load_motions
from training.original_mesh import H36M_JOINTS, body_mesh, hand_mesh
from training.skinning import SkinnedModel


@dataclass(frozen=True, slots=True)
class MeshChoice:
    """A mesh, the model that poses it where datasets give poses, and what a bundle must say of it.

    bundle: fields of `training.export.BundleInfo`.
    """

    spec: MeshSpec
    body_model: SkinnedModel | None = None
    bundle: dict[str, Any] = field(default_factory=dict)

    @property
    def pose_size(self) -> int | None:
        """Numbers of a pose that the model takes, three a joint."""
        return None if self.body_model is None else 3 * len(self.body_model.parents)


def add_mesh_options(group: argparse._ArgumentGroup) -> None:
    """Options that `choose_mesh` reads."""
    group.add_argument("--motions", type=Path, help="motion file: Anny's body, whose levels are fitted the first time")
    group.add_argument(
        "--hand", action="store_const", const=True, help="Anny's right hand, whose levels are fitted the first time"
    )
    group.add_argument("--cache", type=Path, help="where Anny's are kept (default ~/.cache/metro_ros)")
    group.add_argument("--mesh", type=Path, help="a mesh of your own, see training.mesh_files")
    group.add_argument(
        "--camera-frame",
        choices=get_args(CameraFrame),
        help="axes of the sets' 3D labels (default: crop_ray, as of training.synth, for Anny's; else camera)",
    )
    group.add_argument("--smpl", type=Path, help="SMPL neutral, .pkl or .npz; with --sampling and --joint-regressor")
    group.add_argument("--mano", type=Path, help="MANO right, .pkl or .npz; with --sampling")
    group.add_argument("--sampling", type=Path, help="mesh_downsampling.npz or mano_downsampling.npz")
    group.add_argument("--joint-regressor", type=Path, help="J_regressor_h36m_correct.npy")


def choose_mesh(options: argparse.Namespace) -> MeshChoice:
    """What the options name.

    Raises:
        ConfigError: they name none or several, or leave out what belongs to one.
        SourceError: a file cannot be read.
    """
    sources = {name: getattr(options, name) for name in ("motions", "hand", "mesh", "smpl", "mano")}
    named = [f"--{name}" for name, source in sources.items() if source is not None]
    if len(named) != 1:
        expected = f"one of {', '.join(f'--{name}' for name in sources)}"
        raise ConfigError("the mesh", expected=expected, got=" and ".join(named) or "none")
    if options.mesh is not None:
        spec = load_mesh_spec(options.mesh)
        unknown = "not stated: pass it to training.export by --info"
        fields = {"name": spec.name, "body_licence": unknown, "weights_licence": unknown}
        return MeshChoice(spec, bundle=fields | {"camera_frame": options.camera_frame or "camera"})
    if options.motions is not None:
        bank = load_body_bank(*TRAINING_BANK, options.cache)
        spec = load_anny_spec(bank, load_motions(options.motions, bank), options.cache)
        return MeshChoice(spec, bundle={"camera_frame": options.camera_frame or "crop_ray"})
    if options.hand is not None:
        fields = {"name": "metro-anny-hand", "camera_frame": options.camera_frame or "crop_ray"}
        return MeshChoice(load_anny_hand_spec(options.cache), bundle=fields)
    return _smpl(options) if options.smpl is not None else _mano(options)


def _smpl(options: argparse.Namespace) -> MeshChoice:
    _need(options, "sampling", "joint_regressor")
    model = read_body_model(options.smpl)
    vertices = len(model.v_template)
    rows = read_sampling(options.sampling, (431, 1723, vertices))
    regressor = read_joint_regressor(options.joint_regressor, (H36M_JOINTS, vertices))
    return MeshChoice(body_mesh(model, rows, regressor), SkinnedModel(model), _bundle("metro-body", "SMPL"))


def _mano(options: argparse.Namespace) -> MeshChoice:
    _need(options, "sampling")
    model = read_body_model(options.mano)
    rows = read_sampling(options.sampling, (195, len(model.v_template)))
    return MeshChoice(hand_mesh(model, rows), SkinnedModel(model, flat_hand_mean=False), _bundle("metro-hand", "MANO"))


def _bundle(name: str, model: str) -> dict[str, Any]:
    """Labels of the datasets are in the camera's axes, and boxes padded as the original's."""
    licence = BODY_LICENCE.format(model=model)
    weights = f"whoever trained them; the datasets and {model} that they come from have terms of their own"
    return {
        "name": name, "camera_frame": "camera", "padding": PADDING, "body_licence": licence, "weights_licence": weights,
    }  # fmt: skip


def _need(options: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is None]
    if missing:
        raise ConfigError("the mesh", expected=" and ".join(missing), got="none")
