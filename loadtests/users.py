"""Locust users that behave like the real callers: flights from the data, one row mostly, labels some time later.

    locust -f loadtests/users.py --host http://127.0.0.1:3000 --headless -u 20 -r 20 -t 30s

The rows are a seeded sample of a month of flights (`UNDERSTUDY_LOAD_MONTH`, 7 if unset), so that two runs send the same traffic.
"""

import collections
import os
import random

from locust import FastHttpUser, between, events, task

from models.data import Flight, replay_rows

SEED = 2013
SAMPLE = 5_000
BATCH_ROWS = (1, 1, 1, 1, 1, 1, 1, 1, 10, 100)
"""Most requests carry one row; one in ten carries a few, one in ten many."""

_flights: list[Flight] = []


@events.test_start.add_listener
def load_flights(**_: object) -> None:
    """Read the month once, before the first user starts."""
    if not _flights:
        month = int(os.environ.get("UNDERSTUDY_LOAD_MONTH", "7"))
        rows = replay_rows(month)
        _flights.extend(random.Random(SEED).sample(rows, min(SAMPLE, len(rows))))


class Caller(FastHttpUser):
    """Asks for predictions, and reports what happened to some of them."""

    wait_time = between(0.0, 0.01)

    def on_start(self) -> None:
        """Every user has its own seeded choice of flights."""
        self.random = random.Random(
            f"{SEED}-{id(type(self))}-{self.environment.runner.user_count if self.environment.runner else 0}"
        )
        self.known: collections.deque[tuple[str, int]] = collections.deque(maxlen=1_000)

    @task(10)
    def predict(self) -> None:
        """One request of the real mix of sizes."""
        flights = self.random.choices(_flights, k=self.random.choice(BATCH_ROWS))
        name = f"/predict ({len(flights)} rows)"
        with self.client.post(
            "/predict", json={"rows": [f.row for f in flights]}, name=name, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
                return
            answered = response.json()["predictions"]
            if len(answered) != len(flights):
                response.failure(f"{len(answered)} predictions for {len(flights)} rows")
                return
        for flight, prediction in zip(flights, answered, strict=True):
            if flight.label is not None:
                self.known.append((prediction["prediction_id"], flight.label))

    @task(1)
    def feedback(self) -> None:
        """Labels for predictions made earlier, some of them twice."""
        if not self.known:
            return
        chosen = self.random.sample(list(self.known), min(20, len(self.known)))
        body = {"labels": [{"prediction_id": name, "label": label} for name, label in chosen]}
        with self.client.post("/feedback", json=body, catch_response=True) as response:
            if response.status_code != 200 or response.json()["conflict"]:
                response.failure(f"{response.status_code}: {response.text[:200]}")
