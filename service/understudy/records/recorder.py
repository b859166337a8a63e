"""Collects exchanges on the request path and sends them in batches to the records process.

A request costs one append of its packed form. Every `flush_interval_ms`, or once `flush_max_rows` rows are waiting, a batch is sent
to the records process (`understudy.records.writer`), one at a time, until it is acknowledged:

::

    handlers ─add─▶ Recorder ─batch, again until acknowledged─▶ RecordWriter, in the records process ─▶ store, metrics

If this process dies, it loses what was collected since the last acknowledged batch. If the records process dies, nothing is lost.
While the store is unavailable, nothing is lost until `records_max_rows` rows are waiting; rows dropped after that are counted.
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
from understudy.runtime.fairness import yielded_s
from understudy.settings import Settings

log = structlog.get_logger(__name__)

LABEL_GRACE_S = 1.0
"""How long a label waits until the prediction, if this worker made it, is stored."""


STORE_RETRY_S = 1.0
"""How long to wait after a failed write."""
REST_SHARE = 0.1
"""The pause before the next batch, for each dropped row per stored row, as a share of the time that the last batch took a core from
predictions. The smaller the share of rows that can be stored, the less storing may slow down predictions."""
REST_ROWS_MAX = 100.0
"""The largest number of dropped rows per stored row that counts for the pause."""
REST_MAX_S = 1.0
"""The longest pause; a machine that was suspended would otherwise cause a longer one."""
REMIND_EVERY = 60
"""One of this many consecutive failures is logged, starting with the first."""


class Recorder:
    """Collects exchanges and counts on the event loop, and sends them.

    Args:
        prefix: the prefix of the prediction ids of this process.
        write: stores a packed batch in this process, in a thread; used without `ship`, and for the last batch.
        ship: sends a packed batch to the records process; returns when it is stored there, or raises StoreError.
        fields: the names of a request's fields; others are counted as `unknown`.
        keep: reduces the rows to what the records process needs; None sends them unchanged.

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
        self._packer = Packer()  # of the batch that is being collected
        self._full: deque[Packer] = deque()
        self._waiting_rows = 0
        self._dropped = 0  # rows, since the last batch was taken
        self.batch_sizes: dict[Variant, list[int]] = {variant: [] for variant in Variant}
        self._statuses: Counter[tuple[str, str, str]] = Counter()
        self._problems: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._task: asyncio.Task[None] | None = None
        self._open: dict[int, None] = {}  # requests that are answered but not yet stored, in the order of their ids
        self._unsent: tuple[bytes, list[int], int] | None = (
            None  # a batch that was not acknowledged: it is sent again unchanged
        )
        self._refusals = 0  # consecutive
        self._stopping = False
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()

    def open(self, exchange: Exchange) -> None:
        """Note a request before it is answered, so that an immediate label waits for it."""
        self._open[exchange.first_id] = None

    def add(self, exchange: Exchange) -> None:
        """Add a complete exchange. Never blocks; if too many rows wait, it is dropped and counted."""
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
        """Count a request that was rejected before a model was chosen."""
        self._statuses["none", "live", str(status)] += 1
        for problem in problems:
            field = problem.get("field") or "body"
            # A name that a caller invented must not become a time series.
            name = str(field) if field in self._fields or field == "body" else "unknown"
            self._problems[name, _kind(str(problem.get("problem")))] += 1

    def failed(self, exchange: Exchange, status: int) -> None:
        """Count a routed request that failed for a reason that is not a model's."""
        self._open.pop(exchange.first_id, None)
        self._statuses[exchange.variant.value, exchange.mode.value, str(status)] += 1

    def start(self) -> None:
        """Start to send batches."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what has gathered, here: the records process is being stopped at the same time. Then stop."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=True)

    async def stored(self, reports: Sequence[LabelReport]) -> None:
        """Wait up to `LABEL_GRACE_S` until the predictions of these labels, if this worker made them, are stored.

        So a label that is sent right after its prediction is `matched`, not `pending`.
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
            # A short pause: labels that wait for a rehearsal would otherwise wake this loop at once.
            await asyncio.sleep(0.001 if written else STORE_RETRY_S)
        # The last flush: one more attempt, and rows that cannot be stored are logged.
        await self._flush(self._write_here)
        if self._waiting_rows:
            log.error("records were lost at shutdown, because the store was unavailable", rows=self._waiting_rows)

    async def _flush(self, deliver: Callable[[bytes], Awaitable[None]]) -> bool:
        """Send waiting batches until less than a batch is left; False after a failure, when the batch waits."""
        while batch := self._unsent or self._take():
            self._unsent = batch
            packed, ids, rows = batch
            away = yielded_s()
            try:
                await deliver(packed)
            except StoreError as error:
                if self._refusals % REMIND_EVERY == 0:
                    log.warning("the store is unavailable: records wait", error=str(error), rows=self._waiting_rows)
                self._refusals += 1
                return False
            if self._refusals:
                log.info("records are stored again", rows=self._waiting_rows, tries=self._refusals)
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
                rest = min(self._dropped / max(rows, 1), REST_ROWS_MAX) * REST_SHARE * (yielded_s() - away)
                await asyncio.sleep(min(rest, REST_MAX_S))
        return True

    async def _write_here(self, packed: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, packed)

    def _take(self) -> tuple[bytes, list[int], int] | None:
        """The next batch: its bytes, the first ids of its exchanges, and its number of rows."""
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
    """The kind of a problem, from a fixed set, as a metric label."""
    for word in ("missing", "unknown"):
        if problem.startswith((word, f"is {word}")):
            return word
    return "value"
