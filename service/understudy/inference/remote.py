"""Client of the candidate's process: sends columns over its socket and receives arrays.

If the process crashes, hangs or sends garbage, the caller gets an exception within the time limit. After `breaker_failures`
failures in a row, calls stop until a probe succeeds. A connection says nothing about the process, because the supervisor
owns the listening socket.
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
from understudy.inference.sizes import elements_of_arrays
from understudy.runtime.ipc import Channel

BUILD_MAX = 64 * 1024
"""Numbers of a call's arrays that are converted on the event loop; more are converted in a thread."""
PACK_MAX = 2**20
"""Bytes of a call that are packed on the event loop; more are packed in a thread."""


class RemoteEngine:
    """Calls the candidate's process. Not thread-safe: it belongs to one event loop.

    Args:
        url: `file:///path/to.sock` or `http://host:port`.
        connections_max: the most calls in flight; further calls wait, within their own time limit.
        breaker_failures: failures in a row after which calls fail at once, until a probe succeeds.
        probe_interval_s: the time between two probes.
        digest: the digest of the model that must answer; a process with another model rejects calls. None accepts any model.

    Attributes:
        why: why the last probe failed; None if it succeeded.
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
        """Whether calls are sent to the process: False before its first answer and while the breaker is open."""
        return self._prober is None

    def start(self) -> None:
        """Start probing. Calls fail until the process has answered a probe."""
        self._ever_up = False
        self._go_down()

    async def wait_until_up(self, timeout_s: float) -> None:
        """Wait until calls are sent to the process.

        Raises:
            CandidateAway: it is not up within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._came_up.wait()
        except TimeoutError:
            raise CandidateAway(ever_up=self._ever_up) from None

    async def answers(self) -> bool:
        """Whether the process answers a probe now."""
        return await self._probe_once() is True

    async def check(self) -> None:
        """Probe the process and stop calls if it rejects the probe. A process that does not answer may be busy, so calls go on."""
        if self.up and await self._probe_once() is False and self.up and not self._closed:
            self._go_down()

    async def _probe_once(self) -> bool | None:
        """Whether the process accepts the probe; None if it did not answer."""
        try:
            async with asyncio.timeout(max(self._probe_interval_s * 4, 1.0)):
                status, body = await self._channel.post("/probe", b"")
        except (TimeoutError, OSError) as error:
            self.why = f"its process does not answer{f' ({error})' if str(error) else ''}"
            return None
        self.why = None if status == HTTPStatus.OK else _reason(status, body)
        return status == HTTPStatus.OK

    async def run(self, columns: Mapping[str, Array], sizes: Sequence[int], timeout_s: float) -> list[wire.Part]:
        """Run a call; returns the results of its requests. A request on which the model fails is no failure of the process.

        Args:
            columns: the rows of all requests.
            sizes: the number of rows of each request.

        Raises:
            CandidateAway: the process is down, or went down during the call.
            InferenceError: the call failed, or its reply cannot be decoded.
            TimeoutError: no answer within `timeout_s`, from a process that is up.
        """
        if not self.up:
            raise CandidateAway(ever_up=self._ever_up)
        try:
            async with asyncio.timeout(timeout_s):
                limit = f"{wire.TIMEOUT_HEADER}: {timeout_s * 1000:.0f}\r\n"
                if sum(array.nbytes for array in columns.values()) > PACK_MAX:
                    packed = await asyncio.to_thread(wire.pack_call, columns, sizes)
                else:
                    packed = wire.pack_call(columns, sizes)
                status, body = await self._channel.post("/infer", packed, limit)
            if status == HTTPStatus.GATEWAY_TIMEOUT:
                raise TimeoutError
            if status != HTTPStatus.OK:
                raise InferenceError(
                    f"the candidate's process answered {status}: {body[:300].decode(errors='replace')}"
                )
            parts, retries = wire.unpack_reply(body)
            if sum(part.requests for part in parts) != len(sizes):
                raise InferenceError("the candidate's process answered a different number of requests than it was sent")
        except (InferenceError, ValueError, msgspec.DecodeError) as error:
            self._failed()
            raise error if isinstance(error, InferenceError) else _unreadable(error) from error
        except OSError as error:
            # The process died or became unavailable during this call: one incident, however many calls it affects.
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
        """Note a call without a reply. After a closed connection the process counts as down until a probe succeeds."""
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
        """Probe until the process answers, then allow calls again."""
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
    """The candidate's model in its own process. Requests are sent together, and each gets its own answer.

    Args:
        columns: builds the model's inputs.
        reader: reads the model's outputs.
    """

    def __init__(self, remote: RemoteEngine, columns: Columns, reader: OutputReader) -> None:
        self._remote, self._columns, self._reader = remote, columns, reader
        self._joint = JointRuns(lambda: remote.on_retry())
        self._elements_of = elements_of_arrays(columns.inputs, columns.positions)

    async def infer(self, requests: Sequence[Batch], timeout_s: float) -> list[Scores | Exception]:
        """The scores or the error of each request.

        Raises:
            InferenceError: the process is down, the call failed, or its reply cannot be decoded.
            TimeoutError: no reply within `timeout_s`.
        """
        together = joined(requests)
        try:
            if self._elements_of is not None and self._elements_of(together) > BUILD_MAX:
                built = await asyncio.to_thread(self._columns.build, together)
            else:
                built = self._columns.build(together)
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return await self._in_parts(requests, timeout_s)
        return await self._call(built, requests, timeout_s)

    async def rehearse(self, requests: Sequence[Batch], timeout_s: float) -> list[Scores | Exception]:
        """Like `infer`, for rehearsals: if the process is down, wait up to `timeout_s` for it first.

        Raises:
            CandidateAway: it is still down then.
        """
        await self._remote.wait_until_up(timeout_s)
        return await self.infer(requests, timeout_s)

    async def _in_parts(self, requests: Sequence[Batch], timeout_s: float) -> list[Scores | Exception]:
        """Like `infer`, for requests that cannot share a batch: some do not fit the model, or their shapes differ."""
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
        if part.late:
            return [TimeoutError()] * part.requests
        if part.error is not None:
            error = (WrongShape if part.misshapen else InferenceError)(part.error)
            return [error] * part.requests
        try:
            return split(requests, self._reader.read(part.outputs, sum(map(len, requests))))
        except InferenceError as error:
            return [error] * part.requests
        except (KeyError, ValueError, TypeError, IndexError) as error:
            unreadable = InferenceError(f"the candidate's outputs cannot be read: {error!r}")
            return [unreadable] * part.requests


def _reason(status: int, body: bytes) -> str:
    """Why the process rejected a probe, from its response."""
    try:
        return str(msgspec.json.decode(body)["detail"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return f"its process answered {status}"
