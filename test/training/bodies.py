"""A stand-in body for the tests: a jointed tube man with Anny's bone names, made in milliseconds.

It has the bones that retargeting, clothing and pose sampling name, so those run on it as they do on Anny; one test runs
on Anny itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from metro_ros.core.skeleton import BODY_17
from training.anny_spec import BONE_OF, JOINT_NAMES
from training.body import BodyBank
from training.datasets.shards import write_shards
from training.mesh_files import save_mesh_spec
from training.mesh_spec import MeshSpec
from training.motion import retarget
from training.synth.samples import SampleConfig, SampleMaker

# bone: (parent, head position in metres, camera axes: x right, y down, z forward)
_MIDDLE = {
    "root": (None, (0.0, 0.0, 0.0)),
    "spine05": ("root", (0.0, -0.02, 0.0)),
    "spine04": ("spine05", (0.0, -0.12, 0.0)),
    "spine03": ("spine04", (0.0, -0.2, 0.0)),
    "spine02": ("spine03", (0.0, -0.3, 0.0)),
    "spine01": ("spine02", (0.0, -0.4, 0.0)),
    "neck01": ("spine01", (0.0, -0.55, 0.0)),
    "head": ("neck01", (0.0, -0.65, -0.02)),
    "eye": ("head", (0.0, -0.7, -0.1)),
}
_SIDE = {
    "upperleg01": ("root", (0.1, 0.02, 0.0)),
    "lowerleg01": ("upperleg01", (0.12, 0.42, -0.01)),
    "foot": ("lowerleg01", (0.14, 0.8, 0.0)),
    "toe2-1": ("foot", (0.15, 0.86, -0.12)),
    "clavicle": ("spine01", (0.03, -0.5, 0.0)),
    "upperarm01": ("clavicle", (0.18, -0.48, 0.0)),
    "lowerarm01": ("upperarm01", (0.38, -0.3, -0.02)),
    "wrist": ("lowerarm01", (0.53, -0.15, -0.1)),
    "finger3-1": ("wrist", (0.58, -0.1, -0.14)),
}
RING = 8


def _skeleton() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    bones = {name: (parent, head) for name, (parent, head) in _MIDDLE.items()}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        for name, (parent, (x, y, z)) in _SIDE.items():
            owner = parent if parent in _MIDDLE else f"{parent}.{side}"
            bones[f"{name}.{side}"] = (owner, (sign * x, y, z))
    names = tuple(bones)
    parents = np.array([-1 if bones[name][0] is None else names.index(bones[name][0]) for name in names], np.int64)
    return names, parents, np.array([bones[name][1] for name in names], np.float32)


def make_bank(identities: int = 3) -> BodyBank:
    """`identities` tube people: 24 octagonal prisms around their bones, scaled from a child to an adult."""
    names, parents, heads = _skeleton()
    vertices, faces, owner = [], [], []
    angles = np.linspace(0, 2 * np.pi, RING, endpoint=False)
    circle = np.stack([np.cos(angles), np.zeros(RING), np.sin(angles)], axis=1)
    for bone, parent in enumerate(parents):
        if parent < 0:
            continue
        base = len(vertices) * RING
        for end in (parent, bone):
            vertices.append(heads[end] + 0.05 * circle)
            owner.append(np.full(RING, parent))
        for k in range(RING):
            a, b, c, d = base + k, base + (k + 1) % RING, base + RING + k, base + RING + (k + 1) % RING
            faces += [[a, b, c], [b, d, c]]
    template = np.concatenate(vertices).astype(np.float32)
    indices = np.concatenate(owner).astype(np.int16)[:, None]
    sizes = np.linspace(0.6, 1.1, identities, dtype=np.float32)
    return BodyBank(
        bone_names=names,
        bone_parents=parents,
        faces=np.array(faces, np.int32),
        skin_indices=indices,
        skin_weights=np.ones_like(indices, np.float32),
        rest_vertices=sizes[:, None, None] * template,
        rest_heads=sizes[:, None, None] * heads,
        ages=np.linspace(5, 40, identities, dtype=np.float32),
        middle_template=template[::4].copy(),
        middle_faces=np.array([[0, 1, 2]], np.int32),
        template=template,
    )


def make_body_mesh(bank: BodyBank) -> MeshSpec:
    """A mesh spec on the bank: every 8th, every 2nd and every vertex; joints are means of rings around bones."""
    count = len(bank.template)
    rows = tuple(np.arange(0, count, step, dtype=np.int32) for step in (8, 2, 1))
    joints = ("R_Hip", "L_Hip", "Head")
    regressor = np.zeros((3, count), np.float32)
    for row, bone in enumerate(("upperleg01.R", "upperleg01.L", "head")):
        nearest = np.argsort(np.linalg.norm(bank.template - bank.rest_heads[-1][bank.bone(bone)] / 1.1, axis=1))[:RING]
        regressor[row, nearest] = 1.0 / RING
    faces = tuple(np.array([[0, 1, 2]], np.int32) if level < 2 else bank.faces for level in range(3))
    template = bank.template.astype(np.float32)
    return MeshSpec(
        name="tube",
        joint_names=joints,
        joint_parents=(-1, 0, 0),
        root_joints=(0, 1),
        level_sizes=tuple(len(level) for level in rows),
        template_tokens=np.concatenate([regressor @ template, template[rows[0]]]).astype(np.float32),
        joint_regressor=regressor,
        template=template,
        faces=faces,
        rows=rows,
    )


def make_anny_like_mesh(bank: BodyBank) -> MeshSpec:
    """The default model's 17 joints on the bank: means of the rings around Anny's bones."""
    mesh = make_body_mesh(bank)
    bone_of = {**BONE_OF, "Pelvis": "root", "Head": "head", "Nose": "eye"}
    regressor = np.zeros((len(JOINT_NAMES), len(bank.template)), np.float32)
    for row, name in enumerate(JOINT_NAMES):
        distance = np.linalg.norm(bank.template - bank.rest_heads[-1][bank.bone(bone_of[name])] / 1.1, axis=1)
        regressor[row, np.argsort(distance)[:RING]] = 1.0 / RING
    names = {name: index for index, name in enumerate(JOINT_NAMES)}
    template = bank.template.astype(np.float32)
    return dataclasses.replace(
        mesh,
        name="anny-111",
        joint_names=JOINT_NAMES,
        joint_parents=tuple(names.get(BODY_17.names[parent], -1) if parent >= 0 else -1 for parent in BODY_17.parents),
        root_joints=(names["R_Hip"], names["L_Hip"]),
        template_tokens=np.concatenate([regressor @ template, template[mesh.rows[0]]]).astype(np.float32),
        joint_regressor=regressor,
    )


def make_recording(frames: int = 40, seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray]:
    """A walk-like recording in the motion file's layout: (T, 31, 3) metres +y up, joint names, parents."""
    names = [
        "root",
        "lhipjoint",
        "rhipjoint",
        "lowerback",
        "lfemur",
        "ltibia",
        "lfoot",
        "ltoes",
        "rfemur",
        "rtibia",
        "rfoot",
        "rtoes",
        "upperback",
        "thorax",
        "lowerneck",
        "lclavicle",
        "rclavicle",
        "upperneck",
        "head",
        "lhumerus",
        "lradius",
        "lwrist",
        "lhand",
        "lthumb",
        "lfingers",
        "rhumerus",
        "rradius",
        "rwrist",
        "rhand",
        "rthumb",
        "rfingers",
    ]
    parents = [
        -1,
        0,
        0,
        0,
        1,
        4,
        5,
        6,
        2,
        8,
        9,
        10,
        3,
        12,
        13,
        13,
        13,
        14,
        17,
        15,
        19,
        20,
        21,
        21,
        22,
        16,
        25,
        26,
        27,
        27,
        28,
    ]
    offsets = {
        "lhipjoint": (0.1, -0.1, 0), "rhipjoint": (-0.1, -0.1, 0), "lowerback": (0, 0.11, 0), "upperback": (0, 0.11, 0),
        "thorax": (0, 0.11, 0), "lowerneck": (0, 0.09, 0), "upperneck": (0, 0.09, 0), "head": (0, 0.1, 0),
        "lclavicle": (0.2, 0.06, 0), "rclavicle": (-0.2, 0.06, 0),
    }  # fmt: skip
    limbs = {"femur": (0, -0.42, 0.05), "tibia": (0, -0.4, -0.05), "foot": (0, -0.03, 0.12), "toes": (0, 0, 0.06),
             "humerus": (0, -0.28, 0), "radius": (0, -0.19, 0.05), "wrist": (0, -0.09, 0), "hand": (0, -0.04, 0.01),
             "thumb": (0.03, -0.02, 0.02), "fingers": (0, -0.03, 0)}  # fmt: skip
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6)
    positions = np.zeros((frames, 31, 3), np.float32)
    positions[:, 0] = np.stack([np.zeros(frames), np.full(frames, 0.95), np.linspace(0, 0.5, frames)], axis=1)
    for index, name in enumerate(names[1:], start=1):
        offset = np.array(offsets.get(name) or limbs[name[1:]], np.float64)
        swing = 0.4 * np.sin(np.linspace(0, 6, frames) + phase + (3.1 if name[0] == "l" else 0.0))
        swing = swing if name[1:] in ("femur", "humerus", "tibia", "radius") else np.zeros(frames)
        turned = np.stack(
            [
                np.full(frames, offset[0]),
                np.cos(swing) * offset[1] - np.sin(swing) * offset[2],
                np.sin(swing) * offset[1] + np.cos(swing) * offset[2],
            ],
            axis=1,
        )
        positions[:, index] = positions[:, parents[index]] + turned
    return positions, names, np.array(parents)


def write_training_set(folder: Path, count: int) -> None:
    """mesh.npz and crops/, so many easy ones in shards of 24."""
    bank = make_bank()
    mesh = make_body_mesh(bank)
    positions, names, _ = make_recording()
    motion = retarget((positions * [1, -1, -1]).astype(np.float32), names, bank, "01_01")
    easy = SampleConfig(whole_image=0.0, rough=0.0, no_person=0.1, occluded=0.0, rooms=2)
    write_shards(SampleMaker(bank, mesh, [motion], 0, easy), folder / "crops", seed=1, count=count, size=24)
    save_mesh_spec(folder / "mesh.npz", mesh)
