"""The candidate's process as an engine: columns go over its socket as one small request, arrays come back.

Whatever happens at the other end (a crash, a hang, garbage), the caller gets an exception inside the time limit, and a
process that fails `breaker_failures` times in a row is not asked again until it answers a probe: its listening socket
belongs to the supervisor, so a dead process still accepts.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import msgspec

from understudy.errors import CandidateAway, InferenceError, WrongShape
from understudy.inference import OutputReader, Scores, wire
from understudy.inference.columns import joined
from understudy.inference.decoding import Array, Batch, Columns
from understudy.inference.joint import JointRuns, split
from understudy.runtime.ipc import Channel


class RemoteEngine:
    """Calls the candidate's process. Not thread-safe: it belongs to one event loop.

    Args:
        url: `file:///path/to.sock` or `http://host:port`.
        connections_max: calls under way; a further one waits, within its own time limit.
        breaker_failures: failures in a row after which calls fail at once, until a probe succeeds.
        digest: of the model that must answer; None: any. A process that has another one refuses.

    Attributes:
        why: what the last probe that failed found; None after one that succeeded.
    """

    def __init__(
        self,
        url: str,
        *,
        connections_max: int = 8,
        breaker_failures: int = 5,
        probe_interval_s: float = 0.25,
        digest: str | None = None,
    ) -> None:
        headers = {} if digest is None else {wire.DIGEST_HEADER: digest}
        self._channel = Channel(url, connections_max=connections_max, media_type=wire.MEDIA_TYPE, headers=headers)
        self._breaker_failures, self._probe_interval_s = breaker_failures, probe_interval_s
        self._failures = 0
        self._prober: asyncio.Task[None] | None = None
        self._closed = False
        self._ever_up = True
        self._came_up = asyncio.Event()
        self._came_up.set()
        self.on_change: Callable[[bool], None] = lambda up: None
        self.on_retry: Callable[[], None] = lambda: None
        self.why: str | None = None

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

    async def answers(self) -> bool:
        """Whether the process answers a probe now."""
        return await self._ask() is True

    async def check(self) -> None:
        """Ask no more of a process that refuses, also while nobody asks it; one that is busy is left alone."""
        if self.up and await self._ask() is False and self.up and not self._closed:
            self._go_down()

    async def _ask(self) -> bool | None:
        """Whether the process takes calls; None: it did not answer."""
        try:
            async with asyncio.timeout(max(self._probe_interval_s * 4, 1.0)):
                status, body = await self._channel.post("/probe", b"")
        except (TimeoutError, OSError) as error:
            self.why = f"its process does not answer{f' ({error})' if str(error) else ''}"
            return None
        self.why = None if status == HTTPStatus.OK else _said(status, body)
        return status == HTTPStatus.OK

    async def run(self, columns: Mapping[str, Array], sizes: Sequence[int], timeout_s: float) -> list[wire.Part]:
        """What came of each request of a call; a request on which the model failed is no failure of the process.

        Args:
            columns: the rows of all the requests; `sizes`: how many rows each request has.

        Raises:
            CandidateAway: the process is down, or went down while the call was under way.
            InferenceError: it failed, or answered something unreadable.
            TimeoutError: no answer within `timeout_s`, from a process that is up.
        """
        if not self.up:
            raise CandidateAway(ever_up=self._ever_up)
        try:
            async with asyncio.timeout(timeout_s):
                status, body = await self._channel.post("/infer", wire.pack_call(columns, sizes))
            if status != 200:
                raise InferenceError(
                    f"the candidate's process answered {status}: {body[:300].decode(errors='replace')}"
                )
            parts, retries = wire.unpack_reply(body)
            if sum(part.requests for part in parts) != len(sizes):
                raise InferenceError("the candidate's process answered other requests than it was asked")
        except (InferenceError, ValueError, msgspec.DecodeError) as error:
            self._failed()
            raise error if isinstance(error, InferenceError) else _unreadable(error) from error
        except OSError as error:
            # It died, or went away while this call was under way: one incident, however many calls it takes along.
            self._lost(late=isinstance(error, TimeoutError))
            if isinstance(error, TimeoutError) and self.up:
                raise
            raise CandidateAway(ever_up=self._ever_up) from error
        self._failures = 0
        for _ in range(retries):
            self.on_retry()
        return parts

    async def close(self) -> None:
        """Close all connections and stop probing."""
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._prober
        self._channel.close()

    def _lost(self, *, late: bool) -> None:
        """Note a call without an answer. A closed connection is a process that is gone, until a probe says otherwise."""
        if late:
            self._failed()
        elif self.up and not self._closed:
            self._go_down()

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= self._breaker_failures and self.up and not self._closed:
            self._go_down()

    def _go_down(self) -> None:
        self._channel.hang_up()
        self._came_up.clear()
        self._prober = asyncio.get_running_loop().create_task(self._probe())
        self.on_change(False)

    async def _probe(self) -> None:
        """Ask until the process answers, then let calls through again."""
        while True:
            if await self.answers():
                break
            await asyncio.sleep(self._probe_interval_s)
        self._failures, self._prober = 0, None
        self._ever_up = True
        self._came_up.set()
        self.on_change(True)


def _unreadable(error: Exception) -> InferenceError:
    return InferenceError(f"the candidate's process: {error}")


class RemoteModel:
    """The candidate's model in its process: requests go there together, and each has an answer of its own.

    Args:
        columns: what the model reads of a row; reader: what its outputs mean.
    """

    def __init__(self, remote: RemoteEngine, columns: Columns, reader: OutputReader) -> None:
        self._remote, self._columns, self._reader = remote, columns, reader
        self._joint = JointRuns(lambda: remote.on_retry())

    async def infer(self, requests: Sequence[Batch], timeout_s: float) -> list[Scores | Exception]:
        """Each request's scores, or why it has none.

        Raises:
            InferenceError: the process is down, failed, or answered something unreadable.
            TimeoutError: no answer within `timeout_s`.
        """
        try:
            built = self._columns.build(joined(requests))
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return await self._in_parts(requests, timeout_s)
        return await self._call(built, requests, timeout_s)

    async def rehearse(self, requests: Sequence[Batch], timeout_s: float) -> list[Scores | Exception]:
        """As `infer`, for requests that nobody waits for: the process is waited for as long, where it is away.

        Raises:
            CandidateAway: it does not come back.
        """
        await self._remote.wait_until_up(timeout_s)
        return await self.infer(requests, timeout_s)

    async def _in_parts(self, requests: Sequence[Batch], timeout_s: float) -> list[Scores | Exception]:
        """As `infer`, for rows that are no batch together: some do not fit the model, or they have different shapes."""
        ends = time.perf_counter() + timeout_s
        answers: list[Scores | Exception] = []
        for count, built in self._joint.run(requests, lambda part: self._columns.build(joined(part))):
            if isinstance(built, Exception):
                answers.append(built)
            else:
                part = requests[len(answers) : len(answers) + count]
                try:
                    answers += await self._call(built, part, max(0.0, ends - time.perf_counter()))
                except (TimeoutError, InferenceError) as error:
                    answers += [error] * count
        return answers

    async def _call(
        self, built: Mapping[str, Array], requests: Sequence[Batch], timeout_s: float
    ) -> list[Scores | Exception]:
        answers: list[Scores | Exception] = []
        for part in await self._remote.run(built, [len(rows) for rows in requests], timeout_s):
            own = requests[len(answers) : len(answers) + part.requests]
            answers += self._read(part, own)
        return answers

    def _read(self, part: wire.Part, requests: Sequence[Batch]) -> Sequence[Scores | Exception]:
        if part.error is not None:
            error = (WrongShape if part.misshapen else InferenceError)(part.error)
            return [error] * part.requests
        try:
            return split(requests, self._reader.read(part.outputs, sum(map(len, requests))))
        except InferenceError as error:
            return [error] * part.requests
        except (KeyError, ValueError, TypeError, IndexError) as error:
            unreadable = InferenceError(f"the candidate answered in an unreadable form: {error!r}")
            return [unreadable] * part.requests


def _said(status: int, body: bytes) -> str:
    """Why the process refuses, as it says it."""
    try:
        return str(msgspec.json.decode(body)["detail"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return f"its process answered {status}"
