"""Small networks for every test of training."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_network import make_mesh, scramble, small_config

from training.build import build
from training.mesh_spec import MeshSpec
from training.network import Metro
from training.network_config import MetroConfig

if TYPE_CHECKING:
    from test_golden import Imported


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> "Imported":
    """The paper's body with reference weights, imported and exported once for all tests: it takes a minute."""
    from test_golden import import_body

    return import_body(tmp_path_factory.mktemp("body"))


@pytest.fixture
def mesh() -> MeshSpec:
    return make_mesh()


@pytest.fixture
def small_network(mesh: MeshSpec) -> Callable[..., tuple[Metro, MetroConfig]]:
    """Make the eval network of a shrunk preset, and its config."""

    def make(kind: str, hidden: tuple[int, ...] = (16, 8)) -> tuple[Metro, MetroConfig]:
        torch.manual_seed(3)
        config = small_config(kind, hidden)
        return scramble(build(config, mesh)), config

    return make
