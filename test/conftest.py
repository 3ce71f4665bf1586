"""Fixtures that every room's tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import tiny_bundle`

from tiny_bundle import make_tiny_bundle

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines.cache import ENVIRONMENT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of processes that share a run none is to begin with one of them when the others end."""
    longest = ("recipe", "test_train.")
    items.sort(key=lambda item: [name not in item.path.name for name in longest])


@pytest.fixture(scope="session", autouse=True)
def a_cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees what this machine compiled or measured before; the processes that tests start share theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, ENVIRONMENT, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real bundle whose network finds a bright blob; see test/tiny_bundle.py."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def calibrated_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The body with visibility and with a confidence that means something, half of it."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "calibrated", calibrated=True)


@pytest.fixture(scope="session")
def hand_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same for a right hand: 21 joints, two levels, no confidence."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "hand", hand=True, confidence=False)
