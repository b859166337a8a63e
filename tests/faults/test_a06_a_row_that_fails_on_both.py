"""A row on which both models raise was charged to the primary once, and to the candidate with its whole rehearsal batch.

It is charged to both, once; the rows that were rehearsed beside it are compared.
"""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rows import SHADOW, RowEngine, lookup_model, serving
from understudy.domain import Phase, Plan, Status, Variant
from understudy.errors import InferenceError, Overloaded
from understudy.serving.shadow import rehearse_here

ALL_CANARY = Plan(Phase.CANARY, weight=10_000, shadow=10_000, salt=7, revision=1)


@pytest.mark.parametrize("plan", [SHADOW, ALL_CANARY], ids=["candidate rehearses", "primary rehearses"])
@pytest.mark.parametrize("at_once", [1, 16])
def test_it_is_charged_to_both_once(tmp_path: Path, plan: Plan, at_once: int) -> None:
    """2 % of the rows are outside both models' tables; callers one after the other, and many at once."""
    chance = random.Random(6)
    rows = [{"i": 100 if chance.random() < 0.02 else chance.randrange(100), "x": 1.0} for _ in range(600)]
    bad = {number for number, row in enumerate(rows) if row["i"] == 100}
    assert len(bad) > 5

    async def main() -> Any:
        async with serving(lookup_model(tmp_path / "p.onnx"), lookup_model(tmp_path / "c.onnx"), plan) as service:
            return await service.ask_many(rows, at_once), service

    answers, service = asyncio.run(main())
    for number, (answer, row) in enumerate(zip(answers, service.observations(), strict=True)):
        wanted = Status.FAILED if number in bad else Status.OK
        assert (row.primary.status, row.candidate.status) == (wanted, wanted), number
        assert isinstance(answer, InferenceError) == (number in bad), number


def test_a_primary_without_room_for_a_rehearsal_was_not_asked() -> None:
    """Too much waits for it: that says nothing about the model, so the rehearsal is dropped, and it has not failed."""

    async def main() -> Any:
        async with serving(RowEngine(), RowEngine(), ALL_CANARY) as service:

            async def full(requests: Any) -> Any:
                raise Overloaded("20000 rows are waiting for the model")

            service.rehearsals[Variant.PRIMARY]._infer = full
            return await service.ask({"x": 0.5}), service

    answer, service = asyncio.run(main())
    assert answer == [0.5]
    assert [row.primary.status for row in service.observations()] == [Status.DROPPED]


def test_a_rehearsal_that_breaks_off_leaves_no_request_unrecorded() -> None:
    """Whatever its call raises: the requests under way and those behind them are recorded."""

    async def main() -> Any:
        async with serving(RowEngine(), RowEngine()) as service:

            async def broken(requests: Any) -> Any:
                raise ZeroDivisionError

            service.rehearsals[Variant.CANDIDATE]._infer = broken
            await service.ask_many([{"x": 0.5}] * 5, 5)
        return service

    assert [row.candidate.status for row in asyncio.run(main()).observations()] == [Status.FAILED] * 5


def test_rehearsals_here_are_one_request_until_one_fails() -> None:
    """Among those who wait for an answer they are one request: what is rehearsed costs them no batch."""

    async def main() -> None:
        engine = RowEngine()
        async with serving(engine, RowEngine()) as service:
            model, requests = service.primary, [[(0.1,)], [(0.2,), (0.3,)], [(13.0,)], [(0.4,)]]
            found = await rehearse_here(model, requests[:2])
            assert [each.rows for each in found if not isinstance(each, Exception)] == [1, 2]
            assert engine.runs == [3]
            found = await rehearse_here(model, requests)
            assert [isinstance(each, Exception) for each in found] == [False, False, True, False]

    asyncio.run(main())
