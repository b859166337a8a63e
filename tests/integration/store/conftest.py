"""The SQLite file of the store's unit tests."""

from tests.unit.store.conftest import file, url

__all__ = ["file", "url"]
