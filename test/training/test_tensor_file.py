"""Trees of tensors on disk."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metro_ros.core.errors import ConfigError
from training.tensor_file import load_tree, non_finite, save_tree


def test_an_optimisers_state_comes_back_as_it_was(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    tree = {"optimiser": optimiser.state_dict(), "none": None, "deep": [{"x": (1, 2.5, "text", True)}], 7: "seven"}
    save_tree(tree, tmp_path / "state.safetensors")
    loaded = load_tree(tmp_path / "state.safetensors")
    assert loaded["deep"] == tree["deep"] and loaded["none"] is None and loaded[7] == "seven"  # type: ignore[index]
    state = loaded["optimiser"]["state"]
    assert list(state) == [0, 1]
    assert loaded["optimiser"]["param_groups"][0]["betas"] == (0.9, 0.999)
    for key, moments in optimiser.state_dict()["state"].items():
        assert all(torch.equal(moments[name], state[key][name]) for name in moments)


def test_tensors_that_share_memory_are_all_kept(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_tree({"a": whole, "b": whole[2:4], "c": whole.view(2, 3).T}, tmp_path / "x.safetensors")
    loaded = load_tree(tmp_path / "x.safetensors")
    assert torch.equal(loaded["b"], whole[2:4])
    assert torch.equal(loaded["c"], whole.view(2, 3).T)


def replace_for_ever(path: Path, by: list[Path]) -> None:
    while True:
        for file in by:
            os.link(file, path.with_suffix(".next"))
            path.with_suffix(".next").replace(path)


def test_a_file_that_is_replaced_meanwhile_is_read_as_it_was_or_is(tmp_path: Path) -> None:
    """As last.safetensors is while a run goes on."""
    path, sizes = tmp_path / "last.safetensors", (1, 3000)
    for size in sizes:
        save_tree({"size": size, "values": torch.full((size,), size)}, tmp_path / f"{size}.safetensors")
    save_tree({"size": 0, "values": torch.zeros(0)}, path)
    files = [tmp_path / f"{size}.safetensors" for size in sizes]
    writer = multiprocessing.get_context("spawn").Process(target=replace_for_ever, args=(path, files), daemon=True)
    writer.start()
    try:
        seen, deadline = set[int](), time.monotonic() + 60
        while not seen.issuperset(sizes):
            assert time.monotonic() < deadline
            for _ in range(1000):
                tree = load_tree(path)
                seen.add(tree["size"])
                assert torch.equal(tree["values"], torch.full((tree["size"],), tree["size"]))
    finally:
        writer.kill()


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    save_tree({"x": 1}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="/run/1"):
        save_tree({"run": [1, object()]}, tmp_path / "x.safetensors")
    assert load_tree(tmp_path / "x.safetensors") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\xff" * 64])
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_tree(path)
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [25_000_000_000], "data_offsets": [0, 100_000_000_000]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"0" * 64)
    with pytest.raises(ConfigError):
        load_tree(path)


@pytest.mark.parametrize("tree", ['{"tensor": "9"}', '{"system": "ls"}', "[", '{"dict": [["a"]]}', "7"])
def test_a_broken_tree_is_refused(tmp_path: Path, tree: str) -> None:
    save_file({"0": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"tree": tree})
    with pytest.raises(ConfigError):
        load_tree(tmp_path / "x.safetensors")


def test_other_peoples_safetensors_are_not_ours(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="another safetensors"):
        load_tree(tmp_path / "x.safetensors")


def test_non_finite_weights_are_named() -> None:
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.tensor(3)}
    assert non_finite(weights) == ["b"]
