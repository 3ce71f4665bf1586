"""Light, props and skirts: shadows fall where they must, cloth goes around legs, things stay in hands."""

import dataclasses

import numpy as np
from bodies import make_bank, make_body_mesh, make_recording

from training.motion import retarget
from training.synth.appearance import find_regions, sample_appearance
from training.synth.light import sample_light, self_shadow, shade
from training.synth.poses import PoseConfig, PoseSampler
from training.synth.props import Prop, Skirt, cuboid, ellipsoid, hang, place, skirt_shape
from training.synth.stage import Stage, vertex_normals

BANK = make_bank()
POSITIONS, NAMES, _ = make_recording(seed=0)
MOTION = retarget((POSITIONS * [1, -1, -1]).astype(np.float32), NAMES, BANK, "01_00")


def test_a_wall_keeps_the_lamp_from_what_is_behind_it() -> None:
    light = dataclasses.replace(sample_light(np.random.default_rng(0)), lamp=np.array([0.0, 0.0, -1.0]), hard=1.0)
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 0]], np.float32)
    faces = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]], np.int32)
    far = square * 0.5 + np.float32([0, 0, 1])
    vertices = np.concatenate([square, far]).astype(np.float32)
    lit = self_shadow(light, vertices, np.concatenate([faces, faces + 5]).astype(np.int32))
    assert (lit[:5] > 0.9).all() and (lit[5:] < 0.1).all()
    grey, towards = np.full((10, 3), 0.5, np.float32), np.tile(np.float32([0, 0, -1]), (10, 1))
    shaded = shade(light, grey, towards, lit)
    assert (shaded[5:] < shaded[:5].min()).all()  # the lamp is missing there, the sky is not
    assert (shaded[5:] > 0).all()


def test_solids_are_closed_and_face_outwards() -> None:
    for solid in (ellipsoid(np.zeros(3), np.ones(3), np.ones(3)), cuboid(np.zeros(3), np.ones(3), np.ones(3))):
        normals = vertex_normals(solid.vertices, solid.faces)
        assert ((normals * solid.vertices).sum(axis=1) > 0).all()
        edges = np.sort(np.concatenate([solid.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_a_prop_moves_with_its_bone() -> None:
    stage = Stage(BANK, make_body_mesh(BANK))
    wrist = BANK.bone("wrist.L")
    held = Prop(wrist, cuboid(BANK.rest_heads[0][wrist].astype(float), np.full(3, 0.01), np.ones(3)))
    posed = stage.pose(0, MOTION.rotations[2], np.array([0.0, 0.0, 3.0]))
    matrix = posed.transforms[wrist]
    expected = matrix[:, :3] @ BANK.rest_heads[0][wrist] + matrix[:, 3]
    np.testing.assert_allclose(place(held, posed.transforms).vertices.mean(axis=0), expected, atol=1e-5)


def test_a_skirt_goes_around_both_legs() -> None:
    rings, spokes = skirt_shape()
    skirt = Skirt(0.6, 0.05, np.full((rings * spokes, 3), 0.5, np.float32))
    down, around, side = np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 2 * np.pi, 12), [-0.1, 0.1], indexing="ij")
    legs = np.stack([side + 0.06 * np.cos(around), 0.8 * down, 0.06 * np.sin(around) + 0.2 * down * side], axis=-1)
    legs, along = legs.reshape(-1, 3).astype(np.float32), down.ravel().astype(np.float32)
    solid = hang(skirt, legs, along, np.eye(3))
    cloth = solid.vertices.reshape(rings, spokes, 3)
    covered = legs[along < 0.55]
    assert cloth[..., 0].min() < covered[:, 0].min() and cloth[..., 0].max() > covered[:, 0].max()
    assert cloth[..., 2].min() < covered[:, 2].min() and cloth[..., 2].max() > covered[:, 2].max()
    assert (np.diff(cloth[:, 0, 1]) > 0).all()  # down, ring by ring
    outwards = vertex_normals(solid.vertices, solid.faces).reshape(rings, spokes, 3)
    middle = cloth.mean(axis=1, keepdims=True)
    assert ((outwards * (cloth - middle)).sum(axis=2) > 0).all()


def test_everyone_is_dressed_in_numbers_that_can_be_drawn() -> None:
    regions, rng = find_regions(BANK), np.random.default_rng(0)
    dressed = [sample_appearance(rng, regions, BANK, index % len(BANK)) for index in range(60)]
    assert any(one.skirt for one in dressed) and any(one.props for one in dressed)
    for one in dressed:
        solids = [prop.solid for prop in one.props]
        for colours in (one.colours, *(solid.colours for solid in solids)):
            assert colours.dtype == np.float32 and colours.min() >= 0 and colours.max() <= 1
        assert one.thickness.min() >= 0 and one.thickness.max() < 0.15
        assert all(np.isfinite(solid.vertices).all() for solid in solids)


def test_who_sits_has_knees_before_the_hips_and_who_lies_is_level() -> None:
    base = PoseConfig(recombine=0, blend=0, sample_arm=0, carry=0, low=0, lie=0, disturb=0)
    heads = BANK.rest_heads[0]

    def bone_way(rotations: np.ndarray, start: str, end: str) -> np.ndarray:
        at = BANK.bone(start)
        return rotations[at] @ (heads[BANK.bone(end)] - heads[at])

    sitting = PoseSampler(BANK, [MOTION], dataclasses.replace(base, low=1.0))
    lying = PoseSampler(BANK, [MOTION], dataclasses.replace(base, lie=1.0))
    rng = np.random.default_rng(0)
    forwards = [bone_way(sitting.sample(rng), "upperleg01.L", "lowerleg01.L") for _ in range(60)]
    facing = [MOTION.rotations[0][0] @ [0, 0, -1]]
    assert np.mean([thigh @ facing[0] > 0.1 for thigh in forwards]) > 0.7
    spines = [bone_way(lying.sample(rng), "root", "neck01") for _ in range(30)]
    assert np.mean([abs(spine[1]) < 0.6 * np.linalg.norm(spine) for spine in spines]) > 0.9
    for _ in range(20):
        rotations = sitting.sample(rng)
        np.testing.assert_allclose(
            rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (len(rotations), 1, 1)), atol=1e-4
        )
