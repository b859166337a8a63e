"""How SqlStore forgets: in small transactions, over all rollouts, and by a size that is near the truth."""

import math
import random
import sys
from pathlib import Path

import pytest
from sqlalchemy import event as sqlalchemy_event

from tests.contract.stores import observation, receipt, report, stored, tally
from understudy.domain import Attempt, Status
from understudy.store import Pruned, Retention
from understudy.store.pruning import ROWS_AT_ONCE
from understudy.store.sql import SqlStore


@pytest.mark.parametrize("ids", ["counted", "random"])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_size_of_a_row_is_near_that_of_the_file(sql: SqlStore, file: Path, ids: str, classes: int) -> None:
    chance = random.Random(5)

    def answer(seconds: float) -> Attempt:
        several = tuple(chance.random() for _ in range(classes)) if classes > 2 else None
        return Attempt(Status.OK, chance.randrange(classes), None if several else chance.random(), several, seconds)

    rows = 8_000
    for start in range(0, rows, 1_000):
        sql.add_observations(
            [
                observation(
                    f"{chance.getrandbits(76):019x}-{i}" if ids == "random" else f"0123456789abcdef012-{i}",
                    request_id="0123456789abcdef012-0" if i % 2 else "own",
                    at=1.7e9 + i / 100,
                    primary=answer(chance.random()),
                    candidate=answer(chance.random()),
                    unit=f"N{i:05}",
                )
                for i in range(start, start + 1_000)
            ]
        )
    sql.close()  # the log goes into the file
    truth = file.stat().st_size
    again = SqlStore(f"sqlite:///{file}", "flight-1", tally)
    gone = again.prune(Retention(math.inf, truth // 2), now=0.0)
    again.close()
    # Half the file is half the rows, if the estimate is right; ids in counting order pack better than random ones.
    assert 0.4 * rows < gone < 0.65 * rows


def test_it_takes_few_rows_per_transaction(sql: SqlStore) -> None:
    many = [f"p{i}" for i in range(int(ROWS_AT_ONCE * 2.5))]
    sql.add_observations([observation(name, at=1.0) for name in many])
    receipt(sql, *[report(f"never-{i}") for i in range(ROWS_AT_ONCE + 1)], received_at=1.0)
    begun: list[str] = []
    sqlalchemy_event.listen(
        sql._db._reader,
        "before_cursor_execute",
        lambda _c, _cur, text, _v, _ctx, _many: begun.append(text) if text == "BEGIN IMMEDIATE" else None,
    )
    assert sql.prune(Retention(10.0, sys.maxsize), now=100.0) == len(many)
    assert len(begun) == 3 + 2 + 1, "three of observations, two of waiting labels, one of conflicts"
    assert sql.add_observations([observation("never-0")]) == []


def test_it_clears_up_after_rollouts_that_are_over(sql: SqlStore, url: str) -> None:
    sql.add_observations([observation("a", at=1.0), observation("b", at=90.0)])
    receipt(sql, report("a"), report("b"), received_at=2.0)
    successor = SqlStore(url, "flight-2", tally)
    successor.add_observations([observation("a", at=1.0), observation("c", at=95.0)])
    assert successor.prune(Retention(50.0, sys.maxsize), now=100.0) == 2
    assert (stored(sql), stored(successor)) == (["b"], ["c"])
    assert [(r.rollout, r.pruned) for r in sql.rollouts()] == [
        ("flight-1", Pruned(1, 1, 100.0)),
        ("flight-2", Pruned(3, 1, 100.0)),
    ]
    assert sql.counters()["joined"] == 2
    assert receipt(sql, report("a"), report("b")) == (0, 1, 0, 1)
    successor.close()
