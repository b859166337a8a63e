"""Records: what happened on the request path is gathered here and handed on in batches, off that path.

A request costs one append of its packed form. Every `flush_interval_ms`, or when `flush_max_rows` rows have gathered, a
batch goes to the process that keeps the records (`service.ledger`), one at a time, until it has said that it is written:

::

    front door ─add─▶ Recorder ─batch, again until acknowledged─▶ Ledger, in the records process ─▶ store, metrics

What this process's death can lose is what has gathered since the last batch was acknowledged; the death of the records
process loses nothing, a store that is away loses nothing until `records_max_rows` rows wait, and what is given up after
that is counted.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import structlog

from service import route
from service.domain import SHARE_ONE, Answer, LabelReport, Mode, Observation, Status, Variant
from service.engine import Reading, Scores, wire
from service.errors import StoreError
from service.inputs import Rows
from service.settings import Settings
from service.table import Table

log = structlog.get_logger(__name__)

LABEL_GRACE_S = 1.0
"""How long a label waits for its prediction, made by this worker, to be stored."""


STORE_RETRY_S = 1.0
"""How long to leave a store alone that refused a write."""


class Attempt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one model's attempt at a request ended, and how long its caller waited."""

    status: Status = Status.NONE
    scores: Scores | None = None
    seconds: float = 0.0


NOT_ASKED = Attempt()


class Exchange(msgspec.Struct, array_like=True, gc=False):
    """One answered request on its way to the record. Mutable until its rehearsal, if there is one, has ended.

    Attributes:
        key: what the router drew by; None: the first prediction's id.
        http: the status that it was answered with.
    """

    prefix: str
    first_id: int
    rows: Any  # `Rows`; as they travel, in `unpack`
    at: float
    revision: int
    share: int
    variant: Variant
    mode: Mode
    fallback: str | None = None
    rehearsal: Variant | None = None
    total_seconds: float = 0.0
    primary: Attempt = NOT_ASKED
    candidate: Attempt = NOT_ASKED
    key: str | None = None
    http: int = 200

    @property
    def count(self) -> int:
        """How many rows it has."""
        return len(self.rows)

    @property
    def scores(self) -> dict[Variant, Scores]:
        """The scores of those models that gave some."""
        return {v: scores for v in Variant if (scores := self.attempt(v).scores) is not None}

    def attempt(self, variant: Variant) -> Attempt:
        """How `variant`'s attempt ended."""
        return self.primary if variant is Variant.PRIMARY else self.candidate

    def settle(self, variant: Variant, status: Status, scores: Scores | None, seconds: float) -> None:
        """Note how `variant`'s attempt ended."""
        attempt = Attempt(status, scores, seconds)
        if variant is Variant.PRIMARY:
            self.primary = attempt
        else:
            self.candidate = attempt

    def prediction_id(self, row: int) -> str:
        """The id of one row's prediction."""
        return f"{self.prefix}-{self.first_id + row}"

    def observations(
        self, readings: Mapping[Variant, Reading], units_of: Callable[[Rows], Sequence[str | None]], salt: int = 0
    ) -> Iterable[Observation]:
        """The rows of this exchange, as they are recorded. `salt` is the plan's."""
        primary, candidate = (self._answers(variant, readings.get(variant)) for variant in Variant)
        request_id = self.prediction_id(0)
        drawn = 0 < self.share < SHARE_ONE and self.mode is Mode.LIVE
        point = route.bucket(self.key or request_id, salt) >> 1 if drawn else None
        for i, unit in enumerate(units_of(self.rows)):
            yield Observation(
                self.prediction_id(i), request_id, self.at, self.revision, self.variant, self.mode, self.share,
                primary[i], candidate[i], unit, self.fallback, point,
            )  # fmt: skip

    def _answers(self, variant: Variant, reading: Reading | None) -> Sequence[Answer]:
        attempt = self.attempt(variant)
        if reading is None:
            return [Answer(attempt.status)] * self.count
        return reading.answers(attempt.scores, attempt.status, attempt.seconds, self.count)


