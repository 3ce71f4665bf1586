"""A stand-in hand for the tests: a tube palm and five tube fingers with Anny's bone names, made in milliseconds."""

from __future__ import annotations

import numpy as np

from training.anny_hand import FINGERS, Hand
from training.mesh_spec import HAND_21_NAMES, HAND_21_PARENTS, MeshSpec

_RING = 8
_WRIST = (0.0, 0.0, 0.0)
# Right hand of somebody who faces the camera: fingers down, thumb towards the camera, palm to +x.
_CHAINS = {
    "Thumb": ((0.01, 0.02, -0.03), (0.015, 0.05, -0.05), (0.02, 0.075, -0.06), (0.025, 0.1, -0.065)),
    **{
        finger: ((0.0, 0.09, z), (0.004, 0.13, z), (0.01, 0.155, z), (0.018, 0.178, z))
        for finger, z in (("Index", -0.03), ("Middle", -0.01), ("Ring", 0.01), ("Pinky", 0.03))
    },
}


def make_hand(identities: int = 3) -> Hand:
    """`identities` tube hands, from a child's to an adult's; the last is the average adult's size."""
    names, parents, heads = ["wrist.R"], [-1], [_WRIST]
    for number, finger in enumerate(FINGERS, start=1):
        for joint in range(3):
            parents.append(0 if joint == 0 else len(names) - 1)
            names.append(f"finger{number}-{joint + 1}.R")
            heads.append(_CHAINS[finger][joint])
    vertices, faces, owners = _palm()
    for number, finger in enumerate(FINGERS):
        points, tube, bones = _finger(np.array(_CHAINS[finger]), 1 + 3 * number)
        faces.append(tube + len(vertices))
        vertices, owners = np.concatenate([vertices, points]), np.concatenate([owners, bones])
    template, bones = vertices.astype(np.float32), np.array(heads, np.float32)
    sizes = np.linspace(0.6, 1.0, identities, dtype=np.float32)[:, None, None]
    return Hand(
        bone_names=tuple(names),
        bone_parents=np.array(parents, np.int64),
        faces=np.concatenate(faces)[:, ::-1].astype(np.int32),
        skin_indices=owners.astype(np.int16)[:, None],
        skin_weights=np.ones((len(template), 1), np.float32),
        rest_vertices=sizes * template,
        rest_heads=sizes * bones,
        ages=np.linspace(5, 40, identities, dtype=np.float32),
        template=template,
        template_heads=bones,
    )


def make_hand_mesh(hand: Hand) -> MeshSpec:
    """Every second vertex and every vertex; joints are means of the nearest ones, tips the ends of their fingers."""
    count = len(hand.template)
    regressor = np.zeros((21, count), np.float32)
    for row, joint in enumerate(HAND_21_NAMES):
        is_tip = joint.endswith("4")
        place = _CHAINS[joint[:-2]][3] if is_tip else hand.template_heads[hand.bone(joint)]
        order = np.argsort(np.linalg.norm(hand.template - place, axis=1))
        nearest = order[:1] if is_tip else order[:_RING]
        regressor[row, nearest] = 1.0 / len(nearest)
    template = (hand.template - regressor[0] @ hand.template).astype(np.float32)
    rows = (np.arange(0, count, 2, dtype=np.int32), np.arange(count, dtype=np.int32))
    return MeshSpec(
        name="tube-hand",
        joint_names=HAND_21_NAMES,
        joint_parents=HAND_21_PARENTS,
        root_joints=(0,),
        level_sizes=tuple(map(len, rows)),
        template_tokens=np.concatenate([regressor @ template, template[rows[0]]]).astype(np.float32),
        joint_regressor=regressor,
        template=template,
        faces=(np.array([[0, 1, 2]], np.int32), hand.faces),
        rows=rows,
    )


def _palm() -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """A flat tube from the wrist, open there, to the knuckles."""
    rings = [_ring(np.array((0.0, y, 0.0)), (0.0, 1.0, 0.0), 0.012, width) for y, width in ((0, 0.025), (0.09, 0.045))]
    points = np.concatenate([*rings, [(0.0, 0.095, 0.0)]])
    return points, [_sides(2), _cap(1, 2 * _RING)], np.zeros(len(points))


def _finger(chain: np.ndarray, first_bone: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tube along a chain of joints, closed at both ends; its last vertex is the tip."""
    along = np.gradient(chain, axis=0)
    places = np.concatenate([chain[:3], 0.15 * chain[2:3] + 0.85 * chain[3:]])
    rings = [_ring(place, direction, 0.008, 0.008) for place, direction in zip(places, along, strict=True)]
    points = np.concatenate([*rings, chain[:1], chain[3:]])
    base = 4 * _RING
    faces = np.concatenate([_sides(4), _cap(0, base)[:, ::-1], _cap(3, base + 1)])
    bones = np.concatenate([np.repeat(first_bone + np.array((0, 1, 2, 2)), _RING), (first_bone, first_bone + 2)])
    return points, faces, bones


def _ring(place: np.ndarray, direction: tuple[float, ...] | np.ndarray, thick: float, wide: float) -> np.ndarray:
    """Turning right as seen along `direction`; thick towards the palm, wide across it."""
    ahead = np.array(direction) / np.linalg.norm(direction)
    side = np.cross((1.0, 0.0, 0.0), ahead)
    side /= np.linalg.norm(side)
    front = np.cross(ahead, side)
    angles = np.arange(_RING) * (2 * np.pi / _RING)
    return place + thick * np.outer(np.cos(angles), front) + wide * np.outer(np.sin(angles), -side)


def _sides(rings: int) -> np.ndarray:
    faces = []
    for ring in range(rings - 1):
        for k in range(_RING):
            a, b = ring * _RING + k, ring * _RING + (k + 1) % _RING
            faces += [(a, a + _RING, b), (b, a + _RING, b + _RING)]
    return np.array(faces)


def _cap(ring: int, middle: int) -> np.ndarray:
    return np.array([(ring * _RING + k, middle, ring * _RING + (k + 1) % _RING) for k in range(_RING)])
