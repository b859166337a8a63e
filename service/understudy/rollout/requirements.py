"""What a step requires besides evidence, as the audit log has it: load tests that were taken of exactly what is served."""

import threading
from typing import Any

import pydantic

from understudy.domain import Event
from understudy.rollout.loadtest import COMMAND, LOADTEST, LaunchGoals, Record, Setup, shortcoming
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep
from understudy.store import EventStore

PAGE = 500


class Requirements:
    """Follows the audit log and knows which requirements are met. Its methods block, and are safe from several threads.

    Of the load tests that were taken of this very setup and these goals, the newest that says anything (pass or fail) counts:
    a later failure closes the gate again.
    """

    def __init__(self, policy: Policy, setup: Setup, store: EventStore) -> None:
        self.setup, self.goals = setup, LaunchGoals.of(policy.goals)
        self.asked = any(LOADTEST in s.require for s in policy.steps if isinstance(s, ShadowStep | CanaryStep))
        self._store, self._lock = store, threading.Lock()
        self._after = 0
        self._last: tuple[int, Record] | None = None  # the newest of all, for saying what is wrong with it
        self._counts: tuple[int, Record] | None = None

    def met(self) -> dict[str, int]:
        """The requirements that are met, each with the event that meets it."""
        record = self._newest()
        if record is None or shortcoming(record[1], self.setup, self.goals) is not None:
            return {}
        return {LOADTEST: record[0]}

    def missing(self) -> str:
        """Why there is no load test that counts, and what makes one; empty when there is."""
        record = self._newest()
        if record is None:
            return f"no load test has been recorded; `{COMMAND}` makes one"
        why = shortcoming(record[1], self.setup, self.goals)
        return f"the last load test does not count: {why}; `{COMMAND}` makes another" if why else ""

    def last(self) -> dict[str, Any] | None:
        """The record that counts, or else the newest, with its event's id."""
        record = self._newest()
        return None if record is None else {"event": record[0], "record": record[1].model_dump(mode="json")}

    def _newest(self) -> tuple[int, Record] | None:
        with self._lock:
            while page := self._store.events(after=self._after, limit=PAGE):
                for event in page:
                    self._read(event)
                self._after = page[-1].id
            return self._counts or self._last

    def _read(self, event: Event) -> None:
        if event.kind != LOADTEST:
            return
        try:
            record = Record.model_validate(dict(event.details))
        except pydantic.ValidationError:
            return  # one of another version of this program
        self._last = (event.id, record)
        same = not self.setup.differences(record.setup) and record.goals == self.goals
        if same and record.verdict != "invalid":
            self._counts = (event.id, record)
