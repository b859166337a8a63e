"""Checks that the file at SQLite's path is still the database that was opened.

SQLite continues to use a file that was deleted or replaced, and its commits are lost when the last process closes it. So each
transaction compares the path with the file that was opened, and each poll of the plan reads the file's header.

The header is read through a descriptor that stays open. Closing any descriptor of a file cancels all POSIX locks of the process on
it, including SQLite's own (https://sqlite.org/howtocorrupt.html, section 2.2). Another process would then believe that it is the
last one, and remove the write-ahead log that this one still uses.
"""

import os
import stat
import threading
from pathlib import Path

from understudy.errors import StoreLost

HEADER_BYTES = 100
_EMPTY = -1  # in place of the inode
_MAGIC = b"SQLite format 3\x00"
_WAY_OUT = "nothing is stored. Put the file back, or restart the service to begin a new store"


class DatabaseFile:
    """One SQLite file, checked after `opened` was called.

    Attributes:
        path: the path of the database.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._path, self._wal = path, str(path), f"{path}-wal"
        self._open = False
        self._known: tuple[int, int] | None = None  # known once its first page is written
        self._known_wal: tuple[int, int] | None = None
        self._number = 0
        self._short = False  # whether it was too short at the last check
        self._problem: str | None = None
        self._held: tuple[int, int] | None = None  # the file whose descriptor is open

    def opened(self, number: int) -> None:
        """Begin checking: the database is open and its tables exist.

        Args:
            number: its `application_id`, which identifies it in the header.
        """
        self._open, self._number = True, number
        self._held = _hold(self._path)

    def release(self) -> None:
        """Release the descriptor: the store and all its connections are closed."""
        if self._held is not None:
            _release(self._held)
            self._held = None

    def closed(self) -> None:
        """Note that a connection was closed: with the last one, SQLite removes the write-ahead log."""
        self._known_wal = None

    def check(self) -> None:
        """Compare the path with the opened file; takes two microseconds.

        Raises:
            StoreLost: there is another file, or none.
        """
        if not self._open:
            return
        found = _identity(self._path)
        if self._known is None and found is not None and found[1] != _EMPTY:
            self._known = found
        if self._known is not None and found != self._known:
            what = "deleted" if found is None else "truncated" if found[1] == _EMPTY else "replaced by another file"
            raise StoreLost(f"the database {self._path} was {what} while the service runs: {_WAY_OUT}")
        if self._problem is not None:
            raise StoreLost(self._problem)

    def check_log(self) -> None:
        """As `check`, and also for the write-ahead log, in a transaction that writes.

        Raises:
            StoreLost: the log with the last commits was deleted or replaced.
        """
        self.check()
        found = _identity(self._wal)
        if self._known is None or found == self._known_wal:
            return
        if self._known_wal is not None:
            what = "deleted" if found is None else "replaced"
            raise StoreLost(f"{self._wal}, with the last commits, was {what} while the service runs: {_WAY_OUT}")
        self._known_wal = found

    def look(self) -> None:
        """Check the header: another database may have been copied over this one, or its end may be cut off.

        Raises:
            StoreLost: the file is damaged, or another database.
        """
        if self._known is None:
            return
        self._problem = None
        self.check()
        if self._held is None:
            return
        number = _descriptors[self._held][0]
        try:
            header, size = os.pread(number, HEADER_BYTES, 0), os.fstat(number).st_size
        except OSError as error:
            raise StoreLost(
                f"the database {self._path} cannot be read any more ({error.strerror}): {_WAY_OUT}"
            ) from error
        self._problem = self._damage(header, size)
        self.check()

    def _damage(self, header: bytes, size: int) -> str | None:
        if len(header) < HEADER_BYTES:
            return f"the database {self._path} was truncated while the service runs: {_WAY_OUT}"
        number = int.from_bytes(header[68:72], "big")
        if not header.startswith(_MAGIC) or number not in {0, self._number}:  # 0: not yet written from the log
            return f"the database {self._path} was overwritten while the service runs: {_WAY_OUT}"
        page = int.from_bytes(header[16:18], "big")
        wanted = (65_536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
        # A checkpoint writes the first page before it appends the last ones, so the file must be too short twice.
        short, self._short = self._short, size < wanted
        if short and self._short:
            left = f"{size:,} of {wanted:,} bytes are left"
            return f"the database {self._path} was truncated while the service runs ({left}): {_WAY_OUT}"
        return None


_descriptors: dict[tuple[int, int], list[int]] = {}
"""By device and inode: the descriptor, and how many stores of this process use it."""
_descriptors_lock = threading.Lock()


def _hold(path: str) -> tuple[int, int] | None:
    """Open a file for reading, once per process; None if it cannot be opened."""
    with _descriptors_lock:
        try:
            found = os.stat(path)
            key = found.st_dev, found.st_ino
            if key not in _descriptors:
                _descriptors[key] = [os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0]
        except OSError:
            return None
        _descriptors[key][1] += 1
        return key


def _release(key: tuple[int, int]) -> None:
    """Close a descriptor when the last store that uses it is closed."""
    with _descriptors_lock:
        held = _descriptors[key]
        held[1] -= 1
        if not held[1]:
            os.close(held[0])
            del _descriptors[key]


def number_of(uuid: str) -> int:
    """The `application_id` of the database with this identity: positive."""
    return int(uuid.replace("-", "")[:8], 16) & 0x7FFF_FFFF or 1


def exists(path: Path) -> bool:
    """Whether there is a database, and not an empty file that something created in its place."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size >= HEADER_BYTES


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size or path.endswith("-wal") else (found.st_dev, _EMPTY)
