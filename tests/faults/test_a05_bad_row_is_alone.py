"""One row whose answer was NaN failed every request of its batch, and was charged to the primary many times over.

Each row stands for itself: its neighbours are answered, and whatever a run of several requests gives, each gets what it would
have got alone.
"""

import asyncio
import math
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.rows import RowEngine, lookup_model, serving
from understudy.domain import Status
from understudy.errors import NotFinite
from understudy.inference import Scores
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Columns, Field
from understudy.inference.joint import REQUESTS_MAX, JointRuns


def test_good_requests_beside_a_bad_one_are_answered_and_both_models_are_charged_alike(tmp_path: Path) -> None:
    """2 % of the rows are NaN for both models; 16 callers at once."""
    chance = random.Random(5)
    rows = [{"i": chance.randrange(100), "x": -1.0 if chance.random() < 0.02 else 1.0} for _ in range(800)]
    bad = {number for number, row in enumerate(rows) if row["x"] < 0}
    assert len(bad) > 5

    async def main() -> Any:
        async with serving(lookup_model(tmp_path / "p.onnx"), lookup_model(tmp_path / "c.onnx")) as service:
            return await service.ask_many(rows, 16), service

    answers, service = asyncio.run(main())
    for number, answer in enumerate(answers):
        assert isinstance(answer, NotFinite) if number in bad else isinstance(answer, list), number
    for number, row in enumerate(service.observations()):
        wanted = Status.INVALID if number in bad else Status.OK
        assert (row.primary.status, row.candidate.status) == (wanted, wanted), number
    assert service.primary.joint.most == REQUESTS_MAX, "nothing was run twice: the rows are known by their answers"


def test_a_request_with_a_bad_row_fails_and_its_rows_are_recorded_as_what_they_were() -> None:
    """Its caller gets one error that names the row, since there is one answer to a request; the others' answers are kept."""

    async def main() -> Any:
        async with serving(RowEngine(), RowEngine()) as service:
            beside = service.ask({"x": 0.5})
            request = service.ask({"x": 0.1}, {"x": -1.0}, {"x": 0.3})
            return *await asyncio.gather(beside, request), service

    alone, error, service = asyncio.run(main())
    assert alone == [0.5]
    assert isinstance(error, NotFinite)
    assert "row 1" in error.detail
    assert [each["row"] for each in error.problem()["errors"]] == [1]
    for variant in ("primary", "candidate"):
        first, *rows = [getattr(row, variant) for row in service.observations()]
        assert first.status is Status.OK
        assert [row.status for row in rows] == [Status.WITHHELD, Status.INVALID, Status.WITHHELD]
        assert [row.score and round(row.score, 4) for row in rows] == [0.1, None, 0.3]


REQUESTS = st.lists(
    st.lists(st.sampled_from([0.5, 0.5, 0.5, 1.0, 13.0, -1.0, 17.0]), min_size=1, max_size=3), min_size=1, max_size=24
)


def outcome(found: Scores | BaseException) -> Any:
    """What a caller can tell of a result."""
    if not isinstance(found, Scores):
        return type(found)
    assert found.values is not None
    return [None if math.isnan(value) else value for value in found.values], found.bad_rows  # type: ignore[arg-type]


@given(st.lists(REQUESTS, min_size=1, max_size=4), st.booleans())
def test_every_request_gets_what_it_would_have_got_alone(batches: list[list[list[float]]], threaded: bool) -> None:
    """Rows that raise, are NaN or are left out, in any batches; at most two runs to a request, and a few more in all."""
    columns = Columns([Field("x", "float32", (1,))], {"x": 0})

    async def main() -> None:
        engine, by_itself = RowEngine(1.0 if threaded else 0.0), RowEngine()
        with ThreadPoolExecutor(1) as executor:
            limits: Mapping[str, Any] = {"max_rows": 512, "queue_max_rows": 1000, "inline_max_s": 0.5}
            model = LocalModel(engine, columns, executor, **limits)
            alone = LocalModel(by_itself, columns, executor, **limits)
            for batch in batches:
                requests = [[(value,) for value in values] for values in batch]
                found = await asyncio.gather(*(model.submit(rows) for rows in requests), return_exceptions=True)
                for rows, result in zip(requests, found, strict=True):
                    [wanted] = await asyncio.gather(alone.submit(rows), return_exceptions=True)  # type: ignore[arg-type]
                    assert outcome(result) == outcome(wanted)
        count = sum(len(batch) for batch in batches)
        assert len(engine.runs) <= 2 * count + math.log2(REQUESTS_MAX)

    asyncio.run(main())


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=64), min_size=1, max_size=20))
def test_the_search_never_takes_more_than_two_runs_to_a_request(batches: list[list[bool]]) -> None:
    """Whatever comes, in whatever order; where all are bad, each is run once, but for the first few."""
    joint, runs = JointRuns(), 0

    def run(part: Any) -> int:
        nonlocal runs
        runs += 1
        if any(part):
            raise ValueError
        return len(part)

    for batch in batches:
        found = joint.run(batch, run)
        assert [bad for count, result in found for bad in [isinstance(result, ValueError)] * count] == batch
    count = sum(map(len, batches))
    assert runs <= 2 * count + math.log2(REQUESTS_MAX)
    if all(map(all, batches)):
        assert runs <= count + math.log2(max(map(len, batches))) + 1


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("at_once", [16, 64])
def test_bad_requests_do_not_multiply_the_work(share: float, at_once: int) -> None:
    """By chance, whatever their share: fewer runs than each by itself and some, and each row less than twice."""
    joint, chance, sizes = JointRuns(), random.Random(9), []

    def run(part: Any) -> None:
        sizes.append(len(part))
        if any(part):
            raise ValueError

    for _ in range(200):
        joint.run([chance.random() < share for _ in range(at_once)], run)
    assert len(sizes) <= 1.35 * 200 * at_once
    assert sum(sizes) <= 1.95 * 200 * at_once


def test_a_search_for_the_bad_one_among_many_is_a_bisection() -> None:
    joint, runs = JointRuns(), []

    def run(part: Any) -> None:
        runs.append(len(part))
        if 700 in part:
            raise ValueError

    found = joint.run(range(1024), run)
    assert [count for count, result in found if result is not None] == [1]
    assert len(runs) <= 5 * math.log2(1024)


def test_a_long_search_does_not_hold_up_the_event_loop() -> None:
    """A run of all is short, and so it is made on the event loop; a thousand runs of one are not."""

    class Slow(RowEngine):
        def seconds(self, rows: int) -> float:
            return 0.001

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            columns = Columns([Field("x", "float32", (1,))], {"x": 0})
            model = LocalModel(Slow(), columns, executor, max_rows=512, queue_max_rows=1000, inline_max_s=0.002)
            futures = [model.submit([(13.0,)]) for _ in range(40)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not model.inline(1), "the search is under way in the thread"
            found = await asyncio.gather(*futures, return_exceptions=True)
            assert all(isinstance(each, Exception) for each in found)

    asyncio.run(main())
