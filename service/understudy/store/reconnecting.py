"""A store that may be unavailable at the start or later: retries until it can be opened, and logs each outage once.

Every call goes through here, so this is where an outage is noticed. Callers count their errors and continue. A process
logs the start and the end of each outage, and a reminder every `REMIND_S`:

::

    the store is unavailable: predictions continue, records wait    error=…
    the store is still unavailable                                  outage_s=120, error=…
    the store is available again                                    outage_s=134.2, records_waited=18204
"""

import threading
import time
from collections.abc import Callable

import structlog
from typing_extensions import override

from understudy.errors import ConfigurationError, StoreError, StoreLost
from understudy.store.forwarding import ForwardingStore, Result
from understudy.store.port import Store

log = structlog.get_logger(__name__)

RETRY_S = 0.5
"""How long to wait between two attempts to open the store."""
SETTLED_S = 1.0
"""An outage has ended when a call succeeds and none has failed for this long, so alternating failures do not end it."""
REMIND_S = 60.0
"""Least time between two log lines about outages, also when the store becomes unavailable again and again."""


class Outage:
    """Logs when the store becomes unavailable and when it is back.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._since: float | None = None
        self._failed_at = self._waited = 0.0
        self._logged_at = -REMIND_S
        self._logged = False  # whether this outage was logged

    def failed(self, why: str) -> None:
        """Note that a call failed."""
        with self._lock:
            now, why = self._clock(), " ".join(why.split())  # drivers write several lines
            if self._since is None:
                self._since, self._logged = now, False
            self._failed_at = now
            if now - self._logged_at < REMIND_S:
                return
            if self._logged:
                log.warning("the store is still unavailable", outage_s=round(now - self._since, 1), error=why)
            else:
                log.warning("the store is unavailable: predictions continue, records wait", error=why)
            self._logged_at, self._logged = now, True

    def succeeded(self) -> None:
        """Note that a call succeeded."""
        if self._since is None:  # the usual case takes no lock
            return
        with self._lock:
            now = self._clock()
            if self._since is None or now - self._failed_at < SETTLED_S:
                return
            if self._logged:
                seconds = round(now - self._since, 1)
                log.info("the store is available again", outage_s=seconds, records_waited=int(self._waited))
            self._since, self._waited = None, 0.0

    def waiting(self, rows: int) -> None:
        """Note how many records wait on disk."""
        self._waited = max(self._waited, rows)


class ReconnectingStore(ForwardingStore):
    """Opens a store when it can. Until then every call raises StoreError.

    Args:
        open_store: opens the store. It is called again, by the thread that makes a call, until it succeeds.
        may_be_away: whether to retry if the store cannot be opened now; otherwise that is an error.

    Attributes:
        outage: logs outages.
        lost: why the database is no longer the one that was opened; None while it is.

    Raises:
        ConfigurationError: the store can never be opened.
        StoreError: the store cannot be opened now, and `may_be_away` is False.
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

    @override
    def _forward(self, call: Callable[[Store], Result]) -> Result:
        try:
            result = call(self._store or self._opened())
        except StoreError as error:
            if not self._closed.is_set():
                self._failed(error)
            raise
        self.outage.succeeded()
        if self.lost is not None:
            self.lost = None
            log.info("the database is the one that was opened at the start again")
        return result

    def _failed(self, error: StoreError) -> None:
        self.outage.failed(error.detail)
        if isinstance(error, StoreLost):
            if self.lost is None:
                log.error("the database is lost: labels are rejected, records wait", reason=error.detail)
            self.lost = error.detail

    @override
    def await_plan(self, timeout_s: float) -> bool:
        """A store that is not open sends no notifications, so this waits for the timeout."""
        if self._store is None:
            self._closed.wait(timeout_s)
            return False
        return self._store.await_plan(timeout_s)

    @override
    def close(self) -> None:
        self._closed.set()
        with self._opening:
            if self._store is not None:
                self._store.close()

    def _opened(self) -> Store:
        if not self._opening.acquire(blocking=False):
            raise StoreError(self._why)  # another thread is opening it: a request may be waiting for this one
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
            self._why = error.detail  # for example, a newer version has migrated the database meanwhile
            raise StoreError(error.detail) from error
        finally:
            self._not_before = time.monotonic() + RETRY_S
