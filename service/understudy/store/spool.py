"""The spool: batches wait on disk while the store is unavailable, and are stored in order when it is back.

::

    add_observations ──▶ the store, unless it is unavailable or batches are waiting already
                   └───▶ STATE_DIR/spool/ROLLOUT/PROCESS.spool ──drain──▶ the store

Spooled batches survive `kill -9` (not a power cut: nothing is synced). Each process appends to its own file and keeps it
locked; the file of a dead process is replayed by the next process that sweeps. A batch may be sent to the store twice (the
reply was lost, or the process died before it noted the reply): the store then adds nothing.
"""

import contextlib
import fcntl
import hashlib
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeAlias

import structlog
from typing_extensions import override

from understudy.domain import GIVEN_UP, Observation, Outcome
from understudy.errors import StoreError
from understudy.store import codec
from understudy.store.forwarding import ForwardingStore, Result
from understudy.store.port import Store
from understudy.store.schema import OBSERVATION_COLUMNS

log = structlog.get_logger(__name__)

RETRY_S = 0.5
"""How long to wait before a batch that the store rejected is sent again."""

CLOSE_S = 15.0
"""How long closing continues to send waiting batches to a working store: the disk may be deleted with this process."""

Batch: TypeAlias = tuple[list[Observation], dict[str, float]]


