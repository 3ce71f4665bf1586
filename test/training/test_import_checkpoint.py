"""Importing original checkpoints: meshes from the files of their users, honest stand-ins, and one line for what is bad.

The networks are small; the figures of those in full size are met in test_golden.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from model_fixtures import (
    BODY_PARENTS,
    HAND_PARENTS,
    claim_size,
    evil_pickle,
    model_fields,
    published,
    sphere,
    write_sampling,
)
from scipy.spatial.transform import Rotation
from tiny_network import scramble, small_config

from metro_ros.cli import main as metro_ros_command
from metro_ros.core.bundle import Bundle, load_bundle
from metro_ros.core.errors import ConfigError
from training.build import build
from training.export import BundleInfo, mesh_arrays
from training.import_checkpoint import KINDS, main
from training.mesh_spec import HAND_21_NAMES, J14_NAMES
from training.network import Metro
from training.network_config import MetroConfig
from training.normalize import Normalize
from training.original_mesh import level_faces

State = dict[str, torch.Tensor]
BODY, HAND = (431, 1723, 6890), (195, 778)
H36M = (
    "Pelvis", "R_Hip", "R_Knee", "R_Ankle", "L_Hip", "L_Knee", "L_Ankle", "Torso", "Neck", "Nose", "Head",
    "L_Shoulder", "L_Elbow", "L_Wrist", "R_Shoulder", "R_Elbow", "R_Wrist",
)  # fmt: skip


def config(kind: str) -> MetroConfig:
    levels = len(KINDS[kind].level_sizes)
    return dataclasses.replace(
        small_config(f"paper_{kind}"), position_rows=512, train_upsampling=(True,) * (levels - 1), init_std=0.03
    )


@pytest.fixture(scope="module", autouse=True)
def small_kinds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("body", "hand"):
            patch.setitem(KINDS, kind, dataclasses.replace(KINDS[kind], config=lambda kind=kind: config(kind)))
        yield


def small_metro(kind: str, tokens: np.ndarray) -> Metro:
    torch.manual_seed(4)
    return scramble(build(config(kind), KINDS[kind].spec(tokens)))


def original_state(metro: Metro) -> State:
    """With the parameters that the original files hold and no forward pass reads."""
    dead = {
        "trans_encoder.0.bert.embeddings.word_embeddings.weight": torch.zeros(9, 16),
        "trans_encoder.0.bert.pooler.dense.bias": torch.full((16,), float("nan")),
        "backbone.classifier.weight": torch.zeros(10, 2048),
    }
    return dict(metro.state_dict()) | dead


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Every file that the command line takes, in the real layout and size, and what went into them."""
    folder = tmp_path_factory.mktemp("inputs")
    smpl = model_fields(BODY[-1], BODY_PARENTS)
    mano = model_fields(HAND[-1], HAND_PARENTS) | {"hands_mean": np.random.default_rng(1).normal(0, 0.2, 45)}
    random = np.random.default_rng(2)
    regressor = random.random((17, BODY[-1])) * (random.random((17, BODY[-1])) < 0.001)
    regressor /= regressor.sum(axis=1, keepdims=True)
    given = SimpleNamespace(folder=folder, smpl_fields=smpl, mano_fields=mano, regressor_array=regressor)
    given.smpl, given.mano = folder / "smpl.pkl", folder / "MANO_RIGHT.pkl"
    given.smpl.write_bytes(published(smpl))
    given.mano.write_bytes(published(mano))
    given.body_sampling, given.hand_sampling = folder / "mesh_downsampling.npz", folder / "mano_downsampling.npz"
    middle, coarse = write_sampling(given.body_sampling, BODY)
    given.body_rows = [middle[coarse], middle, np.arange(BODY[-1])]
    given.hand_rows = write_sampling(given.hand_sampling, HAND)[0]
    given.regressor = folder / "J_regressor_h36m_correct.npy"
    np.save(given.regressor, regressor)
    for kind, tokens in (("body", 14 + BODY[0]), ("hand", 21 + HAND[0])):
        template = random.normal(0, 0.2, (tokens, 3)).astype(np.float32)
        metro = small_metro(kind, template)
        checkpoint, file = folder / f"{kind}.bin", folder / f"{kind}_template.npz"
        torch.save(original_state(metro), checkpoint, _use_new_zipfile_serialization=False)
        np.savez(file, template=template)
        vars(given).update({f"{kind}_metro": metro, f"{kind}_checkpoint": checkpoint, f"{kind}_template": file})
    given.body_files = {"smpl": given.smpl, "sampling": given.body_sampling, "joint-regressor": given.regressor}
    given.hand_files = {"mano": given.mano, "sampling": given.hand_sampling}
    return given


