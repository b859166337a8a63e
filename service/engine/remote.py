"""The candidate's process as an engine: columns go over its socket as one small HTTP/1.1 request, arrays come back.

A bare asyncio protocol around httptools, since this hop is on the canary's request path: measured beside `bentoml.depends`
and aiohttp in `loadtests/`. Whatever happens at the other end (a crash, a hang,
garbage), the caller gets an exception inside the time limit, and a process that fails `breaker_failures` times in a row is
not asked again until it answers a probe: its listening socket belongs to the supervisor, so a dead process still accepts.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import httptools
import msgspec

from service.engine import wire
from service.errors import CandidateAway, InferenceError
from service.inputs import Array

_HEAD = "POST %s HTTP/1.1\r\nHost: candidate\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(InferenceError(f"the candidate's process answered something that is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(InferenceError(f"the candidate's process closed the connection{f': {exc}' if exc else ''}"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body = []
        self._parser = httptools.HttpResponseParser(self)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result((status, body))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; its status and body. Cancelling it leaves an answer under way: close the connection then."""
        assert self.transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._waiter

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _fail(self, error: InferenceError) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        self.close()


class RemoteEngine:
    """Calls the candidate's process. Not thread-safe: it belongs to one event loop.

    Args:
        url: `file:///path/to.sock` or `http://host:port`, or a function that gives it (it is asked when connecting).
        connections_max: calls under way; a further one waits, within its own time limit.
        breaker_failures: failures in a row after which calls fail at once, until a probe succeeds.
    """

    def __init__(
        self, url: str, *, connections_max: int = 8, breaker_failures: int = 5, probe_interval_s: float = 0.25
    ) -> None:
        self._parts = urlsplit(url)
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(connections_max)
        self._breaker_failures, self._probe_interval_s = breaker_failures, probe_interval_s
        self._failures = 0
        self._prober: asyncio.Task[None] | None = None
        self._closed = False
        self._ever_up = True
        self._came_up = asyncio.Event()
        self._came_up.set()
        self.on_change: Callable[[bool], None] = lambda up: None

    @property
    def up(self) -> bool:
        """False while calls are kept away from the process: before its first answer, and while the breaker is open."""
        return self._prober is None

    def start(self) -> None:
        """Begin by probing: nothing is asked of a process that has not answered yet."""
        self._ever_up = False
        self._go_down()

    async def wait_until_up(self, timeout_s: float) -> None:
        """Return once the process may be asked.

        Raises:
            CandidateAway: when that takes longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._came_up.wait()
        except TimeoutError:
            raise CandidateAway(ever_up=self._ever_up) from None

    async def run(self, columns: Mapping[str, Array], timeout_s: float) -> dict[str, Array]:
        """The model's outputs by name.

        Raises:
            InferenceError: the process is down, failed, or answered something unreadable.
            TimeoutError: no answer within `timeout_s`.
        """
        if not self.up:
            raise CandidateAway(ever_up=self._ever_up)
        try:
            async with asyncio.timeout(timeout_s):
                status, body = await self._post("/infer", wire.pack(columns))
            if status != 200:
                raise InferenceError(
                    f"the candidate's process answered {status}: {body[:300].decode(errors='replace')}"
                )
            outputs = wire.unpack(body)
        except (TimeoutError, InferenceError, OSError, ValueError, msgspec.DecodeError) as error:
            self._failed()
            if isinstance(error, TimeoutError | InferenceError):
                raise
            raise InferenceError(f"the candidate's process: {error}") from error
        self._failures = 0
        return outputs

    async def close(self) -> None:
        """Close all connections and stop probing."""
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._prober
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        async with self._slots:
            connection = await self._connect()
            try:
                answer = await connection.ask((_HEAD % (path, wire.MEDIA_TYPE, len(body))).encode() + body)
            except BaseException:
                connection.close()  # an answer that comes now would be read as the next one's
                raise
            if connection.open and not self._closed:
                self._idle.append(connection)
            return answer

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        if self._parts.scheme == "file":
            _, made = await loop.create_unix_connection(_Connection, unquote(self._parts.path))
        else:
            _, made = await loop.create_connection(
                _Connection, self._parts.hostname or "127.0.0.1", self._parts.port or 80
            )
        return made

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= self._breaker_failures and self.up and not self._closed:
            self._go_down()

    def _go_down(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self._came_up.clear()
        self._prober = asyncio.get_running_loop().create_task(self._probe())
        self.on_change(False)

    async def _probe(self) -> None:
        """Ask until the process answers, then let calls through again."""
        while True:
            try:
                async with asyncio.timeout(max(self._probe_interval_s * 4, 1.0)):
                    status, _ = await self._post("/probe", b"")
                if status == 200:
                    break
            except (TimeoutError, InferenceError, OSError):
                pass
            await asyncio.sleep(self._probe_interval_s)
        self._failures, self._prober = 0, None
        self._ever_up = True
        self._came_up.set()
        self.on_change(True)
