"""Networks on disk: config, mesh and weights in one record of plain containers, read without unpickling code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metro_ros.core.errors import ConfigError
from training.build import MetroConfig, build, config_from_dict, config_to_dict
from training.mesh_spec import MeshSpec
from training.network import Metro

RECORD_KEY = "metro"
"""Where the record lies in a checkpoint file; a trainer keeps its own state beside it."""
UNUSED_ORIGINAL = ("bert.embeddings.", "bert.pooler.", "backbone.classifier.")
"""Parameters in the original files that no forward pass of theirs reads: 44 % of the transformer's total."""


def make_record(metro: Metro, config: MetroConfig, bundle: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything needed to rebuild `metro`, as plain containers and tensors.

    Args:
        bundle: fields for the manifest of a bundle made from this (see export.BundleInfo), or None.
    """
    mesh = metro.mesh
    arrays = {
        "template_tokens": mesh.template_tokens,
        "joint_regressor": mesh.joint_regressor,
        "template": mesh.template,
    }
    return {
        "config": config_to_dict(config),
        "mesh": {
            "name": mesh.name,
            "joint_names": list(mesh.joint_names),
            "joint_parents": list(mesh.joint_parents),
            "root_joints": list(mesh.root_joints),
            "level_sizes": list(mesh.level_sizes),
            **{key: None if array is None else torch.from_numpy(array) for key, array in arrays.items()},
            "faces": [torch.from_numpy(faces) for faces in mesh.faces],
            "rows": [torch.from_numpy(rows) for rows in mesh.rows],
        },
        "weights": metro.state_dict(),
        "bundle": dict(bundle or {}),
    }


def save_checkpoint(
    path: str | Path, metro: Metro, config: MetroConfig, bundle: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint that `load_checkpoint` reads; see `make_record`."""
    torch.save({RECORD_KEY: make_record(metro, config, bundle)}, path)


def load_checkpoint(path: str | Path) -> tuple[Metro, MetroConfig, dict[str, Any]]:
    """The network (eval mode, CPU), its config and the manifest fields kept with it.

    The mesh comes back without its upsampling matrices: the weights hold them.

    Raises:
        ConfigError: no such file, not a checkpoint of this project, or weights that do not fit.
    """
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        got = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"cannot read the checkpoint {path}", expected="tensors and numbers", got=got) from error
    if not isinstance(file, dict) or RECORD_KEY not in file:
        raise ConfigError(f"checkpoint {path}", expected=f"an entry '{RECORD_KEY}'", got="none")
    return network_from_record(file[RECORD_KEY])


def network_from_record(record: Mapping[str, Any]) -> tuple[Metro, MetroConfig, dict[str, Any]]:
    """Inverse of `make_record`; see `load_checkpoint`."""
    try:
        config = config_from_dict(record["config"])
        mesh, weights = _mesh(record["mesh"]), record["weights"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError("checkpoint", expected="config, mesh and weights", got=repr(error)) from error
    metro = build(config, mesh)
    try:
        metro.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError("checkpoint weights", expected=f"those of {config.name}", got=error) from error
    return metro.eval(), config, dict(record.get("bundle", {}))


def load_original_weights(metro: Metro, state_dict: Mapping[str, Tensor]) -> None:
    """Copy an original METRO state dict into a `paper_body` or `paper_hand` network.

    Raises:
        ConfigError: a weight is missing, has another shape, or is neither known nor known to be unused.
    """
    used = {key: value for key, value in state_dict.items() if not any(part in key for part in UNUSED_ORIGINAL)}
    try:
        metro.load_state_dict(used)
    except RuntimeError as error:
        raise ConfigError("original METRO weights", expected="the names and shapes of the paper", got=error) from error


def _mesh(fields: Mapping[str, Any]) -> MeshSpec:
    def array(key: str) -> np.ndarray | None:
        return None if fields[key] is None else fields[key].numpy()

    return MeshSpec(
        name=fields["name"],
        joint_names=tuple(fields["joint_names"]),
        joint_parents=tuple(fields["joint_parents"]),
        root_joints=tuple(fields["root_joints"]),
        level_sizes=tuple(fields["level_sizes"]),
        template_tokens=fields["template_tokens"].numpy(),
        joint_regressor=array("joint_regressor"),
        template=array("template"),
        faces=tuple(faces.numpy() for faces in fields["faces"]),
        rows=tuple(rows.numpy() for rows in fields["rows"]),
    )