def command(kind: str, checkpoint: Path, output: Path, *flags: str, **files: Path) -> int:
    words = ["--kind", kind, "--checkpoint", str(checkpoint), "--output", str(output), *flags]
    for name, path in files.items():
        words += [f"--{name}", str(path)]
    return main(words)


class Imported(NamedTuple):
    """What the command line hands to the exporter."""

    metro: Metro
    config: MetroConfig
    info: BundleInfo
    attention: bool


def imported(kind: str, checkpoint: Path, *flags: str, **files: Path) -> Imported:
    """All of the command but the export, which takes ten seconds."""
    taken: list[Imported] = []

    def take(metro: Metro, config: MetroConfig, info: BundleInfo, output: Path, attention: bool) -> Bundle:
        taken.append(Imported(metro, config, info, attention))
        raise ConfigError("no export")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.import_checkpoint.export_bundle", take)
        assert command(kind, checkpoint, Path("unused"), *flags, **files) == 2
    return taken[0]


@pytest.fixture(scope="module")
def body(inputs: SimpleNamespace) -> Imported:
    return imported("body", inputs.body_checkpoint, "--attention", **inputs.body_files)


@pytest.fixture(scope="module")
def hand(inputs: SimpleNamespace) -> Bundle:
    assert command("hand", inputs.hand_checkpoint, inputs.folder / "hand", **inputs.hand_files) == 0
    return load_bundle(inputs.folder / "hand")


@pytest.fixture(scope="module")
def templated(inputs: SimpleNamespace) -> Bundle:
    assert command("body", inputs.body_checkpoint, inputs.folder / "templated", template=inputs.body_template) == 0
    return load_bundle(inputs.folder / "templated")


def outputs(bundle: Bundle, crops: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])
    return session.run(["joints", "vertices", "camera"], {"image": crops})


