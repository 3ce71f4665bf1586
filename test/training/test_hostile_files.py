"""Whatever file a command reads: a pickle that runs programs or a header that claims 100 GB ends in one line."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import write_metro_tsv, write_threedpw
from model_fixtures import claim_size, evil_pickle, npy_header

import training.evaluate
import training.export
import training.import_checkpoint
import training.synth.__main__
import training.train
from metro_ros.core.errors import MetroError
from training.datasets.threedpw import ThreeDPW

Command = Callable[[Path, Path], list[str]]


def train(*words: str) -> Command:
    return lambda file, folder: [
        *("--data", "shards:nowhere", "--out", str(folder / "run"), "--cache", str(folder), "--steps", "1"),
        *(str(file) if word == "FILE" else word for word in words),
    ]


def with_smpl(option: str) -> Command:
    words = ["--smpl", "x.pkl", "--sampling", "x.npz", "--joint-regressor", "x.npy"]
    return train("--preset", "paper_body", *words, option, "FILE")


COMMANDS: dict[str, tuple[Callable[[list[str]], int], Command]] = {
    "train --motions": (training.train.main, train("--motions", "FILE")),
    "train --mesh": (training.train.main, train("--mesh", "FILE")),
    "train --smpl": (training.train.main, with_smpl("--smpl")),
    "train --mano": (training.train.main, train("--preset", "paper_hand", "--mano", "FILE", "--sampling", "x.npz")),
    "export --checkpoint": (
        training.export.main,
        lambda file, folder: ["--checkpoint", str(file), "--output", str(folder / "bundle")],
    ),
    "import --checkpoint": (
        training.import_checkpoint.main,
        lambda file, folder: [
            *("--kind", "hand", "--checkpoint", str(file), "--template", str(folder / "template.npz")),
            *("--output", str(folder / "bundle")),
        ],
    ),
    "synth --motions": (
        training.synth.__main__.main,
        lambda file, folder: ["--motions", str(file), "--crops", "1", "--out", str(folder), "--cache", str(folder)],
    ),
    "evaluate --mesh-model": (
        training.evaluate.main,
        lambda file, folder: [
            *("--protocol", "h36m", "--data", str(write_metro_tsv(folder / "tsv"))),
            *("--mesh-model", str(file)),
        ],
    ),
    "evaluate --h36m-regressor": (
        training.evaluate.main,
        lambda file, folder: [
            *("--protocol", "h36m", "--data", str(write_metro_tsv(folder / "tsv"))),
            *("--h36m-regressor", str(file)),
        ],
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where Anny's people, and a template, are kept."""
    from write_fixtures import write_default

    write_default(tmp_path)
    np.savez(tmp_path / "template.npz", template=np.zeros((216, 3), np.float32))
    return tmp_path


def check_one_line(command: str, file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main, words = COMMANDS[command]
    assert main(words(file, folder)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error and str(file.name) in error, error
    return error


@pytest.mark.parametrize("suffix", [".pkl", ".npz", ".npy", ".pt", ".safetensors"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_pickle_that_runs_a_program_is_refused(
    command: str, suffix: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim, file = folder / "victim", folder / f"evil{suffix}"
    file.write_bytes(evil_pickle(victim))
    check_one_line(command, file, folder, capsys)
    assert not victim.exists()


@pytest.mark.parametrize(
    "command", ["train --motions", "train --mesh", "train --smpl", "train --mano", "synth --motions"]
)
@pytest.mark.parametrize("liar", ["header", "directory"])
def test_an_archive_that_claims_100_gb_is_refused(
    command: str, liar: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "liar.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("v_template.npy", npy_header("<f4", (25_000_000_000,)) + b"0" * 64)
    if liar == "directory":
        file.write_bytes(claim_size(file.read_bytes(), 2**32 - 2))
    check_one_line(command, file, folder, capsys)


def test_a_sequence_of_3dpw_that_runs_a_program_is_refused(tmp_path: Path) -> None:
    folder = write_threedpw(tmp_path / "3DPW", "train")
    (sequence,) = (folder / "sequenceFiles" / "train").glob("*.pkl")
    sequence.write_bytes(evil_pickle(tmp_path / "victim"))
    with pytest.raises(MetroError, match=r"system") as caught:
        ThreeDPW(folder)
    assert "\n" not in str(caught.value) and not (tmp_path / "victim").exists()
