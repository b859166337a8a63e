"""The requirements of steps besides evidence: load tests in the audit log that tested exactly what is served."""

import threading

import pydantic

from understudy.domain import Event, JsonObject
from understudy.rollout.loadtest import COMMAND, LOADTEST, LaunchGoals, Record, Setup, shortcoming
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep
from understudy.store import EventStore

PAGE = 500


class Requirements:
    """Reads the audit log and knows which requirements are met. Its methods block and are thread-safe.

    Of the load tests with this setup and these goals, the newest valid one (pass or fail) counts. So after a later failure the
    requirement is no longer met.
    """

    def __init__(self, policy: Policy, setup: Setup, store: EventStore) -> None:
        self.setup, self.goals = setup, LaunchGoals.of(policy.goals)
        self.asked = any(LOADTEST in s.require for s in policy.steps if isinstance(s, ShadowStep | CanaryStep))
        self._store, self._lock = store, threading.Lock()
        self._after = 0
        self._last: tuple[int, Record] | None = None  # the newest of all, to explain why it does not count
        self._counts: tuple[int, Record] | None = None

    def met(self) -> dict[str, int]:
        """The requirements that are met → the event that met them."""
        record = self._newest()
        if record is None or shortcoming(record[1], self.setup, self.goals) is not None:
            return {}
        return {LOADTEST: record[0]}

    def missing(self) -> str:
        """Why no load test counts, and what to do; empty if one counts."""
        record = self._newest()
        if record is None:
            return f"no load test has been recorded; run `{COMMAND}`"
        why = shortcoming(record[1], self.setup, self.goals)
        return f"the last load test does not count: {why}; run `{COMMAND}` again" if why else ""

    def last(self) -> JsonObject | None:
        """The record that counts, or else the newest, with the id of its event."""
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
            return  # written by another version of this program
        self._last = (event.id, record)
        same = not self.setup.differences(record.setup) and record.goals == self.goals
        if same and record.verdict != "invalid":
            self._counts = (event.id, record)
