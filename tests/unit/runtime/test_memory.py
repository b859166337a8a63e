"""When freed memory is given back to the system."""

import math
import time

import pytest

from understudy.runtime import memory


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that memory was given back."""
    calls: list[int] = []
    monkeypatch.setattr(memory, "_trim", lambda: calls.append)
    return calls


def test_nothing_is_given_back_where_nothing_large_was_done(trims: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_last", -math.inf)
    memory.give_back_rest()
    assert trims == []


def test_what_is_freed_later_is_given_back_too(trims: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as rows may wait for their rehearsal."""
    monkeypatch.setattr(memory, "_last", 0.0)
    memory.give_back()
    memory.give_back_rest()
    assert len(trims) == 2
    monkeypatch.setattr(memory, "_last", time.monotonic() - memory.REST_S - 1)
    memory.give_back_rest()
    assert len(trims) == 2
