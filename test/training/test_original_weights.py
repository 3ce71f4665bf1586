"""Original state dicts in every format they come in, and the names of what does not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metro_ros.core.errors import ConfigError, SourceError
from training.checkpoint import load_original_weights
from training.network import Metro
from training.original_weights import read_state_dict

State = dict[str, torch.Tensor]


@pytest.fixture
def metro(small_network) -> Metro:
    return small_network("paper_hand")[0]


@pytest.fixture
def state(metro: Metro) -> State:
    """The network's weights as they were, and parameters that the original files hold and no forward pass reads."""
    dead = {
        "trans_encoder.0.bert.embeddings.word_embeddings.weight": torch.zeros(9, 16),
        "trans_encoder.0.bert.pooler.dense.bias": torch.full((16,), float("nan")),
        "backbone.classifier.weight": torch.zeros(10, 2048),
    }
    return {key: value.clone() for key, value in metro.state_dict().items()} | dead


@pytest.mark.parametrize("save", ["new", "old", "safetensors", "safetensors.bin", "DataParallel"])
def test_state_dicts_of_every_format(save: str, metro: Metro, state: State, tmp_path: Path) -> None:
    path = tmp_path / ("state.safetensors" if save == "safetensors" else "state.bin")
    if save.startswith("safetensors"):
        save_file(state, path)
    else:
        named = {f"module.{key}": value for key, value in state.items()} if save == "DataParallel" else state
        torch.save(named, path, _use_new_zipfile_serialization=save != "old")
    with torch.no_grad():
        for parameter in metro.parameters():
            parameter.zero_()
    load_original_weights(metro, read_state_dict(path))
    assert all(torch.equal(state[key], value) for key, value in metro.state_dict().items())


def without(state: State, *keys: str) -> State:
    return {key: value for key, value in state.items() if key not in keys}


def fault(metro: Metro, changed: State) -> str:
    with pytest.raises(ConfigError) as caught:
        load_original_weights(metro, changed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_do_not_fit_are_listed_by_name(metro: Metro, state: State) -> None:
    assert "missing upsampling.bias" in fault(metro, without(state, "upsampling.bias"))
    assert "unknown surprise" in fault(metro, state | {"surprise": torch.zeros(1)})
    assert "upsampling.bias (5,) for (10,)" in fault(metro, state | {"upsampling.bias": torch.zeros(5)})
    several = fault(metro, without(state, "upsampling.bias") | {"surprise": torch.zeros(1)})
    assert "missing upsampling.bias; unknown surprise" in several
    many = [key for key in metro.state_dict() if key.startswith("backbone.stage4")]
    text = fault(metro, without(state, *many))
    assert ", ".join(many[:5]) in text and f"and {len(many) - 5} more" in text and many[5] not in text
    mixed = {f"module.{key}" if index else key: value for index, (key, value) in enumerate(state.items())}
    assert "missing" in fault(metro, mixed)
    assert "missing" in fault(metro, {})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(metro: Metro, state: State, bad: float) -> None:
    state["cam_param_fc.weight"][0, 1] = bad
    text = fault(metro, state)
    assert "finite" in text and "cam_param_fc.weight" in text and "pooler" not in text


def test_parameters_that_nothing_reads_are_optional(metro: Metro, state: State) -> None:
    load_original_weights(metro, {key: state[key] for key in metro.state_dict()})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(1)], "tensors by name.*list"),
        ({"a": 1}, "'a' of type int"),
        ({3: torch.zeros(1)}, "'3' of type Tensor"),
        (torch.nn.Linear(1, 1), r"global torch\.nn.*state_dict\.bin"),
    ],
)
def test_files_of_torch_that_are_no_state_dict(content: object, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.bin")
    with pytest.raises(SourceError, match=reason) as caught:
        read_state_dict(tmp_path / "model.bin")
    assert "\n" not in str(caught.value)
