"""A21: a label sent once was answered `duplicate: 1`, since the service had tried twice inside.

Each batch of labels has an id: whoever tries again is told what became of it at the first try.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest

from tests.contract.stores import observation, report, tally
from understudy.clock import SystemClock
from understudy.domain import Fate, LabelReport
from understudy.errors import StoreError
from understudy.observability.metrics import Metrics
from understudy.records import client
from understudy.records.client import LabelBatch, RecordsUnavailable
from understudy.records.writer import RecordWriter
from understudy.store import Store, label_rules
from understudy.store.memory import MemoryStore
from understudy.store.sql import SqlStore
from understudy.wiring import RecordsParts, Worker


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = (
        MemoryStore("r", tally) if request.param == "memory" else SqlStore(f"sqlite:///{tmp_path}/s.db", "r", tally)
    )
    yield made
    made.close()


def test_the_same_batch_has_the_same_receipt(store: Store) -> None:
    """Matched, pending, duplicate and conflict: the second time nothing is stored, and the answer is that of the first."""
    store.add_observations([observation("a"), observation("b")])
    store.add_labels([report("b", 1)], received_at=1.0)
    batch = [report("a", 1), report("a", 1), report("b", 0), report("later", 1)]
    first = store.add_labels(batch, received_at=2.0, batch_id="t")
    sums = store.counters()
    store.add_observations([observation("later")])  # what waited is joined meanwhile

    again = store.add_labels(batch, received_at=3.0, batch_id="t", again=True)
    assert list(again.fates) == [Fate.MATCHED, Fate.DUPLICATE, Fate.CONFLICT, Fate.PENDING] == list(first.fates)
    assert (again.repeated, list(again.outcomes), first.repeated) == (True, [], False)
    assert store.counters()["joined"] == sums["joined"] + 1


def test_a_retry_whose_first_try_came_to_nothing_stores_the_batch(store: Store) -> None:
    store.add_observations([observation("a")])
    assert store.add_labels([report("a")], received_at=1.0, batch_id="t", again=True).fates == [Fate.MATCHED]


def test_a_first_try_that_comes_behind_its_retry_stores_nothing(store: Store) -> None:
    store.add_observations([observation("a")])
    store.add_labels([report("a", 1)], received_at=1.0, batch_id="t", again=True)
    with pytest.raises(StoreError, match="another attempt"):
        store.add_labels([report("a", 0)], received_at=1.0, batch_id="t")


def test_only_the_last_receipts_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rules, "BATCHES_KEPT", 64)
    for i in range(129):
        store.add_labels([report(f"p{i}")], received_at=1.0, batch_id=f"t{i}")
    assert store.add_labels([report("p128")], received_at=1.0, batch_id="t128", again=True).fates == [Fate.PENDING]
    assert store.add_labels([report("p0")], received_at=1.0, batch_id="t0", again=True).fates == [Fate.DUPLICATE]


class Harness:
    """A worker and a records process over one database file, as they write labels."""

    def __init__(self, file: Path, *, answers: bool) -> None:
        self.stores = [SqlStore(f"sqlite:///{file}", "r", tally, busy_timeout_s=10.0) for _ in range(2)]
        self.writers = [
            RecordWriter("m", store, Metrics(prometheus_client.CollectorRegistry()), {}, lambda rows: [])
            for store in self.stores
        ]
        self.writer = ThreadPoolExecutor(1)
        self.records: Any = SimpleNamespace(writer=self.writers[0], clock=SystemClock(), _write_thread=self.writer)
        self.records._labels = lambda batch: RecordsParts._labels(self.records, batch)
        self.worker: Any = SimpleNamespace(
            writer=self.writers[1], clock=SystemClock(), id_prefix="w", _batches=0, _records=self
        )
        self.answers, self.started = answers, threading.Event()

    async def labels(self, reports: Sequence[LabelReport], batch_id: str) -> Sequence[Fate]:
        """As `RecordsClient.labels`."""
        batch = LabelBatch(list(reports), batch_id, time.monotonic() + client.LABELS_TIMEOUT_S)
        call = asyncio.ensure_future(RecordsParts.labels(self.records, batch))
        self.started.set()
        try:
            fates = await asyncio.wait_for(asyncio.shield(call), client.LABELS_TIMEOUT_S)
        except TimeoutError:
            raise RecordsUnavailable("it did not answer in time") from None
        if not self.answers:
            raise RecordsUnavailable("it was killed before it answered")
        return fates

    def report(self, *reports: LabelReport) -> Sequence[Fate]:
        """What the caller of `/feedback` is answered."""
        return asyncio.run(Worker._write_labels(self.worker, reports))

    def close(self) -> None:
        self.writer.shutdown()
        for store in self.stores:
            store.close()


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setattr(client, "LABELS_TIMEOUT_S", 0.2)
    made = Harness(tmp_path / "s.db", answers=True)
    made.stores[0].add_observations([observation("a")])
    yield made
    made.close()


def test_a_label_that_waits_for_a_locked_database_is_matched(harness: Harness, tmp_path: Path) -> None:
    """The reproduction: the records process waits for the lock, the worker stops waiting for it and writes too."""
    writes, labels = threading.Event(), harness.writers[1].labels

    def announced(*arguments: Any, **options: Any) -> Any:
        writes.set()
        return labels(*arguments, **options)

    harness.writers[1].labels = announced  # type: ignore[method-assign]
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as caller:
            answer = caller.submit(harness.report, report("a"))
            assert harness.started.wait(10)
            assert writes.wait(10), "the worker writes the labels itself, and both wait for the lock"
            other.execute("COMMIT")
            assert answer.result(20) == [Fate.MATCHED]


def test_a_label_whose_answer_was_lost_is_matched(harness: Harness) -> None:
    harness.answers = False
    assert harness.report(report("a")) == [Fate.MATCHED]
    assert harness.report(report("a")) == [Fate.DUPLICATE], "the caller's own second report"


def test_labels_whose_sender_has_gone_on_are_not_begun(harness: Harness) -> None:
    """They waited behind other writes: their sender has stored them elsewhere, or has said that they were not."""
    gone = threading.Event()
    harness.writer.submit(gone.wait, 10)
    harness.stores[1].close()
    with pytest.raises(StoreError):
        harness.report(report("a"))
    gone.set()
    harness.writer.submit(lambda: None).result()
    assert harness.stores[0].add_labels([report("a")], received_at=1.0).fates == [Fate.MATCHED]
