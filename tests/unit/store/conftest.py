from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.stores import tally
from understudy.store.sql import SqlStore


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
