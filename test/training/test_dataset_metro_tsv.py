"""METRO's own sets: the values of its files, unchanged but for the root; a damaged row is one row's error."""

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_fixtures import RED, encode_jpeg, make_image, metro_labels, write_metro_tsv, write_tsv
from torch.utils.data import DataLoader

from metro_ros.core.crop import Box
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.skeleton import J14
from training.datasets.metro_tsv import J24_NAMES, MetroTsv
from training.datasets.sample import Sample, SampleError
from training.mesh_spec import HAND_21_NAMES


def opened(folder: Path, kind: str = "body", **options: Any) -> MetroTsv:
    return MetroTsv(write_metro_tsv(folder, kind, **options), kind)  # type: ignore[arg-type]


def with_labels(**changes: Any) -> Callable[[int, dict[str, Any]], Any]:
    """In row 1; a field that becomes ... goes."""

    def change(row: int, labels: dict[str, Any]) -> Any:
        if row == 1:
            labels = {name: value for name, value in {**labels, **changes}.items() if value is not ...}
        return [labels]

    return change


def read_damaged(data: MetroTsv, row: int = 1) -> str:
    """What the damaged row says; its neighbours can be read."""
    for other in range(len(data)):
        if other != row:
            assert isinstance(data[other], Sample)
    with pytest.raises(SampleError) as error:
        data[row]
    text = str(error.value)
    assert f"row {row} of" in text and ".tsv" in text and "\n" not in text and len(text) < 500
    return text


def test_names_of_j24_are_spelt_as_everywhere() -> None:
    assert len(set(J24_NAMES)) == 24 and J24_NAMES.index("Pelvis") == 14 and J24_NAMES[19:21] == ("Nose", "L_Eye")
    assert tuple(J24_NAMES[index] for index in (*range(13), 18)) == J14


def test_a_body(tmp_path: Path) -> None:
    data = opened(tmp_path / "human3.6m", stem="valid.protocol2")
    assert (data.name, len(data), data.joint_names) == ("human3.6m/valid.protocol2", 3, J24_NAMES)
    sample = data[2]
    assert sample.key == "human3.6m/valid.protocol2.label.tsv, row 2"
    assert sample.box == Box(30.5, 24.0, 50.0)  # 200 times 0.25
    assert sample.image.shape == (48, 64, 3)
    np.testing.assert_allclose(sample.image[5, 5], RED, atol=3)
    np.testing.assert_allclose(sample.keypoints_px[3], (13, 22))
    assert (sample.keypoint_confidence == 1).all() and (sample.joint_confidence == 1).all()
    np.testing.assert_allclose(sample.joints[0], (-0.14, 0, 0), atol=1e-6)  # from the pelvis
    assert not sample.joints[14].any() and sample.vertices is None
    assert sample.pose is not None and sample.betas is not None
    np.testing.assert_allclose(sample.pose, 0.001 * np.arange(72), rtol=1e-6)
    np.testing.assert_allclose(sample.betas, 0.1)


def test_a_hand(tmp_path: Path) -> None:
    data = opened(tmp_path, "hand")
    sample = data[1]
    assert data.joint_names == HAND_21_NAMES
    np.testing.assert_allclose(sample.joints[1], (0.01, 0, 0), atol=1e-6)  # from the wrist
    assert not sample.joints[0].any() and sample.pose is not None and sample.pose.shape == (48,)


def test_what_is_not_known(tmp_path: Path) -> None:
    """A flag of 0, in a list or not, makes a label unknown whatever stands there; 2D goes by its confidence alone."""
    changes = {
        "has_3d_joints": 0, "has_smpl": [0], "has_2d_joints": 0, "pose": [float("nan")], "3d_joints": "none",
        "2d_joints": [[[1, 2, 0.5 * joint] for joint in range(24)]],
    }  # fmt: skip
    sample = opened(tmp_path, change=with_labels(**changes))[1]
    assert sample.pose is None and sample.betas is None and not sample.joint_confidence.any()
    assert not sample.joints.any() and sample.keypoint_confidence[:4].tolist() == [0, 0.5, 1, 1]
    lacking = dict.fromkeys(("2d_joints", "has_3d_joints", "3d_joints", "has_smpl", "pose", "betas", "gender"), ...)
    sample = opened(tmp_path / "lacking", change=with_labels(**lacking))[1]
    assert sample.pose is None and not sample.joint_confidence.any() and not sample.keypoint_confidence.any()


