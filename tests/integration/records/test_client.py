"""What goes to the records process and comes back, over a real Unix socket; what is said when it is not there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from understudy.domain import Fate, LabelReport
from understudy.errors import StoreError
from understudy.records.client import RecordsClient, RecordsUnavailable, pack_fates, unpack_labels

LABELS = [LabelReport("ü\x00-1", True, 5.5), LabelReport("b", "cat", 1e300), LabelReport("c", -(2**63), 0.0)]


@asynccontextmanager
async def process(path: Path, answer: bytes) -> AsyncIterator[list[bytes]]:
    """A process that gives one answer to everything, and keeps the bodies that it was sent."""
    bodies: list[bytes] = []
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())  # type: ignore[arg-type]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                bodies.append(await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])))
                writer.write(answer)
                await writer.drain()
                if not answer.startswith(b"HTTP"):
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield bodies
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def http(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_labels_arrive_as_they_are_and_their_fates_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        fates = [Fate.MATCHED, Fate.PENDING, Fate.CONFLICT]
        async with process(tmp_path / "s", http("200 OK", pack_fates(fates))) as bodies:
            road = RecordsClient(f"file://{tmp_path}/s")
            assert await road.labels(LABELS, "t-1") == fates
            batch = unpack_labels(bodies[0])
            assert (batch.reports, batch.batch_id) == (LABELS, "t-1")
            assert [type(report.label) for report in batch.reports] == [bool, str, int]
            road.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (http("503 Service Unavailable", b'{"detail": "the disk is full"}'), StoreError, "^the disk is full$"),
        (http("500 Internal Server Error", b"oops"), StoreError, "answered 500: oops"),
        (http("400 Bad Request", b'{"detail": "no NUL, please"}'), ValueError, "no NUL"),
        (b"", RecordsUnavailable, "closed the connection"),
        (b"nonsense\r\n\r\n", RecordsUnavailable, "not HTTP"),
    ],
)
def test_what_went_wrong_is_told_apart(tmp_path: Path, answer: bytes, error: type[Exception], says: str) -> None:
    async def main() -> None:
        async with process(tmp_path / "s", answer):
            road = RecordsClient(f"file://{tmp_path}/s")
            with pytest.raises(StoreError):  # a batch waits and comes again, whatever it was
                await road.write(b"a batch")
            road = RecordsClient(f"file://{tmp_path}/s")
            with pytest.raises(error, match=says):
                await road.labels(LABELS, "t-1")
            road.close()

    asyncio.run(main())


def test_a_process_that_did_not_answer_is_left_alone_until_it_has_taken_a_batch(tmp_path: Path) -> None:
    async def main() -> None:
        road = RecordsClient(f"file://{tmp_path}/s")
        with pytest.raises(RecordsUnavailable, match="No such file"):
            await road.labels(LABELS, "t-1")
        async with process(tmp_path / "s", http("200 OK", pack_fates([]))) as bodies:
            with pytest.raises(RecordsUnavailable, match="a moment ago"):
                await road.labels(LABELS, "t-1")
            await road.write(b"a batch")
            await road.labels(LABELS, "t-1")
            assert len(bodies) == 2
        road.close()

    asyncio.run(main())
