from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.sql import SqlStore
from tests.contract.stores import tally


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture
def sql(url: str) -> Iterator[SqlStore]:
    store = SqlStore(url, "flight-1", tally)
    yield store
    store.close()
