"""Networks on disk: config, mesh and weights in one safetensors file, read without unpickling anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metro_ros.core.errors import ConfigError
from training.build import build
from training.mesh_spec import MeshSpec
from training.network import Metro
from training.network_config import MetroConfig, config_from_dict, config_to_dict
from training.tensor_file import load_tree, non_finite, save_tree

RECORD, WEIGHTS = "metro", "state_dict"
"""Entries of a checkpoint: what the network is, and its weights; a trainer keeps its own state beside them."""
WEIGHT_PREFIX = "metro."
"""Of the network's weights among those of the module that trains it."""
UNUSED_ORIGINAL = ("bert.embeddings.", "bert.pooler.", "backbone.classifier.")
"""Parameters in the original files that no forward pass of theirs reads: 44 % of the transformer's total."""


def make_record(mesh: MeshSpec, config: MetroConfig, bundle: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything but weights needed to rebuild a network, as plain containers and tensors.

    Args:
        bundle: fields for the manifest of a bundle made from this (see export.BundleInfo), or None.
    """
    return {
        "config": config_to_dict(config),
        "mesh": {
            "name": mesh.name,
            "joint_names": list(mesh.joint_names),
            "joint_parents": list(mesh.joint_parents),
            "root_joints": list(mesh.root_joints),
            "level_sizes": list(mesh.level_sizes),
            **{key: _tensor(getattr(mesh, key)) for key in _MESH_ARRAYS},
            "faces": [torch.from_numpy(faces) for faces in mesh.faces],
            "rows": [torch.from_numpy(rows) for rows in mesh.rows],
        },
        "bundle": dict(bundle or {}),
    }


def save_checkpoint(
    path: str | Path, metro: Metro, config: MetroConfig, bundle: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint that `load_checkpoint` reads; see `make_record`."""
    weights = {WEIGHT_PREFIX + name: value for name, value in metro.state_dict().items()}
    save_tree({RECORD: make_record(metro.mesh, config, bundle), WEIGHTS: weights}, path)


def load_checkpoint(path: str | Path) -> tuple[Metro, MetroConfig, dict[str, Any]]:
    """The network (eval mode, CPU), its config and the manifest fields kept with it.

    The mesh comes back without its upsampling matrices: the weights hold them.

    Raises:
        ConfigError: no such file, not a checkpoint of this project, weights that do not fit or are not finite.
    """
    file = load_tree(path)
    try:
        record, stored = file[RECORD], file[WEIGHTS]
        config = config_from_dict(record["config"])
        mesh, fields = _mesh(record["mesh"]), dict(record.get("bundle", {}))
        names = [name for name in stored if name.startswith(WEIGHT_PREFIX)]
        weights = {name.removeprefix(WEIGHT_PREFIX): stored[name] for name in names}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"checkpoint {path}", expected="config, mesh and weights", got=repr(error)) from error
    metro = build(config, mesh)
    try:
        metro.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"checkpoint {path}", expected=f"the weights of {config.name}", got=error) from error
    broken = non_finite(weights)
    if broken:
        raise ConfigError(f"checkpoint {path}", expected="finite weights", got=f"NaN or infinity in {broken[0]}")
    return metro.eval(), config, fields


def load_original_weights(metro: Metro, state_dict: Mapping[str, Tensor]) -> None:
    """Copy an original METRO state dict into a `paper_body` or `paper_hand` network.

    Raises:
        ConfigError: a weight is missing, has another shape, is not finite, or is neither known nor known to be unused.
    """
    prefix = "module." if all(key.startswith("module.") for key in state_dict) else ""  # of torch's DataParallel
    named = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    used = {key: value for key, value in named.items() if not any(part in key for part in UNUSED_ORIGINAL)}
    wanted = metro.state_dict()
    shared = wanted.keys() & used.keys()
    shapes = {key: (tuple(used[key].shape), tuple(wanted[key].shape)) for key in wanted if key in shared}
    faults = [
        _listed("missing", [key for key in wanted if key not in used]),
        _listed("unknown", [key for key in used if key not in wanted]),
        _listed("of another shape", [f"{key} {got} for {want}" for key, (got, want) in shapes.items() if got != want]),
    ]
    if any(faults):
        got, remedy = "; ".join(filter(None, faults)), "check that it is a checkpoint of this kind of network"
        raise ConfigError(
            "original METRO weights", expected="the names and shapes of the paper", got=got, remedy=remedy
        )
    broken = non_finite(used)
    if broken:
        raise ConfigError(
            "original METRO weights", expected="finite numbers", got=_listed("NaN or infinity in", broken)
        )
    metro.load_state_dict(used)


def _listed(what: str, names: list[str], most: int = 5) -> str:
    """Names for one line: the first few, and how many more."""
    shown = ", ".join(name[:120] for name in names[:most])
    return f"{what} {shown}" + (f" and {len(names) - most} more" if len(names) > most else "") if names else ""


_MESH_ARRAYS = ("template_tokens", "joint_regressor", "root_regressor", "template")


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)


def _mesh(fields: Mapping[str, Any]) -> MeshSpec:
    arrays = {key: fields[key] for key in _MESH_ARRAYS}
    return MeshSpec(
        name=fields["name"],
        joint_names=tuple(fields["joint_names"]),
        joint_parents=tuple(fields["joint_parents"]),
        root_joints=tuple(fields["root_joints"]),
        level_sizes=tuple(fields["level_sizes"]),
        **{key: None if array is None else array.numpy() for key, array in arrays.items()},  # type: ignore[arg-type]
        faces=tuple(faces.numpy() for faces in fields["faces"]),
        rows=tuple(rows.numpy() for rows in fields["rows"]),
    )
