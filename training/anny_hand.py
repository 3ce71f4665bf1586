"""Anny's right hand as a mesh spec: 21 joints, 75 / 1,609 vertices. The worked example of how a mesh is added.

python -m training.anny_hand [--output FILE.npz]

Of a mesh the network wants to know its joints, a few of its vertices to think with, and how those carry the rest. Here
all of it follows from a hand that can be posed: `build_hand` asks Anny for one, `posed_hands` bends it, and
`build_anny_hand_spec` fits the numbers. 75 vertices and 21 joints make 96 tokens, of which a small network spends most
of its time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from metro_ros.core.errors import ConfigError, MetroError
from training.body import CACHE, BodyBank, bone_transforms, load_or_build, skin, to_camera_axes
from training.levels import farthest_points, fit_dense_upsampling, fit_joint_regressor, voronoi_faces
from training.mesh_files import load_mesh_spec, save_mesh_spec
from training.mesh_spec import HAND_21_NAMES, HAND_21_PARENTS, MeshSpec

NAME = "anny-hand-75"
COARSE_VERTICES = 75
FIT_SAMPLES = 400
IDENTITIES, SEED = 64, 1
TRAINING_HANDS = (192, 1)
"""Identities and seed of the hands that the hand network is trained on."""
FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
_REACH_M = 0.03
"""A joint is carried by the skin this near to it at rest."""
_BODY_OVER_HAND = 10.0
"""The fits hold noise down by ridges that suit a body's metres, so hands are fitted this much larger."""

FLEXION_DEG = (((-15, 30), (-10, 45), (-15, 60)), *(((-25, 75), (-15, 85), (-10, 55)),) * 4)
"""By finger, of its three bones, root first, from rest, where fingers are a little bent: roughly what hands do."""
SPREAD_DEG = ((-15, 20), (-12, 12), (-8, 8), (-8, 8), (-12, 12))
"""By finger, of its first bone, sideways."""


@dataclass(frozen=True, slots=True, eq=False)
class Hand:
    """Identities of a right hand, with everything that posing them takes.

    Metres, camera axes (x right, y down, z forward), as on a body at rest that faces the camera: fingers down and
    towards the camera, palm to the thigh.

    Attributes:
        bone_names, bone_parents: B bones, parents before children, -1 for the root.
        faces: (F, 3) int32, counter-clockwise seen from outside; open at the wrist.
        skin_indices, skin_weights: (V, K) bones that move each vertex, int16, and how much, float32.
        rest_vertices: (N, V, 3) float32; rest_heads: (N, B, 3) float32, where each bone begins.
        ages: (N,) float32 morphological age in years.
        template: (V, 3) float32, the average adult hand; template_heads: (B, 3).
    """

    bone_names: tuple[str, ...]
    bone_parents: NDArray[np.int64]
    faces: NDArray[np.int32]
    skin_indices: NDArray[np.int16]
    skin_weights: NDArray[np.float32]
    rest_vertices: NDArray[np.float32]
    rest_heads: NDArray[np.float32]
    ages: NDArray[np.float32]
    template: NDArray[np.float32]
    template_heads: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rest_vertices)

    def bone(self, joint: str) -> int:
        """The bone that begins at a joint such as ``Wrist`` or ``Thumb_1``; tips have none."""
        finger, _, number = joint.partition("_")
        return self.bone_names.index(f"finger{FINGERS.index(finger) + 1}-{number}.R" if number else "wrist.R")

    def as_bank(self) -> BodyBank:
        """The same as whatever poses bodies takes it; there is no middle topology, so that is the finest."""
        return BodyBank(
            bone_names=self.bone_names,
            bone_parents=self.bone_parents,
            faces=self.faces,
            skin_indices=self.skin_indices,
            skin_weights=self.skin_weights,
            rest_vertices=self.rest_vertices,
            rest_heads=self.rest_heads,
            ages=self.ages,
            middle_template=self.template,
            middle_faces=self.faces,
            template=self.template,
        )