def eager(metro: Metro, crops: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        output = metro(Normalize()(torch.from_numpy(crops)))
    return [tensor.numpy() for tensor in (output.joints, output.vertices[-1], output.camera)]


def test_the_attention_view_comes_when_it_is_asked_for(body: Imported, hand: Bundle) -> None:
    assert body.attention is True
    assert hand.part_file("attention") is None


def test_body_of_smpl(body: Imported, inputs: SimpleNamespace) -> None:
    fields, mesh = inputs.smpl_fields, body.metro.mesh
    root = (fields["J_regressor"] @ fields["v_template"])[0]
    turn = Rotation.from_rotvec([3.1416, 0, 0]).as_matrix()
    vertices = (fields["v_template"] - root) @ turn.T + root
    pelvis = inputs.regressor_array[0] @ vertices
    np.testing.assert_allclose(mesh.template, vertices - pelvis, atol=2e-6)
    for rows, want in zip(mesh.rows, inputs.body_rows, strict=True):
        np.testing.assert_array_equal(rows, want)
    by_name = inputs.regressor_array[[H36M.index(name) for name in J14_NAMES]]
    np.testing.assert_allclose(mesh.joint_regressor, by_name, atol=1e-7)
    np.testing.assert_allclose(mesh.root_row, inputs.regressor_array[0], atol=1e-7)
    np.testing.assert_array_equal(mesh.faces[2], fields["f"])
    tokens = np.concatenate([by_name @ (vertices - pelvis), (vertices - pelvis)[inputs.body_rows[0]]])
    np.testing.assert_allclose(mesh.template_tokens, tokens, atol=2e-6)
    np.testing.assert_array_equal(body.metro.template_tokens, mesh.template_tokens)
    assert mesh.joint_names == J14_NAMES and not body.metro.training
    assert set(mesh_arrays(mesh)) >= {"faces_2", "rows_2", "template", "joint_regressor"}


def test_coarser_levels_close_the_surface_with_normals_outward(body: Imported) -> None:
    mesh = body.metro.mesh
    for level in (0, 1):
        corners = mesh.template[mesh.rows[level]][mesh.faces[level]]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        outward = np.einsum("fi,fi->f", normals, corners.mean(axis=1) - mesh.template.mean(axis=0))
        assert (outward > 0).mean() > 0.98
        assert len(mesh.faces[level]) > 1.8 * BODY[level]  # 2 V - 4 would close it
        assert len(np.unique(mesh.faces[level])) == BODY[level]


def test_level_faces_of_parts_without_a_row() -> None:
    points, faces = sphere(50)
    both = np.concatenate([points, points + 5]).astype(np.float32)
    coarse = level_faces(
        both, np.concatenate([faces, faces + 50]).astype(np.int32), np.arange(0, 50, 4, dtype=np.int32)
    )
    assert coarse.max() < 13 and len(coarse) > 13


def test_hand_of_mano(hand: Bundle, inputs: SimpleNamespace) -> None:
    fields, names = inputs.mano_fields, HAND_21_NAMES
    tips = dict(zip(("Thumb", "Index", "Middle", "Ring", "Pinky"), (745, 317, 445, 556, 673), strict=True))
    for finger, vertex in tips.items():
        row = hand.joint_regressor[names.index(f"{finger}_4")]
        assert row[vertex] == 1 and np.count_nonzero(row) == 1
    joints = dict(
        zip(("Wrist", "Index_1", "Middle_1", "Pinky_1", "Ring_1", "Thumb_1"), (0, 1, 4, 7, 10, 13), strict=True)
    )
    for name, joint in joints.items():
        np.testing.assert_allclose(
            hand.joint_regressor[names.index(name)], fields["J_regressor"].toarray()[joint], atol=1e-7
        )
    np.testing.assert_array_equal(hand.rows[0], inputs.hand_rows)
    assert hand.levels == HAND and hand.skeleton.names == names

    # The same weights around the template that these files give.
    spec = KINDS["hand"].mesh({"mano": inputs.mano, "sampling": inputs.hand_sampling}, HAND)
    metro = build(config("hand"), spec).eval()
    metro.load_state_dict(inputs.hand_metro.state_dict())
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for got, want in zip(outputs(hand, crops), eager(metro, crops), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_hand_s_template_is_the_mean_hand_from_its_wrist(inputs: SimpleNamespace) -> None:
    spec = KINDS["hand"].mesh({"mano": inputs.mano, "sampling": inputs.hand_sampling}, HAND)
    joints, coarse = spec.template_tokens[:21], spec.template_tokens[21:]
    np.testing.assert_array_equal(joints[0], 0)
    np.testing.assert_array_equal(coarse, spec.template[inputs.hand_rows])
    for name, vertex in (("Thumb_4", 745), ("Middle_4", 444), ("Pinky_4", 673)):  # 444, where the regressor has 445
        np.testing.assert_array_equal(joints[HAND_21_NAMES.index(name)], spec.template[vertex])
    rest = inputs.mano_fields["J_regressor"] @ inputs.mano_fields["v_template"]
    first = joints[[HAND_21_NAMES.index(name) for name in ("Index_1", "Middle_1")]]
    np.testing.assert_allclose(first, (rest - rest[0])[[1, 4]], atol=1e-6)  # the wrist is not turned
    second = joints[HAND_21_NAMES.index("Index_2")] - first[0]
    bend = Rotation.from_rotvec(inputs.mano_fields["hands_mean"][:3])
    np.testing.assert_allclose(second, bend.apply(rest[2] - rest[1]), atol=1e-6)


def test_manifest_names_files_licences_and_limits(body: Imported, hand: Bundle, inputs: SimpleNamespace) -> None:
    manifest = hand.manifest
    assert (manifest.name, manifest.camera_frame, manifest.crop.padding) == ("metro-hand", "camera", 1.2)
    assert "MANO licence" in manifest.licence["body_model"] and "not to be redist" in manifest.licence["body_model"]
    assert "the user's own file" in manifest.licence["weights"]
    entries = manifest.origin["inputs"]
    assert set(entries) == {"checkpoint", "mano", "sampling"}
    digest = hashlib.sha256(inputs.mano.read_bytes()).hexdigest()
    assert entries["mano"] == {"file": "MANO_RIGHT.pkl", "sha256": digest}
    assert str(inputs.folder) not in json.dumps(dict(manifest.origin))
    assert "right hands only" in manifest.measured["limits"]
    assert {path.name for path in hand.path.iterdir()} == {"manifest.json", "model.onnx", "mesh.npz"}
    assert body.info.name == "metro-body" and "SMPL licence" in body.info.body_licence
    assert set(body.info.origin["inputs"]) == {"checkpoint", "smpl", "sampling", "joint_regressor"}


def test_by_the_template_alone(templated: Bundle, inputs: SimpleNamespace) -> None:
    metro = inputs.body_metro
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for got, want in zip(outputs(templated, crops), eager(metro, crops), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    coarse = torch.from_numpy(metro.mesh.template_tokens[14:])[None]
    with torch.no_grad():
        levels = [level[0].numpy() for level in metro.upsample(coarse)]
    np.testing.assert_allclose(templated.template, levels[2], atol=1e-6)
    for rows, level in zip(templated.rows[:2], levels[:2], strict=True):
        distances = np.linalg.norm(templated.template[rows] - level, axis=1)
        others = np.linalg.norm(templated.template[np.roll(rows, 1)] - level, axis=1)
        assert distances.mean() < 0.5 * others.mean()
    assert [faces.shape for faces in templated.faces] == [(0, 3)] * 3
    np.testing.assert_allclose(templated.joint_regressor.sum(axis=1), 1, atol=1e-5)
    assert templated.joint_regressor.min() >= 0
    limits = " ".join(templated.manifest.measured["limits"])
    assert "stand-ins" in limits and "no faces" in limits


def test_by_the_template_and_faces(inputs: SimpleNamespace, tmp_path: Path) -> None:
    with np.load(inputs.hand_template) as file:
        tokens = file["template"]
    faces = sphere(HAND[-1])[1].astype(np.int64)
    np.savez(tmp_path / "template.npz", template=tokens, faces=faces, joint_names=HAND_21_NAMES)
    hand = imported("hand", inputs.hand_checkpoint, template=tmp_path / "template.npz")
    np.testing.assert_array_equal(hand.metro.mesh.faces[1], faces)
    assert len(hand.metro.mesh.faces[0]) and "no faces" not in " ".join(hand.info.measured["limits"])


@pytest.mark.parametrize("name", ["templated", "hand"])
def test_metro_ros_runs_what_was_imported(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = request.getfixturevalue(name)
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    words = ["run", str(tmp_path / "image.png"), "--bundle", str(bundle.path), "--output", str(tmp_path / "out")]
    assert metro_ros_command([*words, "--engine", "onnxruntime"]) == 0
    assert (tmp_path / "out" / "people.json").exists()


@pytest.mark.parametrize("option", ["checkpoint", "smpl", "mano", "sampling", "joint-regressor", "template"])
@pytest.mark.parametrize(
    "damage", ["command", "truncated", "folder", "missing", "empty", "text", "device"]
)  # fmt: skip
def test_every_file_is_data(option: str, damage: str, inputs: SimpleNamespace, tmp_path: Path, capsys) -> None:
    kind = "hand" if option == "mano" else "body"
    files = {"template": inputs.body_template} if option in ("checkpoint", "template") else dict(inputs.body_files)
    if option == "mano":
        files = dict(inputs.hand_files)
    whole = {"checkpoint": inputs.body_checkpoint, **files}[option].read_bytes()
    bad, victim = tmp_path / "bad.bin", tmp_path / "victim"
    if damage == "folder":
        bad.mkdir()
    elif damage == "device":
        bad = Path("/dev/zero")
    elif damage != "missing":
        made: dict[str, Callable[[], bytes]] = {
            "command": lambda: evil_pickle(victim), "truncated": lambda: whole[: len(whole) // 2],
            "empty": lambda: b"", "text": lambda: b"<html>404: not found</html>",
        }  # fmt: skip
        bad.write_bytes(made[damage]())
    checkpoint = bad if option == "checkpoint" else inputs.body_checkpoint
    files |= {} if option == "checkpoint" else {option: bad}
    assert command(kind, checkpoint, tmp_path / "bundle", **files) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and bad.name in error and len(error) < 500
    assert not victim.exists() and not (tmp_path / "bundle").exists()
    if damage == "command" and option in ("checkpoint", "smpl", "mano"):
        assert "os.system" in error


def test_a_sampling_file_that_claims_much_is_refused(inputs: SimpleNamespace, tmp_path: Path, capsys) -> None:
    (tmp_path / "sampling.npz").write_bytes(claim_size(inputs.hand_sampling.read_bytes(), 0xFFFFFFF0))
    files = inputs.hand_files | {"sampling": tmp_path / "sampling.npz"}
    assert command("hand", inputs.hand_checkpoint, tmp_path / "bundle", **files) == 2
    assert "too large" in capsys.readouterr().err


def test_a_checkpoint_of_the_other_kind_is_refused(inputs: SimpleNamespace, tmp_path: Path, capsys) -> None:
    assert command("body", inputs.hand_checkpoint, tmp_path / "bundle", template=inputs.body_template) == 2
    error = capsys.readouterr().err
    assert "missing conv_learn_tokens.weight" in error and "kind of network" in error


def test_files_that_do_not_belong_together(inputs: SimpleNamespace, tmp_path: Path, capsys) -> None:
    template, body = {"template": inputs.body_template}, inputs.body_files
    for kind, files, said in (
        ("body", {}, "got none"),
        ("body", {"smpl": inputs.smpl}, "got --smpl"),
        ("body", body | template, "--template alone"),
        ("hand", body, "--mano --sampling"),
        ("hand", template, "(216, 3), got (445, 3)"),
        ("body", body | {"smpl": inputs.mano}, "6890 vertices, got 778"),
        ("body", body | {"sampling": inputs.hand_sampling}, "expected 2 sparse matrices"),
        ("hand", {"mano": inputs.smpl, "sampling": inputs.hand_sampling}, "778 vertices, got 6890"),
    ):
        assert command(kind, inputs.body_checkpoint, tmp_path / "bundle", **files) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
