"""A store that may be away, when the service starts or later: opened when it is there, and spoken of once.

Every call goes through here, so here it is known when the store goes and when it is back; whoever calls counts its errors
and goes on. The log of a process has one line for each, and a reminder now and then:

::

    the store is away: answers go on, records wait     error=…
    the store is still away                            away_s=120, error=…
    the store is back                                  away_s=134.2, records_waited=18,204
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from understudy.errors import ConfigurationError, StoreError, StoreLost
from understudy.store import Store

log = structlog.get_logger(__name__)

RETRY_S = 0.5
"""How long to leave a store alone that could not be opened."""
SETTLED_S = 1.0
"""A store is back when a call succeeds and none has failed for so long: one that takes every other call is not."""
REMIND_S = 60.0
"""How often a store that stays away is spoken of; one that comes and goes, no more often than this either."""


class Outage:
    """Says when the store goes, and when it is back.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._since: float | None = None
        self._failed_at = self._waited = 0.0
        self._said_at = -REMIND_S
        self._said = False  # whether this time away was spoken of

    def failed(self, why: str) -> None:
        """A call was not answered."""
        with self._lock:
            now, why = self._clock(), " ".join(why.split())  # drivers write several lines
            if self._since is None:
                self._since, self._said = now, False
            self._failed_at = now
            if now - self._said_at < REMIND_S:
                return
            if self._said:
                log.warning("the store is still away", away_s=round(now - self._since, 1), error=why)
            else:
                log.warning("the store is away: answers go on, records wait", error=why)
            self._said_at, self._said = now, True

    def answered(self) -> None:
        """A call was answered."""
        if self._since is None:  # as it is nearly always: no lock
            return
        with self._lock:
            now = self._clock()
            if self._since is None or now - self._failed_at < SETTLED_S:
                return
            if self._said:
                log.info("the store is back", away_s=round(now - self._since, 1), records_waited=int(self._waited))
            self._since, self._waited = None, 0.0

    def waiting(self, rows: int) -> None:
        """How many records wait on disk."""
        self._waited = max(self._waited, rows)


class ReconnectingStore:
    """Stands before a store: its calls are the store's own, and StoreErrors until it could be opened.

    Args:
        open_store: opens it; called again, from the thread of whoever needs it, until it succeeds.
        may_be_away: whether one that cannot be opened now is waited for; a file that cannot be opened is a mistake.

    Attributes:
        lost: why the database is not the one that was opened any more; None while it is.

    Raises:
        ConfigurationError: when it can never be opened.
        StoreError: when it cannot be opened now, and is not waited for.
    """

    def __init__(self, open_store: Callable[[], Store], *, may_be_away: bool, outage: Outage | None = None) -> None:
        self.outage = outage or Outage()
        self._open_store = open_store
        self._store: Store | None = None
        self._opening = threading.Lock()
        self._closed = threading.Event()
        self._not_before, self._why = 0.0, "it is being opened"
        self.lost: str | None = None
        try:
            self._opened()
        except StoreError as error:
            if not may_be_away:
                raise
            self._failed(error)

    def __getattr__(self, name: str) -> Any:
        """A method of the store; nothing happens before it is called."""

        def call(*args: Any, **keywords: Any) -> Any:
            try:
                found = getattr(self._store or self._opened(), name)(*args, **keywords)
            except StoreError as error:
                if not self._closed.is_set():
                    self._failed(error)
                raise
            self.outage.answered()
            if self.lost is not None:
                self.lost = None
                log.info("the database is the one that was opened again")
            return found

        return call

    def _failed(self, error: StoreError) -> None:
        self.outage.failed(error.detail)
        if isinstance(error, StoreLost):
            if self.lost is None:
                log.error("the database is lost: labels are refused, records wait", reason=error.detail)
            self.lost = error.detail

    def await_plan(self, timeout_s: float) -> bool:
        """See `Store.await_plan`: of a store that is not open nobody hears."""
        if self._store is None:
            self._closed.wait(timeout_s)
            return False
        return self._store.await_plan(timeout_s)

    def close(self) -> None:
        """See `Store.close`."""
        self._closed.set()
        with self._opening:
            if self._store is not None:
                self._store.close()

    def _opened(self) -> Store:
        if not self._opening.acquire(blocking=False):
            raise StoreError(self._why)  # another thread is at it: what waits for it here may be an answer
        try:
            if self._store is None:
                if self._closed.is_set() or time.monotonic() < self._not_before:
                    raise StoreError(self._why)
                self._store = self._try()
            return self._store
        finally:
            self._opening.release()

    def _try(self) -> Store:
        first = self._not_before == 0.0
        try:
            return self._open_store()
        except StoreError as error:
            self._why = error.detail
            raise
        except ConfigurationError as error:
            if first:
                raise
            self._why = error.detail  # a newer version has migrated it meanwhile, for one
            raise StoreError(error.detail) from error
        finally:
            self._not_before = time.monotonic() + RETRY_S
