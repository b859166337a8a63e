"""Several writers at once, threads or processes, and one that is killed: nothing is lost, nothing counted twice."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.contract.stores import event, names, observation, plan, receipt, report, tallied, tally
from tests.support.processes import children, go
from understudy.domain import Outcome
from understudy.errors import NotAllowedNow
from understudy.store import Store
from understudy.store.sql import SqlStore

THREADS = 4


def at_once(work: Callable[[int], list[Outcome]]) -> list[Outcome]:
    """Run `work` in several threads that start together; all their outcomes."""
    start = threading.Barrier(THREADS)

    def one(number: int) -> list[Outcome]:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return [outcome for result in pool.map(one, range(THREADS)) for outcome in result]


def test_threads_that_write_the_same_predictions_count_each_once(store: Store) -> None:
    """Every thread brings every observation and every label: two from the front, two from the back."""

    def work(number: int) -> list[Outcome]:
        found: list[Outcome] = []
        for i in range(0, 200, 5)[:: 1 if number % 2 else -1]:
            batch = [f"p{j}" for j in range(i, i + 5)]
            if number < 2:
                found += store.add_observations([observation(name) for name in batch], {"flushes": 1})
            found += store.add_labels([report(name) for name in batch], received_at=200.0).outcomes
            if number >= 2:
                found += store.add_observations([observation(name) for name in batch], {"flushes": 1})
        return found

    outcomes = at_once(work)
    assert Counter(names(outcomes)) == Counter(f"p{i}" for i in range(200))
    assert tallied(store) == {"flushes": 40, "joined": 200, "delay": 200 * 60, "label/1": 200}
    assert store.join_pending() == []
    assert len(store.outcomes()) == 200


def test_of_many_who_saw_one_revision_one_changes_the_plan(store: Store) -> None:
    store.save_plan(plan(), event())

    def work(number: int) -> list[Outcome]:
        for revision in range(1, 11):
            try:
                store.save_plan(plan(weight=number), event(f"by {number}"), expected_revision=revision)
            except NotAllowedNow:
                store.append_event(event("refused"))
        return []

    at_once(work)
    current = store.load_plan()
    assert current is not None
    kinds = Counter(each.kind.partition(" ")[0] for each in store.events())
    assert kinds["by"] == current.revision - 1
    assert kinds["by"] + kinds["refused"] == 10 * THREADS
    assert [each.revision for each in store.events() if each.kind.startswith("by")] == list(
        range(2, current.revision + 1)
    )


def test_processes_that_write_one_file_count_each_once(url: str) -> None:
    with children(("write", url, "1", "400"), ("write", url, "2", "400")) as started:
        for child in started:
            go(child)
        printed = [child.communicate(timeout=60)[0] for child in started]
        assert [child.returncode for child in started] == [0, 0]
    assert Counter("\n".join(printed).split()) == Counter(f"p{i}" for i in range(400))
    store = SqlStore(url, "flight-1", tally)
    counters = tallied(store)
    assert counters.pop("flushes/1", 0) + counters.pop("flushes/2", 0) == 40, "each batch counts for who was first"
    assert counters == {"joined": 400, "delay": 400 * 60, "label/1": 400}
    assert all(label is not None for _, _, label in store.outcomes())
    assert len(store.outcomes()) == 400
    store.close()


def test_what_was_acknowledged_survives_kill_9(url: str) -> None:
    with children(("acknowledge", url)) as (child,):
        go(child)
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(20)]
        child.kill()
        acknowledged += map(int, child.stdout.read().split())
    store = SqlStore(url, "flight-1", tally)
    try:
        known = [report(f"p{start + i}") for start in acknowledged for i in range(10)]
        assert receipt(store, *known) == (0, len(known), 0, 0)
        rows = store.outcomes(limit=10_000)
        counters = store.counters()
        assert counters["joined"] == sum(label is not None for _, _, label in rows)
        assert counters["seen"] == len(rows)
        assert store.join_pending() == []
    finally:
        store.close()
