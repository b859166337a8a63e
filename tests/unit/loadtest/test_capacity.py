"""The search: on servers whose capacity is known, it stops by itself within its precision, or says why it cannot."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.loadtests import GOOD, record
from tests.unit.loadtest.test_gates import GOALS
from understudy.errors import ConfigurationError
from understudy.loadtest import capacity
from understudy.loadtest.sweep import Point, best, page, rows, settings

GENERATOR = "the generator was the limit: one request in a hundred was sent 9.0 ms late; add generators (--processes 2)"


def server(limit: float, generator: float = math.inf, busy: tuple[int, ...] = (), p99: float = 9.0) -> Any:
    """Takes a test as a server of that capacity would, with a generator that gives out, on a machine busy at some steps."""
    asked: list[float] = []

    def try_at(rate: float) -> Any:
        asked.append(rate)
        if len(asked) in busy:
            found = record("invalid").model_copy(
                update={"reasons": ["the machine was busy: other programs used 1 core"]}
            )
        elif rate > generator:
            found = record("invalid").model_copy(update={"reasons": [GENERATOR]})
        elif rate > limit:
            found = record("fail").model_copy(
                update={"reasons": ["p99 is high", "`understudy` used 0.97 cores, which is interpreter"]}
            )
        else:
            found = record(latency=GOOD["latency"] | {"p99_ms": p99})
        return SimpleNamespace(record=found)

    try_at.asked = asked  # type: ignore[attr-defined]
    return try_at


@given(st.floats(2, 50_000), st.floats(10, 1_000))
def test_the_capacity_is_found_to_its_precision(limit: float, start: float) -> None:
    """Wherever the search begins; and it stops by itself."""
    found = capacity.find(server(limit), start)

    assert found.rate <= limit < (found.above or math.inf)
    assert found.above is not None
    assert found.above / found.rate <= 1 + capacity.PRECISION + 1e-9
    assert found.precision <= capacity.PRECISION + 1e-9
    assert not found.invalid
    assert "add more workers" in found.bottleneck


def test_where_the_generator_gives_out_first_the_answer_is_invalid() -> None:
    """What was found is a lower bound, and what to add is said."""
    found = capacity.find(server(10_000, generator=3_000), 500)

    assert found.invalid == GENERATOR
    assert 2_800 < found.rate <= 3_000
    assert found.bottleneck == "no limit was reached"
    assert capacity.find(server(2_000, generator=3_000), 500).invalid == ""


def test_a_busy_moment_is_tried_again_and_a_busy_machine_ends_it() -> None:
    """Twice in a search; then nothing is known."""
    assert capacity.find(server(1_000, busy=(2, 3)), 100).invalid == ""
    assert "the machine was busy" in capacity.find(server(1_000, busy=(2, 3, 4)), 100).invalid


def test_no_rate_meets_the_goals() -> None:
    """Down to one a second, and no further."""
    found = capacity.find(server(0.0), 100)

    assert (found.rate, found.best) == (0.0, None)
    assert capacity.need(found, 100, GOALS, 1) is None


def test_what_a_peak_takes() -> None:
    """Replicas at most 70 % full, and what they cost."""
    found = capacity.find(server(1_000), 100)
    need = capacity.need(found, 2_000, GOALS, rows_per_request=10)

    assert need is not None
    assert need.replicas == math.ceil(2_000 / (found.rate * 0.7))
    assert need.per_hour == pytest.approx(need.replicas * 0.1)
    assert need.per_million == pytest.approx(need.per_hour / (2_000 * 10 * 3600) * 1e6)
    assert capacity.seconds_for(100, GOALS, 6) == 21
    assert capacity.seconds_for(5_000, GOALS, 6) == 6


def test_a_sweep_names_the_setting_that_serves_the_goals_best() -> None:
    """Every combination; of those level with the highest capacity, the one with the lowest p99; none where none is enough."""
    assert settings(["workers=1,2", "threads=1"]) == [
        {"workers": "1", "threads": "1"},
        {"workers": "2", "threads": "1"},
    ]
    for axis in ("wrkers=1", "workers", "workers=", "store_url=x"):
        with pytest.raises(ConfigurationError, match="cannot sweep over"):
            settings([axis])
    with pytest.raises(ConfigurationError, match="64 combinations are more"):
        settings([f"{n}={','.join('12345678')}" for n in ("workers", "threads")])
    points = [
        Point({"workers": "1"}, capacity.find(server(500), 100)),
        Point({"workers": "2"}, capacity.find(server(1_000, p99=20.0), 100)),
        Point({"workers": "3"}, capacity.find(server(1_010, p99=12.0), 100)),
    ]
    chosen = best(points, 600)
    assert chosen is points[2]
    assert best(points, 5_000) is None
    assert [row[0] for row in rows(points)] == ["workers=1", "workers=2", "workers=3"]
    text = page(points, chosen, "")
    assert "best setting: workers=3" in text
    assert text.count("<rect") == 3