class SpoolFile:
    """A first-in, first-out queue of batches in a file. The owner holds a lock during each call.

    Raises:
        BlockingIOError: another process holds the file.
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
        """Whether there are unread batches."""
        return self._read_to < self.size

    def append(self, batch: bytes) -> None:
        """Append one line. If the disk is full, the part that was written is removed again."""
        try:
            self._file.write(batch)
            self._file.flush()
        except OSError:
            self._file.truncate(self.size)
            raise
        self.size += len(batch)

    def peek(self) -> tuple[bytes, int] | None:
        """The next line and the offset behind it; None if there is none, or only part of one after a crash."""
        self._file.seek(self._read_to)
        line = self._file.readline()
        return (line, self._read_to + len(line)) if line.endswith(b"\n") else None

    def advance(self, end: int) -> None:
        """Mark everything before an offset as read; after the last line the file is emptied."""
        self._read_to = end
        if not self.waiting:
            self.clear()

    def clear(self) -> None:
        """Empty the file."""
        self._file.truncate(0)
        self._read_to = self.size = 0

    def close(self) -> None:
        """Close the file, and remove it if no batch waits in it."""
        if not self.waiting:
            self.path.unlink(missing_ok=True)
        self._file.close()


def packed(observations: Sequence[Observation], counts: Mapping[str, float]) -> bytes:
    """A batch as one line: a checksum and JSON."""
    rows = [codec.observation_row(0, each) for each in observations]
    text = codec.to_json([rows, dict(counts)]).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def unpacked(line: bytes) -> Batch:
    """The batch in a line.

    Raises:
        ValueError: the line is damaged.
    """
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if int(checksum, 16) != zlib.crc32(text):
        raise ValueError("a line of the spool is damaged")
    rows, counts = codec.from_json(text)
    # A file that an older version wrote has fewer columns; the missing ones are empty.
    return [codec.observation_of([*row, *[None] * (len(OBSERVATION_COLUMNS) - len(row))]) for row in rows], counts


class SpoolingStore(ForwardingStore):
    """Spools observations while another store is unavailable. All other calls are passed on.

    Args:
        store: where batches end up.
        folder: has one folder per rollout, with one file per process.
        name: the name of this process's file.
        max_bytes: the largest size of the file; a batch that does not fit raises StoreError.
        patience_s: how long the store may take for a batch before it is spooled.
        on_waiting: called with the number of rows in the file whenever it changes.
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
        on_waiting: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._store, self._max_bytes, self._patience_s = store, max_bytes, patience_s
        self._on_waiting = on_waiting
        # Batches of another rollout wait until that rollout is served again: this store is for one rollout only.
        self._folder = folder / hashlib.sha256(rollout.encode()).hexdigest()[:16]
        self._path = self._folder / f"{name}.spool"
        self._file: SpoolFile | None = None
        self._rows = 0
        self._late: list[Outcome] = []
        self._lock = threading.Lock()
        self._attempts = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._attempt: Future[Sequence[Outcome]] | None = None  # the latest, perhaps still running
        self._drainer: threading.Thread | None = None
        self._closed = threading.Event()

    @override
    def _forward(self, call: Callable[[Store], Result]) -> Result:
        return call(self._store)

    @override
    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        """For one thread at a time.

        Returns:
            The outcomes that are known now. `join_pending` returns those of spooled batches.

        Raises:
            StoreError: the store is unavailable, and the spool is full or cannot be written.
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

    @override
    def join_pending(self) -> Sequence[Outcome]:
        """Includes the outcomes of spooled batches, those of dead processes too."""
        self._adopt()
        with self._lock:
            late, self._late = self._late, []
        return [*late, *self._store.join_pending()]

    @override
    def close(self) -> None:
        """Send waiting batches to the store if it is available; otherwise they stay on disk for the next start."""
        self._closed.set()
        if (drainer := self._drainer) is not None:
            drainer.join(CLOSE_S)
        with self._lock:
            if self._file is not None:
                if self._file.waiting:
                    log.warning(
                        "the store is unavailable: records wait on disk for the next start",
                        rows=self._rows,
                        file=str(self._path),
                    )
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
                raise StoreError(
                    f"the store is unavailable, and the spool {self._path} is full ({self._max_bytes} bytes)"
                )
            self._file.append(line)
        except OSError as error:
            raise StoreError(
                f"the store is unavailable, and the spool {self._path} cannot be written: {error}"
            ) from error
        self._waiting(len(observations))

    def _waiting(self, more: int) -> None:
        self._rows += more
        self._on_waiting(self._rows)

    def _drain(self) -> None:
        """Send batches to the store, in order, until none waits; while closing, until the first failure."""
        assert self._attempt is not None
        with contextlib.suppress(Exception):  # its batch was spooled as well, so an error is handled there
            self._late += self._attempt.result()
        while True:
            with self._lock:
                if self._file is None:
                    return  # closed, and `CLOSE_S` has passed
                entry = self._file.peek()
                if entry is None:
                    self._file.close()
                    self._file = self._drainer = None
                    return
            line, end = entry
            rows = self._send(line)
            if rows is None:
                if self._closed.is_set():
                    return
                self._closed.wait(RETRY_S)
                continue
            with self._lock:
                if self._file is not None:
                    self._file.advance(end)
                    self._waiting(-rows)

    def _send(self, line: bytes) -> int | None:
        """Store one line; returns how many rows it had, or None if the store is unavailable."""
        observations: list[Observation] = []
        try:
            observations, counts = unpacked(line)
            outcomes = self._store.add_observations(observations, counts)
        except StoreError:
            return None
        except Exception:
            # A damaged line, or a value that no row can hold: retrying would block all later batches.
            log.exception("a spooled batch cannot be stored and is dropped", rows=len(observations))
            with contextlib.suppress(StoreError):
                self._store.add_observations([], {GIVEN_UP: len(observations)})
            return len(observations)
        with self._lock:
            self._late += outcomes
        return len(observations)

    def _adopt(self) -> None:
        """Replay the files of dead processes, oldest first.

        Raises:
            StoreError: the store is unavailable; the files stay.
        """
        for path in sorted(self._folder.glob("*.spool")):
            if path == self._path:
                continue
            try:
                orphan = SpoolFile(path)
            except OSError:  # its process is running, or has just removed it
                continue
            try:
                batches = 0
                for line, end in _lines(orphan):
                    if self._send(line) is None:
                        raise StoreError(
                            "the store is unavailable: records that a dead process had spooled wait on disk"
                        )
                    orphan.advance(end)
                    batches += 1
                orphan.clear()  # a line that was cut short by a crash was never acknowledged
                if batches:
                    log.info("stored the records that a dead process had spooled", batches=batches, file=str(path))
            finally:
                orphan.close()


def _lines(file: SpoolFile) -> Iterator[tuple[bytes, int]]:
    while entry := file.peek():
        yield entry