def build_hand(identities: int, seed: int) -> Hand:
    """Right hands of `identities` people, from infants to elders. Raises ConfigError when anny is not installed."""
    try:
        import anny
        import torch
    except ImportError as error:
        raise ConfigError(
            "the hand model is missing", expected="the package anny", got=str(error), remedy="run 'make venv'"
        ) from error
    model = anny.Anny(rig="anny-hand.R", topology="hand.R")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        ages, phenotypes = anny.shape_distribution.SimpleShapeDistribution(model).sample(identities)
        rest = model.get_rest_model(model.get_phenotype_blendshape_coefficients(**phenotypes))
        average = {name: torch.full((1,), 0.5, dtype=model.dtype) for name in phenotypes}
        average["age"] = torch.full((1,), 2.0 / 3.0, dtype=model.dtype)
        mean = model.get_rest_model(model.get_phenotype_blendshape_coefficients(**average))
    return Hand(
        bone_names=tuple(model.bone_labels),
        bone_parents=np.asarray(model.bone_parents, np.int64),
        faces=model.get_triangular_faces().numpy().astype(np.int32),
        skin_indices=model.vertex_bone_indices.numpy().astype(np.int16),
        skin_weights=model.vertex_bone_weights.numpy().astype(np.float32),
        rest_vertices=to_camera_axes(rest["rest_vertices"].numpy()),
        rest_heads=to_camera_axes(rest["rest_bone_heads"].numpy()),
        ages=ages.numpy().astype(np.float32),
        template=to_camera_axes(mean["rest_vertices"][0].numpy()),
        template_heads=to_camera_axes(mean["rest_bone_heads"][0].numpy()),
    )


def load_hand(identities: int, seed: int, cache: Path | None = None) -> Hand:
    """The hand from `cache` (default: the user's cache folder), built and stored there when it is missing."""
    path = (cache or CACHE) / f"hands_{identities}_{seed}.npz"
    return load_or_build(path, Hand, lambda: build_hand(identities, seed))


