"""Datasets by name, each on its real layout."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from bodies import make_anny_like_mesh, make_bank
from dataset_fixtures import write_coco, write_freihand, write_metro_tsv, write_threedpw
from stand_in_hand import make_hand, make_hand_mesh
from stand_ins import make_sample
from write_fixtures import write_default, write_hand

from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.catalogue import KINDS, open_source
from training.datasets.shards import write_shard
from training.mesh_spec import J14_NAMES, MeshSpec, body_431, hand_195

BODY, HAND = body_431(np.zeros((445, 3), np.float32)), hand_195(np.zeros((216, 3), np.float32))


def write_shards(folder: Path) -> Path:
    write_shard(folder / "set" / "a.tar", [make_sample(joint_count=14)], J14_NAMES)
    return folder / "set"


def write_stream(folder: Path) -> Path:
    write_default(folder)
    path = folder / "stream.json"
    path.write_text(json.dumps({"motions": "motions.npz", "cache": ".", "seed": 3, "renderer": "opencv"}))
    return path


TUBE_MAN = make_anny_like_mesh(make_bank())
WRITERS = {
    "shards": (write_shards, BODY, "R_Ankle"),
    "synth": (write_stream, TUBE_MAN, "R_Ankle"),
    "tsv": (lambda folder: write_metro_tsv(folder), BODY, "R_Ankle"),
    "freihand": (lambda folder: write_freihand(folder / "F"), HAND, "Thumb_4"),
    "3dpw": (lambda folder: write_threedpw(folder / "P", "train"), BODY, "L_Knee"),
    "3dpw-validation": (lambda folder: write_threedpw(folder / "P", "validation"), BODY, "L_Knee"),
    "coco": (write_coco, BODY, "L_Wrist"),
}


@pytest.fixture(autouse=True)
def few_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.synth.stream.ROOMS", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_opens_its_own_layout(kind: str, tmp_path: Path) -> None:
    write, mesh, joint = WRITERS[kind]
    source = open_source(f"{kind}:{write(tmp_path)}@2.5", mesh)
    assert source.weight == 2.5 and joint in source.dataset.joint_names
    assert source.dataset[0].image.ndim == 3


def test_a_stream_draws_the_same_rows_in_every_process(tmp_path: Path) -> None:
    path = write_stream(tmp_path)
    stream = open_source(f"synth:{path}", TUBE_MAN).dataset
    first, later = stream[5], stream[1_000_000]
    assert not np.array_equal(first.image, later.image)
    again = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(again[5].image, first.image)
    np.testing.assert_array_equal(again[5].joints, first.joints)
    with pytest.raises(IndexError):
        stream[len(stream)]
    wrong = [{}, {"motions": 3}, {"motions": "motions.npz", "colour": "red"}, [], {"subject": "foot", "motions": "m"}]
    for fields in (*wrong, {"subject": "hand", "motions": "motions.npz"}):
        path.write_text(json.dumps(fields))
        with pytest.raises(ConfigError, match="expected motions, or subject hand without them, and"):
            open_source(f"synth:{path}", TUBE_MAN)
    with pytest.raises(SourceError, match="cannot read"):
        open_source(f"synth:{tmp_path / 'none.json'}", TUBE_MAN)


def test_a_stream_of_hands_needs_no_motions(tmp_path: Path) -> None:
    write_hand(tmp_path)
    path = tmp_path / "hands.json"
    path.write_text(json.dumps({"subject": "hand", "cache": ".", "renderer": "opencv", "rooms": 3}))
    mesh = make_hand_mesh(make_hand())
    stream = open_source(f"synth:{path}", mesh).dataset
    sample = stream[1]
    assert stream.joint_names == mesh.joint_names and len(sample.joints) == 21
    assert not np.array_equal(sample.image, stream[2].image)


def test_a_tsv_set_is_of_hands_where_the_mesh_is(tmp_path: Path) -> None:
    path = write_metro_tsv(tmp_path, "hand")
    assert open_source(f"tsv:{path}", HAND).dataset.joint_names == HAND.joint_names


def test_left_hands_are_right_hands_in_a_mirror(tmp_path: Path) -> None:
    path = write_freihand(tmp_path / "F")
    right, left = (open_source(f"{kind}:{path}", HAND).dataset for kind in ("freihand", "left-freihand"))
    assert len(left) == len(right) and left.joint_names == right.joint_names
    np.testing.assert_array_equal(left[1].image, right[1].image[:, ::-1])
    np.testing.assert_array_equal(left[1].joints, right[1].joints * [-1, 1, 1])
    np.testing.assert_array_equal(left[1].keypoints_px[:, 0], 223 - right[1].keypoints_px[:, 0])
    with pytest.raises(ConfigError, match="a hand"):
        open_source(f"left-coco:{write_coco(tmp_path / 'C')}", BODY)


@pytest.mark.parametrize("text", ["x", "tape:x", "shards", "shards:x@", "shards:x@heavy"])
def test_what_is_no_dataset_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        open_source(text, BODY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mesh", [BODY, HAND])
def test_what_is_not_there_is_said_so(kind: str, mesh: MeshSpec, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        open_source(f"{kind}:{tmp_path / 'nowhere'}", mesh)
