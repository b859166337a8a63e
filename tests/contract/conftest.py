from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.store import Store, Tally
from service.store.memory import MemoryStore
from service.store.sql import SqlStore
from tests.contract.stores import tally as count

KINDS = ("memory", "sqlite")
"""The stores that the one suite runs over. PostgreSQL's place is here, with an empty database's URL in `open_store`."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, url: str) -> Iterator[Callable[..., Store]]:
    """Opens stores of one kind, by default of one rollout; a database's share one database."""
    opened: list[Store] = []

    def open_one(rollout: str = "flight-1", tally: Tally = count) -> Store:
        opened.append(MemoryStore(rollout, tally) if request.param == "memory" else SqlStore(url, rollout, tally))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()
