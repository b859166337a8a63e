"""Records: what happened on the request path is gathered here and handed on in batches, off that path.

A request costs one append of its packed form. Every `flush_interval_ms`, or when `flush_max_rows` rows have gathered, a
batch goes to the process that keeps the records (`understudy.records.writer`), one at a time, until it has said that it is written:

::

    front door ─add─▶ Recorder ─batch, again until acknowledged─▶ RecordWriter, in the records process ─▶ store, metrics

What this process's death can lose is what has gathered since the last batch was acknowledged; the death of the records
process loses nothing, a store that is away loses nothing until `records_max_rows` rows wait, and what is given up after
that is counted.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from understudy.domain import LabelReport, Variant
from understudy.errors import StoreError
from understudy.inference.decoding import Rows
from understudy.records.exchange import Exchange, Packer
from understudy.runtime.fairness import away_s
from understudy.settings import Settings

log = structlog.get_logger(__name__)

LABEL_GRACE_S = 1.0
"""How long a label waits for its prediction, made by this worker, to be stored."""


STORE_RETRY_S = 1.0
"""How long to leave a store alone that refused a write."""
REST_SHARE = 0.1
"""How long the next batch waits, as a part of the time that the last one took a core from answers, for each row given up beside one
that was kept: the less of the traffic can be kept anyway, the less a row of it is worth to those who wait for an answer."""
REST_ROWS_MAX = 100.0
"""More rows given up beside one that was kept make no difference."""
REST_MAX_S = 1.0
"""The longest such wait: a machine that was paused took the core from answers, too."""
REMIND_EVERY = 60
"""Of so many refusals in a row one is told in the log, the first."""


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
        self,
        prefix: str,
        write: Callable[[bytes], None],
        settings: Settings,
        fields: Iterable[str] = (),
        *,
        ship: Callable[[bytes], Awaitable[None]] | None = None,
        keep: Callable[[Rows], Rows] | None = None,
    ) -> None:
        self._prefix, self._write, self._settings, self._keep = prefix, write, settings, keep
        self._ship = ship or self._write_here
        self._fields = frozenset(fields) | {"rows", "key"}
        self._packer = Packer()  # of the batch that is being gathered
        self._full: deque[Packer] = deque()
        self._waiting_rows = 0
        self._dropped = 0  # rows, since the last batch was taken
        self.batch_sizes: dict[Variant, list[int]] = {variant: [] for variant in Variant}
        self._statuses: Counter[tuple[str, str, str]] = Counter()
        self._problems: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._task: asyncio.Task[None] | None = None
        self._open: dict[int, None] = {}  # requests that are answered but not stored yet, in the order of their ids
        self._unsent: tuple[bytes, list[int], int] | None = (
            None  # a batch that was not acknowledged: it goes again, as it is
        )
        self._refusals = 0  # in a row
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
        if self._packer.rows + count > self._settings.flush_max_rows and self._packer.rows:
            self._full.append(self._packer)
            self._packer = Packer()
        self._packer.add(exchange)
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
            away = away_s()
            try:
                await deliver(packed)
            except StoreError as error:
                if self._refusals % REMIND_EVERY == 0:
                    log.warning("records wait", error=str(error), rows=self._waiting_rows)
                self._refusals += 1
                return False
            if self._refusals:
                log.info("records are written again", rows=self._waiting_rows, tries=self._refusals)
            self._unsent, self._refusals = None, 0
            self._waiting_rows -= rows
            for first_id in ids:
                self._open.pop(first_id, None)
            if self._stopping:
                continue
            if self._waiting_rows < self._settings.flush_max_rows:
                break
            if self._dropped:
                self._flushed.set()
                rest = min(self._dropped / max(rows, 1), REST_ROWS_MAX) * REST_SHARE * (away_s() - away)
                await asyncio.sleep(min(rest, REST_MAX_S))
        return True

    async def _write_here(self, packed: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, packed)

    def _take(self) -> tuple[bytes, list[int], int] | None:
        """The next batch: its bytes, the first ids of its exchanges, and its rows."""
        if self._full:
            packer = self._full.popleft()
        else:
            packer, self._packer = self._packer, Packer()
        if not (packer.ids or self._statuses or any(self.batch_sizes.values()) or self._dropped):
            return None
        packed = packer.seal(self._statuses, self._problems, self.batch_sizes, self._dropped)
        for counts in self.batch_sizes.values():
            counts.clear()
        self._statuses, self._problems, self._dropped = Counter(), Counter(), 0
        return packed, packer.ids, packer.rows


def _kind(problem: str) -> str:
    """A problem's kind, from a small fixed set, for the metric's label."""
    for word in ("missing", "unknown"):
        if problem.startswith((word, f"is {word}")):
            return word
    return "value"
