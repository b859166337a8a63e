"""A closed loop, as most load tests are: each user waits for its answer. For comparison, never for a verdict.

    locust -f loadtests/closed.py --host http://127.0.0.1:3000 --headless -u 1 -t 10s

A service that stands still for a moment is not asked meanwhile, so its percentiles here look better than any caller would say.
"""

import os

from locust import FastHttpUser, constant, events, task

from understudy.loadtest.traffic import MIX, Traffic, history, mix_of
from understudy.offline.sources import FLIGHTS

SEED = 2013


@events.init_command_line_parser.add_listener
def options(parser: object) -> None:
    """Rows a request, as for the open loop."""
    parser.add_argument("--mix", default=MIX, help="rows a request, with weights")  # type: ignore[attr-defined]


class Caller(FastHttpUser):
    """Asks for predictions, one after the other."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """The same rows as the open loop."""
        mix = mix_of(self.environment.parsed_options.mix)
        self.traffic = Traffic(
            history(FLIGHTS, 7, SEED), mix, self.host, seed=SEED, token=os.environ.get("UNDERSTUDY_TOKEN")
        )

    @task
    def predict(self) -> None:
        """One request of the mix."""
        call = self.traffic.predict()
        body = call.data.partition(b"\r\n\r\n")[2]
        headers = {"Content-Type": "application/json", "X-Rollout-Variant": "any"}
        with self.client.post("/predict", data=body, headers=headers, catch_response=True) as response:
            wrong = self.traffic.read(call, response.status_code, response.content or b"").wrong
            if wrong:
                response.failure(wrong)