class Bundle(msgspec.Struct, array_like=True, gc=False):
    """What has gathered between two flushes.

    Attributes:
        statuses: requests that ended in an error: variant, mode, HTTP status, how many.
        problems: values that did not fit: field, kind of problem, how many.
        sizes: rows of each run of a model, by variant.
        dropped: rows given up since too many waited.
    """

    exchanges: list[Exchange]
    statuses: list[tuple[str, str, str, int]] = []
    problems: list[tuple[str, str, int]] = []
    sizes: dict[str, list[int]] = {}
    dropped: int = 0


def _plain(value: Any) -> Any:
    """What has no form of its own in MessagePack: a part of a run's answers, rows that are columns."""
    if isinstance(value, Scores):
        return value.rows, value.labels, value.probabilities, value.values, value.others
    if isinstance(value, Table):
        return {"rows": len(value), "columns": wire.pack(value.columns)}
    raise TypeError(f"{type(value).__name__} is not recorded")


def _whole(kind: type, value: Any) -> Any:
    assert kind is Scores
    return Scores(*value)


pack = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode = msgspec.msgpack.Decoder(Bundle, dec_hook=_whole).decode


def unpack(packed: bytes) -> Bundle:
    """A batch from its packed form.

    Raises:
        ValueError: it is none.
    """
    batch = _decode(packed)
    for exchange in batch.exchanges:
        if isinstance(exchange.rows, dict):
            exchange.rows = Table(wire.unpack(exchange.rows["columns"]), exchange.rows["rows"])
    return batch


