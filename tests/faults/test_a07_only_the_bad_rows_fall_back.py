"""In a canary a row that only the candidate cannot do made a fallback of every request that shared its call.

Only the bad rows fall back, and only they are charged; the candidate's process is not taken for dead because of them.
"""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.rows import Beside, RowEngine, lookup_model, serving
from tests.integration.inference.test_remote import with_server
from understudy.domain import Phase, Plan, Status, Variant
from understudy.errors import InferenceError, InvalidInput, NotFinite, NotReady, WrongShape
from understudy.inference import OutputReader, Scores, wire
from understudy.inference.calls import Calls
from understudy.inference.decoding import Columns, Field
from understudy.inference.remote import RemoteEngine, RemoteModel
from understudy.serving.slots import Released

CANARY = Plan(Phase.CANARY, weight=5_000, shadow=10_000, salt=7, revision=1)
COLUMNS = Columns([Field("x", "int64", (1,))], {"x": 0})


def test_only_the_bad_rows_fall_back(tmp_path: Path) -> None:
    """1 % of the rows are in the primary's table alone; half of the requests are the candidate's; 32 callers at once."""
    chance = random.Random(7)
    rows = [{"i": 99 if chance.random() < 0.01 else chance.randrange(99), "x": 1.0} for _ in range(1_600)]
    bad = {number for number, row in enumerate(rows) if row["i"] == 99}

    async def main() -> Any:
        primary, candidate = lookup_model(tmp_path / "p.onnx"), lookup_model(tmp_path / "c.onnx", rows=99)
        async with serving(primary, candidate, CANARY) as service:
            answers = await service.ask_many(rows, 32)
        return answers, service

    answers, service = asyncio.run(main())
    assert all(isinstance(answer, list) for answer in answers), "whoever was drawn, the primary can answer"
    observed = service.observations()
    drawn = {number for number, row in enumerate(observed) if row.drawn is Variant.CANDIDATE}
    assert len(bad & drawn) > 3
    assert len(bad - drawn) > 3
    for number, row in enumerate(observed):
        assert row.fallback == ("failed" if number in bad & drawn else None), number
        assert row.candidate.status is (Status.FAILED if number in bad else Status.OK), number
        assert row.primary.status is Status.OK, number
    assert 0 < service.beside.retries <= 12 * len(bad)


def model_of(engine: Any) -> RemoteModel:
    remote: Any = Beside(engine)
    return RemoteModel(remote, COLUMNS, OutputReader(engine.card))


def test_each_request_of_a_call_has_its_own_answer() -> None:
    """One raises, one is not finite, one is short; one does not fit what the model reads; the others are answered."""
    requests = [[(5,)], [(13,)], [(-1,), (1,)], [(17,)], [(None,)], [(3,), (2,)]]
    found = asyncio.run(model_of(RowEngine()).infer(requests, 1.0))
    fine, raised, not_finite, short, unfit, also_fine = found
    assert isinstance(fine, Scores)
    assert isinstance(also_fine, Scores)
    assert (fine.values, also_fine.values) == ([5.0], [3.0, 2.0])
    assert isinstance(not_finite, Scores)
    assert not_finite.bad_rows == [0]
    assert [type(each) for each in (raised, short, unfit)] == [InferenceError, WrongShape, InvalidInput]


def test_an_answer_that_cannot_be_read_is_a_failure_of_the_candidate() -> None:
    """It was taken for a bug of the service, and its caller got a 500 instead of the primary's answer."""

    class Strange(RowEngine):
        def run(self, columns: Any, cancellation: Any = None) -> Any:
            return {"z": super().run(columns)["y"]}

    found = asyncio.run(model_of(Strange()).infer([[(5,)], [(1,)]], 1.0))
    assert [type(each) for each in found] == [InferenceError, InferenceError]


def test_rows_that_the_model_cannot_do_do_not_open_the_breaker(tmp_path: Path) -> None:
    """Five of them in a row cut the candidate off for everybody: the process answers, so it is not away."""
    calls = Calls(RowEngine())

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = calls.run(*wire.unpack_call(await reader.readexactly(length)))
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    async def test(engine: RemoteEngine) -> None:
        model = RemoteModel(engine, COLUMNS, OutputReader(RowEngine().card))
        for _ in range(6):
            assert [type(each) for each in await model.infer([[(13,)]], 5.0)] == [InferenceError]
        assert engine.up
        [fine] = await model.infer([[(5,)]], 5.0)
        assert isinstance(fine, Scores)

    asyncio.run(with_server(tmp_path, reply, test, breaker_failures=3))


def test_a_reply_to_other_requests_than_were_sent_is_no_answer(tmp_path: Path) -> None:
    """Its parts say how many requests each is for: what does not add up is never handed to anyone."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = wire.pack_reply([wire.Part(3, {"y": np.zeros(3, np.float32)})], 0)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def test(engine: RemoteEngine) -> None:
        model = RemoteModel(engine, COLUMNS, OutputReader(RowEngine().card))
        try:
            await model.infer([[(5,)], [(1,)]], 5.0)
        except InferenceError as error:
            assert "a different number of requests" in error.detail
        else:
            raise AssertionError

    asyncio.run(with_server(tmp_path, reply, test))


def test_where_the_old_primary_was_released_the_caller_hears_what_is_wrong() -> None:
    """After a promotion nobody answers in the model's place: the error said that the old primary was released."""

    async def main() -> Any:
        plan = Plan(Phase.PROMOTED, weight=10_000, shadow=0, salt=7, revision=1)
        async with serving(RowEngine(), RowEngine(), plan) as service:
            service.slots.primary = Released()
            return [await service.ask({"x": x}) for x in (0.5, -1.0, 13.0)], service

    (fine, not_finite, raised), service = asyncio.run(main())
    assert fine == [0.5]
    assert isinstance(not_finite, NotFinite)
    assert isinstance(raised, InferenceError)
    assert not isinstance(raised, NotReady)
    assert [row.candidate.status for row in service.observations()] == [Status.OK, Status.INVALID, Status.FAILED]
    assert {row.primary.status for row in service.observations()} == {Status.NONE}
