"""Any sequence of calls, on the database and on the dictionaries: the same answers."""

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from loadtests.postgres import Postgres
from tests.contract.conftest import CLEAN
from tests.contract.stores import event, plan, tally
from understudy.domain import Attempt, Event, LabelReport, Mode, Observation, Status, Variant
from understudy.errors import NotAllowedNow
from understudy.store import Retention, Store
from understudy.store.memory import MemoryStore
from understudy.store.sql import SqlStore

TIMES = st.sampled_from([0.0, 10.0, 20.5, 30.0, 40.0])
NAMES = st.sampled_from(["a", "A", "ü"])
# Few, so that they meet again; whole numbers in the counters, so that the order of adding does not show.
LABELS = st.sampled_from([0, 1, True, 1.0, "1", "", 2**70, math.nan])
# SQLite keeps a whole number as an integer, and so a zero without its sign.
NUMBERS = st.floats().map(lambda number: number + 0.0)
FINITE = NUMBERS.filter(math.isfinite)
ANSWERS = st.builds(
    Attempt,
    status=st.sampled_from(Status),
    label=st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
    score=st.none() | NUMBERS,
    probabilities=st.none() | st.lists(FINITE, max_size=3).map(tuple),
    seconds=st.floats(min_value=0.0, allow_infinity=False),
)
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
OBSERVATIONS = st.builds(
    Observation,
    prediction_id=NAMES,
    request_id=NAMES,
    at=TIMES,
    revision=st.integers(0, 2**62),
    variant=st.sampled_from(Variant),
    mode=st.sampled_from(Mode),
    share=st.integers(0, 10_000),
    primary=ANSWERS,
    candidate=ANSWERS,
    unit=TEXTS,
    fallback=TEXTS,
)
REPORTS = st.builds(LabelReport, prediction_id=NAMES, label=LABELS, at=TIMES)
COUNTS = st.none() | st.dictionaries(st.sampled_from(["joined", "seen"]), st.integers(-5, 5))


def shown(result: Any) -> Any:
    """A result as text: NaN equals NaN there, and 1, 1.0 and True differ; numbers that a database gives out are left out."""
    if isinstance(result, Sequence) and result and isinstance(result[0], tuple):  # the rows of outcomes()
        return repr([row[1:] for row in result])
    if isinstance(result, Sequence) and result and isinstance(result[0], Event):
        return repr([replace(each, id=0) for each in result])
    return repr(replace(result, id=0)) if isinstance(result, Event) else repr(result)


class Twins(RuleBasedStateMachine):
    """A MemoryStore and a SqlStore that are told the same."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.rows = url.startswith("sqlite")  # PostgreSQL does not forget row by row
        self.twins: list[Store] = [MemoryStore("r", tally), SqlStore(url, "r", tally)]

    def teardown(self) -> None:
        for store in self.twins:
            store.close()

    def both(self, call: Any) -> None:
        memory, sql = (self.outcome_of(call, store) for store in self.twins)
        assert memory == sql

    @staticmethod
    def outcome_of(call: Any, store: Store) -> Any:
        try:
            return shown(call(store))
        except NotAllowedNow as error:
            return str(error)

    @rule(expected=st.none() | st.integers(0, 3), weight=st.integers(0, 10_000), salt=st.integers(0, 2**64 - 1))
    def save_plan(self, expected: int | None, weight: int, salt: int) -> None:
        new = plan(weight, salt=salt)
        self.both(lambda store: store.save_plan(new, event("plan"), expected_revision=expected))

    @rule(details=st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False) | TEXTS, max_size=3))
    def append_event(self, details: Any) -> None:
        self.both(lambda store: store.append_event(event(details=details)))

    @rule(batch=st.lists(OBSERVATIONS, max_size=5), counts=COUNTS)
    def add_observations(self, batch: list[Observation], counts: Any) -> None:
        self.both(lambda store: store.add_observations(batch, counts))

    @rule(batch=st.lists(REPORTS, max_size=6), received_at=TIMES)
    def add_labels(self, batch: list[LabelReport], received_at: float) -> None:
        self.both(lambda store: store.add_labels(batch, received_at=received_at))

    @precondition(lambda self: self.rows)
    @rule(max_age_s=TIMES, max_bytes=st.sampled_from([sys.maxsize] * 4 + [0]), now=TIMES)
    def prune(self, max_age_s: float, max_bytes: int, now: float) -> None:
        self.both(lambda store: store.prune(Retention(max_age_s, max_bytes), now=now))

    @invariant()
    def they_remember_the_same(self) -> None:
        self.both(lambda store: store.join_pending())
        self.both(lambda store: store.load_plan())
        self.both(lambda store: store.outcomes(limit=1))
        self.both(lambda store: store.outcomes())
        self.both(lambda store: store.events())
        self.both(lambda store: sorted(store.counters().items()))


@pytest.mark.parametrize("examples", [20, pytest.param(40, marks=pytest.mark.slow)])
def test_any_sequence_of_calls_has_the_same_answers_on_sqlite(tmp_path: Path, examples: int) -> None:
    files = (f"sqlite:///{tmp_path}/{number}.db" for number in itertools.count())
    run_state_machine_as_test(lambda: Twins(next(files)), settings=the_same_every_time(examples))


@pytest.mark.parametrize("examples", [8, pytest.param(15, marks=pytest.mark.slow)])
def test_any_sequence_of_calls_has_the_same_answers_on_postgres(
    postgres: Postgres, used_database: str, examples: int
) -> None:
    def clean() -> Twins:
        postgres.sql(CLEAN, used_database)
        return Twins(postgres.url(used_database))

    run_state_machine_as_test(clean, settings=the_same_every_time(examples))


def the_same_every_time(examples: int) -> settings:
    # Making a failure smaller takes minutes here: add Phase.shrink when there is one to understand.
    return settings(
        max_examples=examples, stateful_step_count=20, derandomize=True, deadline=None, phases=[Phase.generate]
    )