class Recorder:
    """Gathers exchanges and counts on the event loop, and ships them.

    Args:
        prefix: what the ids of this process's predictions begin with.
        write: writes a packed batch here, in a thread; used where there is no `ship`, and for the last batch.
        ship: takes a packed batch to the records process; returns when it is written there, else raises StoreError.
        fields: the names of a request's fields; others are counted as `unknown`.
        keep: what of the rows goes to the records process; absent: all of it.

    Attributes:
        batch_sizes: each run of a model appends its number of rows here, by variant.
    """

    def __init__(
        self, prefix: str, write: Callable[[bytes], None], settings: Settings, fields: Iterable[str] = (), *,
        ship: Callable[[bytes], Awaitable[None]] | None = None, keep: Callable[[Rows], Rows] | None = None,
    ) -> None:  # fmt: skip
        self._prefix, self._write, self._settings, self._keep = prefix, write, settings, keep
        self._ship = ship or self._write_here
        self._fields = frozenset(fields) | {"rows", "key"}
        self._packed: deque[tuple[int, int, bytes]] = deque()  # first id, rows, the exchange's bytes
        self._waiting_rows = 0
        self._dropped = 0
        self.batch_sizes: dict[Variant, list[int]] = {variant: [] for variant in Variant}
        self._statuses: Counter[tuple[str, str, str]] = Counter()
        self._problems: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._task: asyncio.Task[None] | None = None
        self._open: dict[int, None] = {}  # requests that are answered but not stored yet, in the order of their ids
        self._unsent: tuple[bytes, list[int], int] | None = (
            None  # a batch that was not acknowledged: it goes again, as it is
        )
        self._stopping = False
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()

    def open(self, exchange: Exchange) -> None:
        """Take note of a request before it is answered, so that a label which comes at once finds it."""
        self._open[exchange.first_id] = None

    def add(self, exchange: Exchange) -> None:
        """Take over an exchange that is complete. Never blocks; drops and counts when too much waits."""
        count = exchange.count
        if self._waiting_rows + count > self._settings.records_max_rows:
            self._dropped += count
            self._open.pop(exchange.first_id, None)
            return
        if self._keep is not None:
            exchange.rows = self._keep(exchange.rows)
        self._waiting_rows += count
        # Packed one by one, here: a whole batch at once would hold the loop for a millisecond.
        self._packed.append((exchange.first_id, count, pack(exchange)))
        if self._waiting_rows >= self._settings.flush_max_rows:
            self._wake.set()

    def refused(self, status: int, problems: Iterable[Mapping[str, object]] = ()) -> None:
        """Count a request that was answered with an error before any model was chosen."""
        self._statuses["none", "live", str(status)] += 1
        for problem in problems:
            field = problem.get("field") or "body"
            # A name that a caller made up must not become a time series of its own.
            name = str(field) if field in self._fields or field == "body" else "unknown"
            self._problems[name, _kind(str(problem.get("problem")))] += 1

    def failed(self, exchange: Exchange, status: int) -> None:
        """Count a request that was routed but got an error which says nothing about a model."""
        self._open.pop(exchange.first_id, None)
        self._statuses[exchange.variant.value, exchange.mode.value, str(status)] += 1

    def start(self) -> None:
        """Begin to flush."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what has gathered, here: the records process is being stopped at the same time. Then stop."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=True)

    async def stored(self, reports: Sequence[LabelReport]) -> None:
        """Wait, a moment at the most, until predictions of this worker that these labels speak of are stored.

        So whoever sends a label right after its prediction is told `matched`, not `pending`.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LABEL_GRACE_S):
                while self._any_open(reports):
                    self._flushed.clear()
                    self._wake.set()
                    await self._flushed.wait()

    def _any_open(self, reports: Sequence[LabelReport]) -> bool:
        oldest = next(iter(self._open), None)
        if oldest is None:
            return False
        return any(
            prefix == self._prefix and number.isdigit() and int(number) >= oldest
            for prefix, _, number in (report.prediction_id.rpartition("-") for report in reports)
        )

    async def _run(self) -> None:
        pause = self._settings.flush_interval_ms / 1000
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            written = await self._flush(self._ship)
            self._flushed.set()
            # A moment for whoever waits for a rehearsal to end: they wake this loop at once otherwise.
            await asyncio.sleep(0.001 if written else STORE_RETRY_S)
        # The last flush: a store that is away now gets one more try, and what it refuses is said.
        await self._flush(self._write_here)
        if self._waiting_rows:
            log.error("records lost at shutdown", rows=self._waiting_rows)

    async def _flush(self, deliver: Callable[[bytes], Awaitable[None]]) -> bool:
        """Deliver what waits, a batch at a time, until less than a batch is left. False: it was refused, and waits."""
        while batch := self._unsent or self._take():
            self._unsent = batch
            packed, ids, rows = batch
            try:
                await deliver(packed)
            except StoreError as error:
                log.warning("records wait", error=str(error), rows=self._waiting_rows)
                return False
            self._unsent = None
            self._waiting_rows -= rows
            for first_id in ids:
                self._open.pop(first_id, None)
            if self._waiting_rows < self._settings.flush_max_rows and not self._stopping:
                break
        return True

    async def _write_here(self, packed: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, packed)

    def _take(self) -> tuple[bytes, list[int], int] | None:
        """The next batch: its bytes, the first ids of its exchanges, and its rows."""
        ids: list[int] = []
        pieces: list[bytes] = []
        rows = 0
        while self._packed and (not ids or rows + self._packed[0][1] <= self._settings.flush_max_rows):
            first_id, count, piece = self._packed.popleft()
            ids.append(first_id)
            pieces.append(piece)
            rows += count
        sizes = {variant.value: list(counts) for variant, counts in self.batch_sizes.items() if counts}
        if not (ids or self._statuses or sizes or self._dropped):
            return None
        packed = pack(
            (
                list(map(msgspec.Raw, pieces)),
                [(*key, count) for key, count in self._statuses.items()],
                [(*key, count) for key, count in self._problems.items()],
                sizes,
                self._dropped,
            )
        )
        for counts in self.batch_sizes.values():
            counts.clear()
        self._statuses, self._problems, self._dropped = Counter(), Counter(), 0
        return packed, ids, rows


def _kind(problem: str) -> str:
    """A problem's kind, from a small fixed set, for the metric's label."""
    for word in ("missing", "unknown"):
        if problem.startswith((word, f"is {word}")):
            return word
    return "value"
