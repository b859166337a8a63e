"""The real service as a real process, on a free port, with a store of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from models import build
from models.data import Flight, replay_rows
from tests.support.service import Running, start


@pytest.fixture(scope="session", autouse=True)
def models_built() -> None:
    """The example models, as `make models` builds them."""
    build.build()


@pytest.fixture(scope="session")
def july() -> list[Flight]:
    return replay_rows(7)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    running = start(tmp_path / "state")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for the tests of a module that do not change it."""
    running = start(tmp_path_factory.mktemp("shared"))
    yield running
    running.stop()
