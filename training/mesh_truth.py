"""True meshes from the poses that datasets give, and the root of a mesh, by files that a user holds a licence for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metro_ros.core.errors import ConfigError
from training.datasets.sample import Sample
from training.model_files import read_body_model, read_joint_regressor
from training.original_mesh import H36M_JOINTS, H36M_PELVIS
from training.protocols import MeshTruth
from training.skinning import SkinnedModel


def posed_meshes(path: Path) -> MeshTruth:
    """True meshes from the samples' pose and shape by the SMPL or MANO file at `path`; see `read_body_model`.

    METRO takes SMPL's neutral body, for men and women too.

    Raises:
        SourceError: the file holds no such model. The meshes: ConfigError, where a pose is another model's.
    """
    model = SkinnedModel(read_body_model(path))
    numbers = 3 * len(model.parents)

    def mesh_of(sample: Sample) -> NDArray[np.float32] | None:
        if sample.pose is None or sample.betas is None:
            return None
        if sample.pose.size != numbers:
            what = f"the pose of {sample.key} for the body model {path}"
            raise ConfigError(what, expected=f"{numbers} numbers", got=sample.pose.size)
        with torch.inference_mode():
            posed = model(torch.from_numpy(sample.pose)[None], torch.from_numpy(sample.betas)[None])
        return np.asarray(posed.vertices[0].numpy(), np.float32)

    return mesh_of


def pelvis_regressor(path: Path, vertices: int) -> NDArray[np.float32]:
    """(V,) from the .npy with Human3.6M's 17 joints, (17, V). Raises SourceError when it is none."""
    return read_joint_regressor(path, (H36M_JOINTS, vertices))[H36M_PELVIS]
