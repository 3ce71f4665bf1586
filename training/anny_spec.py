"""The default mesh spec: Anny's body with 17 joints and 111 / 1,229 / 12,272 vertices, made from posed samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.body import BodyBank, bone_transforms, skin
from training.levels import (
    farthest_points,
    fit_dense_upsampling,
    fit_joint_regressor,
    fit_sparse_upsampling,
    geodesic_neighbours,
    nearest_rows,
    voronoi_faces,
)
from training.mesh_files import load_mesh_spec, save_mesh_spec
from training.mesh_spec import J14_NAMES, MeshSpec
from training.motion import Motion

JOINT_NAMES = (*J14_NAMES, "Pelvis", "Torso", "Nose")
_PARENT_OF = {
    "R_Ankle": "R_Knee", "R_Knee": "R_Hip", "R_Hip": "Pelvis",
    "L_Ankle": "L_Knee", "L_Knee": "L_Hip", "L_Hip": "Pelvis",
    "R_Wrist": "R_Elbow", "R_Elbow": "R_Shoulder", "R_Shoulder": "Neck",
    "L_Wrist": "L_Elbow", "L_Elbow": "L_Shoulder", "L_Shoulder": "Neck",
    "Torso": "Pelvis", "Neck": "Torso", "Head": "Neck", "Nose": "Head",
}  # fmt: skip
# Joints that are the head of a bone; Pelvis is the mid-hip, Head the crown and Nose the tip of the nose.
BONE_OF = {
    **{f"{s}_Ankle": f"foot.{s}" for s in "RL"},
    **{f"{s}_Knee": f"lowerleg01.{s}" for s in "RL"},
    **{f"{s}_Hip": f"upperleg01.{s}" for s in "RL"},
    **{f"{s}_Wrist": f"wrist.{s}" for s in "RL"},
    **{f"{s}_Elbow": f"lowerarm01.{s}" for s in "RL"},
    **{f"{s}_Shoulder": f"upperarm01.{s}" for s in "RL"},
    "Neck": "neck01",
    "Torso": "spine03",
}
COARSE_VERTICES = 111
_FIT_SAMPLES = 240
_CANDIDATES = 250
_REACH_M = 0.22


def posed_samples(
    bank: BodyBank, motions: list[Motion], count: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random identities in random frames: (count, V, 3) vertices and (count, B, 3) bone heads, metres."""
    rng = np.random.default_rng(seed)
    vertices, heads = [], []
    for _ in range(count):
        motion, identity = motions[rng.integers(len(motions))], rng.integers(len(bank))
        rotations = motion.rotations[rng.integers(len(motion))]
        transforms = bone_transforms(rotations, bank.rest_heads[identity], bank.bone_parents)
        vertices.append(skin(bank.rest_vertices[identity], transforms, bank.skin_indices, bank.skin_weights))
        heads.append(np.einsum("bij,bj->bi", transforms[:, :, :3], bank.rest_heads[identity]) + transforms[:, :, 3])
    return np.stack(vertices), np.stack(heads)


def _joint_regressor(bank: BodyBank, vertices: NDArray[np.float32], heads: NDArray[np.float32]) -> NDArray[np.float32]:
    """(17, V) float32 rows, sparse, non-negative, summing to 1."""
    template = bank.template
    rows: dict[str, NDArray[np.float32]] = {}
    template_heads = bank.rest_heads.mean(axis=0)
    skull = np.flatnonzero((bank.skin_weights * (bank.skin_indices == bank.bone("head"))).sum(axis=1) > 0.9)
    for joint, bone in BONE_OF.items():
        # The ring of skin around the joint, at rest.
        distance = np.linalg.norm(template - template_heads[bank.bone(bone)], axis=1)
        near = np.flatnonzero(distance < _REACH_M)
        candidates = near[:: max(1, len(near) // _CANDIDATES)]
        rows[joint] = fit_joint_regressor(heads[:, bank.bone(bone)], candidates, vertices)
    rows["Pelvis"] = ((rows["R_Hip"] + rows["L_Hip"]) / 2).astype(np.float32)
    for joint, axis in (("Head", 1), ("Nose", 2)):
        extreme = skull[np.argsort(template[skull, axis])[:6]]
        rows[joint] = (np.bincount(extreme, minlength=len(template)) / len(extreme)).astype(np.float32)
    return np.stack([rows[name] for name in JOINT_NAMES]).astype(np.float32)


def build_anny_spec(bank: BodyBank, motions: list[Motion], seed: int = 0) -> MeshSpec:
    """Levels, faces, joint regressor and upsampling matrices, fitted on posed bodies."""
    vertices, heads = posed_samples(bank, motions, _FIT_SAMPLES, seed)
    regressor = _joint_regressor(bank, vertices, heads)
    middle_rows = nearest_rows(bank.template, bank.middle_template)
    coarse_in_middle, owner = farthest_points(bank.template[middle_rows], bank.middle_faces, COARSE_VERTICES)
    neighbours = geodesic_neighbours(bank.template, bank.faces, middle_rows, count=8)
    middle = vertices[:, middle_rows]
    root = regressor[JOINT_NAMES.index("Pelvis")] @ bank.template
    template = bank.template - root
    coarse_rows = middle_rows[coarse_in_middle]
    names = {name: index for index, name in enumerate(JOINT_NAMES)}
    return MeshSpec(
        name="anny-111",
        joint_names=JOINT_NAMES,
        joint_parents=tuple(names[_PARENT_OF[name]] if name in _PARENT_OF else -1 for name in JOINT_NAMES),
        root_joints=(names["R_Hip"], names["L_Hip"]),
        level_sizes=(COARSE_VERTICES, len(middle_rows), len(template)),
        template_tokens=np.concatenate([regressor @ template, template[coarse_rows]]).astype(np.float32),
        joint_regressor=regressor,
        template=template.astype(np.float32),
        faces=(voronoi_faces(owner, bank.middle_faces), bank.middle_faces, bank.faces),
        rows=(coarse_rows, middle_rows, np.arange(len(template), dtype=np.int32)),
        upsampling=(
            fit_dense_upsampling(middle[:, coarse_in_middle], middle),
            fit_sparse_upsampling(bank.template, middle_rows, neighbours, vertices),
        ),
    )


def load_anny_spec(bank: BodyBank, motions: list[Motion], cache: Path | None = None) -> MeshSpec:
    """The spec from `cache` (default: the user's cache folder), built and stored there when it is missing."""
    path = (cache or Path.home() / ".cache" / "metro_ros") / "mesh_anny-111.npz"
    if path.exists():
        return load_mesh_spec(path)
    spec = build_anny_spec(bank, motions)
    save_mesh_spec(path, spec)
    return spec