def test_labels_alone_or_in_a_list_and_only_the_first_counts(tmp_path: Path) -> None:
    def change(row: int, labels: dict[str, Any]) -> Any:
        return labels if row == 0 else [labels, {"center": "nonsense"}, {}]

    data = opened(tmp_path, rows=2, change=change)
    assert data[0].box == data[1].box == Box(30.5, 24.0, 50.0)
    assert [data.extra_annotations(row) for row in range(2)] == [0, 2]


def test_a_scale_in_a_list_of_one(tmp_path: Path) -> None:
    assert opened(tmp_path, change=with_labels(scale=[0.5]))[1].box.size == 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("center", ...), ("center", [1, 2, 3]), ("center", [float("nan"), 1]), ("center", "ab"), ("scale", 0),
     ("scale", -1), ("scale", float("inf")), ("scale", [1, 2]), ("scale", {}), ("2d_joints", [[1, 2, 1]] * 23),
     ("2d_joints", [[1, 2]] * 24), ("2d_joints", [[1, 2, float("nan")]] * 24), ("3d_joints", ...), ("3d_joints", [[1]]),
     ("3d_joints", [[1, 2, 3, 1]] * 21), ("3d_joints", [[1e30, 2, 3, 1]] * 24), ("pose", [0] * 48), ("pose", ...),
     ("betas", [0] * 9), ("has_smpl", "yes"), ("has_3d_joints", [1, 1])],
)  # fmt: skip
def test_wrong_labels(tmp_path: Path, field: str, value: Any) -> None:
    text = read_damaged(opened(tmp_path, change=with_labels(**{field: value})))
    assert field in text or "box" in text


@pytest.mark.parametrize("content", ["", "{", "[]", "[1]", "null", "7", '"text"', "[" * 100000, '[{"center": 1e999}]'])
def test_labels_that_are_no_annotation(tmp_path: Path, content: str) -> None:
    path = write_metro_tsv(tmp_path)
    rows = [(f"images/{row:05d}.jpg", json.dumps([metro_labels("body", row)])) for row in range(3)]
    write_tsv(tmp_path / "train.label.tsv", [rows[0], (rows[1][0], content), rows[2]])
    read_damaged(MetroTsv(path))


@pytest.mark.parametrize(
    "columns",
    [("images/00001.jpg", "&&&&"), ("images/00001.jpg",), ("images/00001.jpg", ""), ("other.jpg", "{jpeg}"),
     ("images/00001.jpg", "{half}"), ("images/00001.jpg", "R0lGODlh")],
)  # fmt: skip
def test_damaged_images(tmp_path: Path, columns: tuple[str, ...]) -> None:
    path = write_metro_tsv(tmp_path)
    jpegs = [base64.b64encode(encode_jpeg(make_image(row))).decode() for row in range(3)]
    rows = [(f"images/{row:05d}.jpg", jpeg) for row, jpeg in enumerate(jpegs)]
    rows[1] = tuple(c.format(jpeg=jpegs[1], half=jpegs[1][:200]) for c in columns)  # type: ignore[call-overload]
    write_tsv(tmp_path / "train.img.tsv", rows)
    assert "train.img.tsv" in read_damaged(MetroTsv(path))


def test_the_image_is_the_last_of_many_columns(tmp_path: Path) -> None:
    path = write_metro_tsv(tmp_path)
    jpeg = base64.b64encode(encode_jpeg(make_image(0, 20, 10))).decode()
    write_tsv(tmp_path / "train.img.tsv", [(f"images/{row:05d}.jpg", "[]", "old", jpeg) for row in range(3)])
    assert MetroTsv(path)[1].image.shape == (10, 20, 3)


def test_linelist_chooses_rows_of_both_files_in_its_order(tmp_path: Path) -> None:
    data = opened(tmp_path, rows=4, linelist=[3, 1, 3])
    assert len(data) == 3
    assert [data[row].keypoints_px[0, 1] for row in range(3)] == [23, 21, 23]
    assert [int(data[row].image[-1, -1, 0]) for row in range(3)] == pytest.approx([120, 80, 120], abs=3)
    for row in (-1, 3):
        with pytest.raises(IndexError):
            data[row]


def test_without_linelist_all_rows_count(tmp_path: Path) -> None:
    path = write_metro_tsv(tmp_path)
    path.write_text("img: train.img.tsv\nlabel: train.label.tsv\n")
    assert len(MetroTsv(path)) == 3
    write_tsv(tmp_path / "train.label.tsv", [("images/00000.jpg", "{}")])
    with pytest.raises(SourceError, match=r"train\.label\.tsv does not fit.*3 rows.*got 1 rows"):
        MetroTsv(path)


