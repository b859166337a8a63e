"""A controller in a process of its own, which is killed where a test says: over a real SQLite file, with a real SIGKILL."""

import os
import signal
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from sqlalchemy import event

from tests.unit.rollout.world import MODELS, policy
from understudy.rollout.controller import Controller
from understudy.store.sql import SqlStore
from understudy.testing import ManualClock


class Spot(NamedTuple):
    """The `nth` call of one of the store's methods; `inside` is after its statements and before its commit."""

    effect: str
    nth: int
    when: str


class Killer:
    """A store that kills its process at a spot, and counts calls."""

    def __init__(self, store: SqlStore, spot: Spot | None) -> None:
        self._store, self._spot = store, spot
        self._armed = False
        self.calls: Counter[str] = Counter()
        event.listen(store._db._writer, "commit", lambda connection: self._armed and die())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            when = self._spot.when if self._spot and self._spot[:2] == (name, self.calls[name]) else ""
            if when == "before":
                die()
            self._armed = when == "inside"
            result = method(*args, **kwargs)
            self._armed = False
            if when == "after":
                die()
            return result

        return call


def die() -> None:
    """Nothing is cleaned up, as when memory runs out or a node is lost."""
    os.kill(os.getpid(), signal.SIGKILL)


def control(url: str, holder: str, ask: Connection, spot: Spot | None) -> None:
    """Tick whenever a time comes through the pipe, and answer with the calls of the store so far; until None comes."""
    store = SqlStore(url, "r", lambda outcome: {})
    killer, clock = Killer(store, spot), ManualClock()
    controller = Controller(policy(), MODELS, killer, clock, holder)  # type: ignore[arg-type]
    while (now := ask.recv()) is not None:
        clock.time = now
        controller.tick()
        ask.send(dict(killer.calls))
    store.close()
