"""The road to the candidate's process: what comes back is what was sent, and every failure ends inside the time limit."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.waiting import eventually
from understudy.errors import CandidateAway, InferenceError
from understudy.inference import wire
from understudy.inference.remote import RemoteEngine

X = {"x": np.array([[1.0], [2.0]], dtype=np.float32)}
Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def doubled(sent: bytes) -> bytes:
    columns, sizes = wire.unpack_call(sent)
    return wire.pack_reply([wire.Part(len(sizes), {"y": columns["x"] * 2})], 0)


async def y_of(engine: RemoteEngine, columns: Any, timeout_s: float) -> Any:
    [part] = await engine.run(columns, [len(columns["x"])], timeout_s)
    return part.outputs["y"].tolist()


async def respond(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: str = "200 OK", body: bytes | None = None
) -> None:
    """Answer requests on a connection, doubling `x`."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        sent = await reader.readexactly(length)
        reply = body if body is not None else doubled(sent) if length else b"{}"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(reply)}\r\n\r\n".encode() + reply)


async def with_server(
    folder: Path, reply: Reply, test: Callable[[RemoteEngine], Awaitable[None]], **options: Any
) -> None:
    path = str(folder / "c.sock")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reply(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    engine = RemoteEngine(f"file://{path}", probe_interval_s=0.01, **options)
    try:
        await test(engine)
    finally:
        await engine.close()
        server.close()


def test_many_calls_share_few_connections(tmp_path: Path) -> None:
    """Fifty calls, four connections, every caller its own answer."""
    connections = 0

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await respond(reader, writer)

    async def test(engine: RemoteEngine) -> None:
        async def one(i: int) -> None:
            assert await y_of(engine, {"x": np.array([[i]], dtype=np.float32)}, 5.0) == [[i * 2]]

        await asyncio.gather(*(one(i) for i in range(50)))
        assert connections <= 4

    asyncio.run(with_server(tmp_path, reply, test, connections_max=4))


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [("500 Oops", b"it broke", "it broke"), ("200 OK", b"\xc1garbage", "candidate"), ("200 OK", b"", "candidate")],
)
def test_a_bad_answer_is_a_failure(tmp_path: Path, status: str, body: bytes, says: str) -> None:
    """An error status and an unreadable body raise the one error that callers expect."""

    async def test(engine: RemoteEngine) -> None:
        with pytest.raises(InferenceError, match=says):
            await y_of(engine, X, 1.0)

    asyncio.run(with_server(tmp_path, lambda r, w: respond(r, w, status, body), test))


def test_not_http_is_a_failure(tmp_path: Path) -> None:
    """Garbage instead of a status line."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\x00\x01\x02 nonsense\r\n\r\n")
        await writer.drain()

    async def test(engine: RemoteEngine) -> None:
        with pytest.raises(InferenceError):
            await y_of(engine, X, 1.0)

    asyncio.run(with_server(tmp_path, reply, test))


def test_a_hang_ends_at_the_time_limit_and_its_late_answer_is_nobody_s(tmp_path: Path) -> None:
    """The connection of a timed-out call is closed: the next call cannot read its answer."""
    slow = True

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if slow:
            await asyncio.sleep(0.05)
        await respond(reader, writer)

    async def test(engine: RemoteEngine) -> None:
        nonlocal slow
        with pytest.raises(TimeoutError):
            await y_of(engine, {"x": np.array([[7]], dtype=np.float32)}, 0.01)
        slow = False
        assert await y_of(engine, X, 1.0) == [[2], [4]]

    asyncio.run(with_server(tmp_path, reply, test))


def test_the_breaker_opens_and_closes_again(tmp_path: Path) -> None:
    """After some late calls in a row no more are made; a probe that succeeds lets calls through."""
    broken = True

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while broken:
            await asyncio.sleep(0.01)
        await respond(reader, writer)

    async def test(engine: RemoteEngine) -> None:
        nonlocal broken
        seen: list[bool] = []
        engine.on_change = seen.append
        for _ in range(3):
            with pytest.raises((InferenceError, TimeoutError)):
                await y_of(engine, X, 0.05)
        assert not engine.up
        with pytest.raises(InferenceError, match="down"):
            await y_of(engine, X, 0.2)
        broken = False
        await eventually(lambda: engine.up)
        assert await y_of(engine, X, 1.0) == [[2], [4]]
        assert seen == [False, True]

    asyncio.run(with_server(tmp_path, reply, test, breaker_failures=3))


def test_calls_under_way_when_the_process_dies_find_it_away_and_the_breaker_is_open_at_once(tmp_path: Path) -> None:
    """A closed connection is one incident (A24): no call fails by itself, and none is made until a probe is answered."""
    dies, alive, arrived = asyncio.Event(), False, 0

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        if alive:
            await respond(reader, writer)
        else:
            await reader.readuntil(b"\r\n\r\n")
            arrived += 1
            await dies.wait()

    async def test(engine: RemoteEngine) -> None:
        nonlocal alive
        calls = [asyncio.create_task(y_of(engine, X, 5.0)) for _ in range(4)]
        await eventually(lambda: arrived >= len(calls))
        dies.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in ended] == [CandidateAway] * 4
        assert all(each.ever_up for each in ended if isinstance(each, CandidateAway))
        assert not engine.up
        with pytest.raises(CandidateAway):
            await y_of(engine, X, 5.0)
        alive = True
        await eventually(lambda: engine.up)
        assert await y_of(engine, X, 1.0) == [[2], [4]]

    asyncio.run(with_server(tmp_path, reply, test))


def test_nobody_listening_is_a_failure(tmp_path: Path) -> None:
    """No socket at all."""

    async def main() -> None:
        engine = RemoteEngine(f"file://{tmp_path}/none.sock")
        with pytest.raises(InferenceError):
            await y_of(engine, X, 1.0)
        await engine.close()

    asyncio.run(main())