def posed_hands(hand: Hand, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random identities in random poses: (count, V, 3) vertices and (count, B, 3) bone heads, metres, float32.

    Fingers bend and spread within their limits, from a flat hand to a fist; the wrist keeps still, for no fit depends
    on how the whole hand is turned.
    """
    rng = np.random.default_rng(seed)
    vertices, heads = [], []
    for _ in range(count):
        identity, closed = rng.integers(len(hand.rest_vertices)), rng.uniform(-0.2, 1.2)
        bend = closed + rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 0.15, (5, 3))  # fingers mostly close together
        rotations = bone_rotations(hand, np.clip(bend, 0, 1), rng.uniform(0, 1, 5))
        transforms = bone_transforms(rotations, hand.rest_heads[identity], hand.bone_parents)
        vertices.append(skin(hand.rest_vertices[identity], transforms, hand.skin_indices, hand.skin_weights))
        heads.append(np.einsum("bij,bj->bi", transforms[:, :, :3], hand.rest_heads[identity]) + transforms[:, :, 3])
    return np.stack(vertices), np.stack(heads)


def bone_rotations(hand: Hand, bend: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float32]:
    """(B, 3, 3) float32, each bone's rotation from rest to pose, in the axes of the hand at rest.

    bend: (5, 3), by finger and bone, from 0, as straight as it gets, to 1, closed; spread: (5,), from 0 to 1, away from
    the thumb's side to towards it. Both within what a hand can do.
    """
    rotations = np.tile(np.eye(3), (len(hand.bone_names), 1, 1))
    for finger, (flexion, sideways) in enumerate(finger_axes(hand)):
        for bone, part in enumerate(bend[finger]):
            turn = Rotation.from_rotvec(np.radians(within(FLEXION_DEG[finger][bone], part)) * flexion)
            if bone == 0:
                turn = Rotation.from_rotvec(np.radians(within(SPREAD_DEG[finger], spread[finger])) * sideways) * turn
            rotations[hand.bone(f"{FINGERS[finger]}_{bone + 1}")] = turn.as_matrix()
    for bone, parent in enumerate(hand.bone_parents):
        if parent >= 0:
            rotations[bone] = rotations[parent] @ rotations[bone]
    return rotations.astype(np.float32)


def build_anny_hand_spec(hand: Hand, seed: int = 0) -> MeshSpec:
    """Levels, faces, joint regressor and upsampling matrix, fitted on posed hands; relative to the wrist."""
    vertices, heads = posed_hands(hand, FIT_SAMPLES, seed)
    regressor = _joint_regressor(hand, vertices, heads)
    rows, owner = farthest_points(hand.template, hand.faces, COARSE_VERTICES)
    wrist = HAND_21_NAMES.index("Wrist")
    template = (hand.template - regressor[wrist] @ hand.template).astype(np.float32)
    larger = _BODY_OVER_HAND * (vertices - heads[:, [hand.bone("Wrist")]])
    return MeshSpec(
        name=NAME,
        joint_names=HAND_21_NAMES,
        joint_parents=HAND_21_PARENTS,
        root_joints=(wrist,),
        level_sizes=(COARSE_VERTICES, len(template)),
        template_tokens=np.concatenate([regressor @ template, template[rows]]).astype(np.float32),
        joint_regressor=regressor,
        template=template,
        faces=(voronoi_faces(owner, hand.faces), hand.faces),
        rows=(rows, np.arange(len(template), dtype=np.int32)),
        upsampling=(fit_dense_upsampling(larger[:, rows], larger),),
    )


def load_anny_hand_spec(cache: Path | None = None) -> MeshSpec:
    """The spec from `cache` (default: the user's cache folder), built and stored there when it is missing."""
    path = (cache or CACHE) / f"mesh_{NAME}.npz"
    if path.exists():
        return load_mesh_spec(path)
    spec = build_anny_hand_spec(build_hand(IDENTITIES, SEED))
    save_mesh_spec(path, spec)
    return spec


def finger_axes(hand: Hand) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """By finger the axes of its flexion towards the palm and of its spread, of unit length, at rest."""
    heads = hand.template_heads.astype(np.float64)
    wrist, index, pinky, thumb = (heads[hand.bone(joint)] for joint in ("Wrist", "Index_1", "Pinky_1", "Thumb_2"))
    out_of_palm = _unit(np.cross(index - wrist, pinky - wrist))  # on a right hand
    axes = []
    for finger in FINGERS:
        along = _unit(heads[hand.bone(f"{finger}_2")] - heads[hand.bone(f"{finger}_1")])
        # The thumb closes across the palm, to the root of the little finger.
        towards = pinky + 0.03 * out_of_palm - thumb if finger == "Thumb" else out_of_palm
        flexion = _unit(np.cross(along, towards))
        axes.append((flexion, np.cross(flexion, along)))
    return axes


def within(limits: tuple[int, int], part: float) -> float:
    return limits[0] + part * (limits[1] - limits[0])


def _joint_regressor(hand: Hand, vertices: NDArray[np.float32], heads: NDArray[np.float32]) -> NDArray[np.float32]:
    """(21, V) float32: joints from the skin around them, tips as the outermost vertex of their finger.

    The mesh ends just before the wrist bone begins, so that joint lies 3 mm inside of it.
    """
    rows = []
    for joint in HAND_21_NAMES:
        if joint.endswith("4"):
            last = hand.bone(joint.replace("4", "3"))
            carried = (hand.skin_weights * (hand.skin_indices == last)).sum(axis=1)
            of_tip = np.flatnonzero(carried > 0.9)
            along = hand.template[of_tip].mean(axis=0) - hand.template_heads[last]
            row = np.zeros(len(hand.template), np.float32)
            row[of_tip[np.argmax(hand.template[of_tip] @ along)]] = 1.0
        else:
            bone = hand.bone(joint)
            near = np.linalg.norm(hand.template - hand.template_heads[bone], axis=1) < _REACH_M
            row = fit_joint_regressor(heads[:, bone], np.flatnonzero(near), vertices)
        rows.append(row)
    return np.stack(rows)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line of explanation."""
    parser = argparse.ArgumentParser(prog="python -m training.anny_hand", description="Write the hand's mesh spec.")
    parser.add_argument("--output", type=Path, default=Path(f"{NAME}.npz"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        spec = build_anny_hand_spec(build_hand(IDENTITIES, SEED))
        save_mesh_spec(options.output, spec)
    except MetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {spec.joint_count} joints, {' / '.join(map(str, spec.level_sizes))} vertices")
    return 0


if __name__ == "__main__":
    sys.exit(main())