@pytest.mark.parametrize("listed", [True, False])
def test_a_composite_of_two_sets(tmp_path: Path, listed: bool) -> None:
    write_metro_tsv(tmp_path / "human3.6m", rows=2)
    write_metro_tsv(tmp_path / "muco", rows=4)
    folder = tmp_path / "mix"
    folder.mkdir()
    entries = ["composite: true", "linelist: train.linelist.tsv"]
    for name in ("img", "label"):
        paths = [f"../{part}/train.{name}.tsv" for part in ("human3.6m", "muco")]
        (folder / f"{name}.txt").write_text("\n".join(paths) + "\n")
        entries.append(f"{name}: [{', '.join(paths)}]" if listed else f"{name}: {name}.txt")
    (folder / "train.yaml").write_text("\n".join(entries))
    (folder / "train.linelist.tsv").write_text("1\t3\n0\t1\n")
    data = MetroTsv(folder / "train.yaml")
    assert [data[row].key for row in range(2)] == ["muco/train.label.tsv, row 3", "human3.6m/train.label.tsv, row 1"]
    assert [data[row].keypoints_px[0, 1] for row in range(2)] == [23, 21]
    for line, named in (("2\t0", "row 0 of file 2"), ("0\t2", "row 2 of file 0"), ("-1\t0", "row 0 of file -1")):
        (folder / "train.linelist.tsv").write_text(f"1\t3\n{line}\n")
        with pytest.raises(SourceError, match=f"linelist.tsv does not fit.*got {named}"):
            MetroTsv(folder / "train.yaml")


@pytest.mark.parametrize(
    ("text", "named"),
    [("img: train.img.tsv\n", "no label"), ("label: train.label.tsv\n", "no img"), ("[1, 2]", "no METRO set"),
     ("", "no METRO set"), ("img: [unclosed", "YAML"), ("img: 3\nlabel: 4\n", "the name of a file"),
     ("img: none.tsv\nlabel: train.label.tsv\n", "none.tsv is missing"), ("a: !!python/object:os.system {}", "YAML"),
     ("img: train.img.tsv\nlabel: train.label.tsv\nlinelist: none.tsv\n", "none.tsv is missing"),
     ("img: train.img.tsv\nlabel: train.label.tsv\ncomposite: true\n", "a linelist"),
     ("img: a\nlabel: b\ncomposite: maybe\n", "no METRO set"), ("img: [a]\nlabel: [b]\n", "the name of a file")],
)  # fmt: skip
def test_a_yaml_that_names_no_set(tmp_path: Path, text: str, named: str) -> None:
    path = write_metro_tsv(tmp_path)
    path.write_text(text)
    with pytest.raises(SourceError, match=named) as error:
        MetroTsv(path)
    assert "\n" not in str(error.value)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.yaml"):
        MetroTsv(tmp_path / "none.yaml")
    with pytest.raises(SourceError, match=r"linelist\.tsv does not fit.*rows below 3, got row 3"):
        opened(tmp_path, linelist=[0, 3])
    with pytest.raises(ConfigError, match="body or hand"):
        MetroTsv(write_metro_tsv(tmp_path), "foot")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["img", "label"])
def test_a_stale_index_pairs_no_image_with_the_labels_of_another(tmp_path: Path, name: str) -> None:
    """The index lacks a row: of few it is noticed on opening, of many by the keys, which then differ."""
    few, many = write_metro_tsv(tmp_path / "few"), write_metro_tsv(tmp_path / "many", rows=200)
    for path in (few, many):
        index = path.with_name(f"train.{name}.lineidx")
        lines = index.read_text().splitlines()
        index.write_text("\n".join([*lines[:2], *lines[3:]]))
    assert [MetroTsv(few)[row].keypoints_px[0, 1] for row in range(3)] == [20, 21, 22]
    many.with_name("train.linelist.tsv").write_text("0\n1\n2\n50\n")
    data = MetroTsv(many)
    assert data[0].keypoints_px[0, 1] == 20
    for row, problem in ((1, "row 1 .*is not there"), (2, "00002.jpg.*00003.jpg|00003.jpg.*00002.jpg"), (3, "jpg")):
        with pytest.raises(SampleError, match=problem):
            data[row]


def keys_of(samples: list[Sample]) -> list[str]:
    return [sample.key for sample in samples]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_processes_read_what_this_one_reads(tmp_path: Path, context: str) -> None:
    data = opened(tmp_path, rows=4)
    data[0]
    loader = DataLoader(data, 2, num_workers=1, multiprocessing_context=context, collate_fn=keys_of)
    assert [key for batch in loader for key in batch] == [data[row].key for row in range(4)]
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy[3].image, data[3].image)
