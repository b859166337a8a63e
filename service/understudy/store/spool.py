"""The spool: where batches wait on disk while the store is away, in order, and from where they go to it when it is back.

::

    add_observations ──▶ the store, unless it is away or something waits already
                   └───▶ STATE_DIR/spool/ROLLOUT/PROCESS.spool ──drain──▶ the store

What has been spooled survives `kill -9` (not a power cut: nothing is synced). Each process appends to a file of its own, which
it holds locked; the file that a dead process left is replayed by whoever sweeps next. A batch may go to the store twice (it
was stored, but the answer was lost, or the process died between storing it and noting so): the store adds nothing then.
"""

import contextlib
import fcntl
import hashlib
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import structlog

from understudy.domain import GIVEN_UP, Observation, Outcome
from understudy.errors import StoreError
from understudy.store import Store, codec
from understudy.store.schema import OBSERVATION_COLUMNS

log = structlog.get_logger(__name__)

RETRY_S = 0.5
"""How long to leave a store alone that refused a batch."""

CLOSE_S = 15.0
"""How long closing goes on to bring what waits to a store that takes it: the disk may go with this process."""

Batch: TypeAlias = tuple[list[Observation], dict[str, float]]


class SpoolFile:
    """Batches in a file, first in, first out. One process at a time; its calls come under the owner's lock.

    Raises:
        BlockingIOError: when another process holds the file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: BinaryIO = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise
        self._read_to = 0
        self.size = self._file.seek(0, 2)

    @property
    def waiting(self) -> bool:
        """Whether there is anything that was not read."""
        return self._read_to < self.size

    def append(self, batch: bytes) -> None:
        """Write one line. A line that a full disk cuts short is taken away again."""
        try:
            self._file.write(batch)
            self._file.flush()
        except OSError:
            self._file.truncate(self.size)
            raise
        self.size += len(batch)

    def peek(self) -> tuple[bytes, int] | None:
        """The next line and its end, or None where there is none, or only what a crash cut short."""
        self._file.seek(self._read_to)
        line = self._file.readline()
        return (line, self._read_to + len(line)) if line.endswith(b"\n") else None

    def advance(self, end: int) -> None:
        """Go on behind a line; the file is emptied when that was the last."""
        self._read_to = end
        if not self.waiting:
            self.clear()

    def clear(self) -> None:
        """Empty the file."""
        self._file.truncate(0)
        self._read_to = self.size = 0

    def close(self) -> None:
        """Let go of the file, and remove it when nothing waits in it."""
        if not self.waiting:
            self.path.unlink(missing_ok=True)
        self._file.close()


def packed(observations: Sequence[Observation], counts: Mapping[str, float]) -> bytes:
    """A batch as one line: a checksum, and JSON."""
    rows = [codec.observation_row(0, each) for each in observations]
    text = codec.to_json([rows, dict(counts)]).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def unpacked(line: bytes) -> Batch:
    """The batch in a line.

    Raises:
        ValueError: when the line is damaged.
    """
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if int(checksum, 16) != zlib.crc32(text):
        raise ValueError("a line of the spool is damaged")
    rows, counts = codec.from_json(text)
    # A spool file that an older version wrote has fewer columns: those that came later are empty.
    return [codec.observation_of([*row, *[None] * (len(OBSERVATION_COLUMNS) - len(row))]) for row in rows], counts


class SpoolingStore:
    """A store whose `add_observations` does not fail while it is away. Everything else is the store's own.

    Args:
        store: what is behind it.
        folder: of the spools; one for each rollout is made in it.
        name: of this process's file.
        max_bytes: how large the file may become; a batch that does not fit is a StoreError.
        patience_s: how long a batch may be on its way to the store before it is spooled.
        told: is given the number of rows that wait in the file, whenever it changes.
    """

    def __init__(
        self,
        store: Store,
        rollout: str,
        folder: Path,
        name: str,
        *,
        max_bytes: int,
        patience_s: float,
        told: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._store, self._max_bytes, self._patience_s, self._told = store, max_bytes, patience_s, told
        # The batches of another rollout say nothing to this one's store: they wait until it is served again.
        self._folder = folder / hashlib.sha256(rollout.encode()).hexdigest()[:16]
        self._path = self._folder / f"{name}.spool"
        self._file: SpoolFile | None = None
        self._rows = 0
        self._late: list[Outcome] = []
        self._lock = threading.Lock()
        self._attempts = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._attempt: Future[Sequence[Outcome]] | None = None  # the latest, perhaps still on its way
        self._drainer: threading.Thread | None = None
        self._closed = threading.Event()

    def __getattr__(self, name: str) -> Any:
        """What this class does not say, the store behind it does."""
        return getattr(self._store, name)

    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        """See `Store.add_observations`; for one thread at a time.

        Returns:
            The outcomes, as far as they are known now. Those of batches that were spooled come from `join_pending`.

        Raises:
            StoreError: the store is away, and the spool is full or cannot be written.
        """
        with self._lock:
            if self._drainer is not None:
                self._spool(observations, counts or {})
                return []
            self._attempt = self._attempts.submit(self._store.add_observations, observations, counts)
        with contextlib.suppress(TimeoutError, StoreError):
            return self._attempt.result(self._patience_s)
        with self._lock:
            self._spool(observations, counts or {})
            self._drainer = threading.Thread(target=self._drain, name="spool", daemon=True)
            self._drainer.start()
        return []

    def join_pending(self) -> Sequence[Outcome]:
        """See `Store.join_pending`; with the outcomes of what was spooled, and of what a dead process had spooled."""
        self._adopt()
        with self._lock:
            late, self._late = self._late, []
        return [*late, *self._store.join_pending()]

    def close(self) -> None:
        """Bring what waits to the store, if it takes it; else it stays on disk for the next start."""
        self._closed.set()
        if (drainer := self._drainer) is not None:
            drainer.join(CLOSE_S)
        with self._lock:
            if self._file is not None:
                if self._file.waiting:
                    log.warning("records wait on disk for the next start", rows=self._rows, file=str(self._path))
                self._file.close()
                self._file = None
        self._attempts.shutdown(wait=False)
        self._store.close()

    def _spool(self, observations: Sequence[Observation], counts: Mapping[str, float]) -> None:
        line = packed(observations, counts)
        try:
            if self._file is None:
                self._file = SpoolFile(self._path)
            if self._file.size + len(line) > self._max_bytes:
                raise StoreError(f"the store is away, and its spool {self._path} has its {self._max_bytes} bytes")
            self._file.append(line)
        except OSError as error:
            raise StoreError(f"the store is away, and its spool {self._path} cannot be written: {error}") from error
        self._waiting(len(observations))

    def _waiting(self, more: int) -> None:
        self._rows += more
        self._told(self._rows)

    def _drain(self) -> None:
        """Bring batches to the store, in order, until none waits; when closing, until it refuses one."""
        assert self._attempt is not None
        with contextlib.suppress(Exception):  # what it came to, the store knows; its batch is the spool's first
            self._late += self._attempt.result()
        while True:
            with self._lock:
                if self._file is None:
                    return  # closed, and its time is up
                found = self._file.peek()
                if found is None:
                    self._file.close()
                    self._file = self._drainer = None
                    return
            line, end = found
            rows = self._bring(line)
            if rows is None:
                if self._closed.is_set():
                    return
                self._closed.wait(RETRY_S)
                continue
            with self._lock:
                if self._file is not None:
                    self._file.advance(end)
                    self._waiting(-rows)

    def _bring(self, line: bytes) -> int | None:
        """Store one line; how many rows it had, or None when the store is away."""
        observations: list[Observation] = []
        try:
            observations, counts = unpacked(line)
            outcomes = self._store.add_observations(observations, counts)
        except StoreError:
            return None
        except Exception:
            # Damage, or what no row can hold: trying again would stop all that waits behind it.
            log.exception("a batch of the spool is given up", rows=len(observations))
            with contextlib.suppress(StoreError):
                self._store.add_observations([], {GIVEN_UP: len(observations)})
            return len(observations)
        with self._lock:
            self._late += outcomes
        return len(observations)

    def _adopt(self) -> None:
        """Replay what dead processes have left, oldest first.

        Raises:
            StoreError: the store is away; what is left waits.
        """
        for path in sorted(self._folder.glob("*.spool")):
            if path == self._path:
                continue
            try:
                left = SpoolFile(path)
            except OSError:  # its process lives, or has just removed it
                continue
            try:
                batches = 0
                for line, end in _lines(left):
                    if self._bring(line) is None:
                        raise StoreError("the store is away; what a dead process had spooled waits")
                    left.advance(end)
                    batches += 1
                left.clear()  # a line that its process's death cut short was never acknowledged
                if batches:
                    log.info("replayed what a dead process had spooled", batches=batches, file=str(path))
            finally:
                left.close()


def _lines(file: SpoolFile) -> Iterator[tuple[bytes, int]]:
    while found := file.peek():
        yield found
