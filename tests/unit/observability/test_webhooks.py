"""Events go out signed, in order, again until they are taken, and never past a cursor that somebody else holds."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import prometheus_client
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks.webhooks import Webhook

from understudy.domain import Event
from understudy.errors import ConfigurationError
from understudy.observability.metrics import Metrics, parse
from understudy.observability.webhooks import (
    WAITING_MAX,
    Cursor,
    Webhooks,
    cloud_event,
    read_secrets,
    read_urls,
    receiver,
    signatures,
)
from understudy.settings import Settings
from understudy.store.memory import MemoryStore
from understudy.testing import ManualClock

URL = "https://hooks.example/path?token=hidden"
SECRET = bytes(range(32))
WORD = "whsec_" + base64.b64encode(SECRET).decode()


class Harness:
    """Webhooks over a store in memory and a receiver that answers as it is told."""

    def __init__(self, *answers: Any, store: MemoryStore | None = None, holder: str = "me", **settings: Any) -> None:
        self.clock = ManualClock()
        self.store = store or MemoryStore("r1", lambda outcome: {})
        self.answers, self.got = list(answers), list[httpx.Request]()
        self.registry = prometheus_client.CollectorRegistry()
        self.hooks = Webhooks(
            [URL],
            [SECRET],
            self.store,
            Metrics(self.registry),
            self.clock,
            Settings(**settings),
            model="m",
            rollout="r1",
            holder=holder,
        )
        self.hooks._http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.got.append(request)
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(answer)

    def happen(self, *kinds: str) -> None:
        for kind in kinds:
            self.store.append_event(Event(1_372_636_800.25, kind, "judge", "because", 1, {"weight": 5.0}))

    def step(self) -> bool:
        return asyncio.run(self.hooks.step(URL))

    def cursor(self) -> Cursor:
        (state,) = (self.store.load_state(name) for name in self.store._states if name.startswith("webhook/"))
        return Cursor(**state) if state else Cursor()

    def metric(self, result: str) -> float:
        text = prometheus_client.generate_latest(self.registry).decode()
        labels = {"receiver": "hooks.example", "result": result}
        return sum(v for n, have, v in parse(text) if n == "understudy_webhooks_total" and have == labels)

    def ids(self) -> list[str]:
        return [json.loads(request.content)["id"] for request in self.got]


def test_a_message_is_a_cloud_event_that_is_signed() -> None:
    """As the libraries of both specifications read and verify them."""
    harness = Harness()
    harness.hooks._clock = _Now()
    harness.happen("rollback")
    assert harness.step()
    (request,) = harness.got
    event = from_http_event(HTTPMessage(dict(request.headers), request.content), JSONFormat())

    assert request.headers["content-type"].startswith("application/cloudevents+json")
    assert (event.get_specversion(), event.get_id(), event.get_type()) == ("1.0", "r1-1", "understudy.rollout.rollback")
    assert (event.get_source(), event.get_subject()) == ("/understudy/m", "r1")
    assert event.get_time().isoformat() == "2013-07-01T00:00:00.250000+00:00"
    assert event.get_data() == {
        "model": "m",
        "kind": "rollback",
        "actor": "judge",
        "reason": "because",
        "revision": 1,
        "details": {"weight": 5.0},
    }
    assert Webhook(WORD).verify(request.content, dict(request.headers))["id"] == request.headers["webhook-id"] == "r1-1"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(WORD).verify(request.content + b" ", dict(request.headers))


class _Now(ManualClock):
    def now(self) -> float:
        import time

        return time.time()


def test_a_drift_alarm_has_a_type_of_its_own() -> None:
    """A pipeline that retrains listens to these."""
    for alarm in ("on", "off"):
        event = Event(0.0, "drift", "drift", "temp is unlike training", 1, {"alarm": alarm, "feature": "temp"})
        assert cloud_event(event, "m", "r")["type"] == f"understudy.drift.{alarm}"


def test_two_secrets_are_two_signatures() -> None:
    """The receiver's old secret is good until it has the new one."""
    both = signatures([SECRET, SECRET[::-1]], "id", 5, b"{}")

    assert both.split(" ") == [signatures([SECRET], "id", 5, b"{}"), signatures([SECRET[::-1]], "id", 5, b"{}")]


def test_events_go_in_order_and_each_until_it_is_taken() -> None:
    """Two failures, then accepted; the next one waits for it; nothing is left then."""
    harness = Harness(500, httpx.ConnectError("refused"), 204, 204)
    harness.happen("started", "advance")
    waits = []
    while len(harness.got) < 4:
        if not harness.step():
            harness.clock.advance(0.25)
            waits.append(harness.clock.now())

    assert harness.ids() == ["r1-1", "r1-1", "r1-1", "r1-2"]
    assert 0.75 + 1.5 <= len(waits) * 0.25 <= 1.25 + 2.5 + 0.5  # one second, then two, each give or take a quarter
    assert harness.cursor() == Cursor(after=2)
    assert not harness.step()
    assert (harness.metric("delivered"), harness.metric("failed"), harness.metric("given_up")) == (2, 2, 0)


def test_a_restart_forgets_neither_the_cursor_nor_the_wait() -> None:
    """What another process sees is what the store has."""
    one = Harness(204, 503)
    one.happen("started", "advance")
    assert one.step()
    assert one.step()
    two = Harness(204, store=one.store)
    two.clock.advance(0.5)
    assert not two.step()  # too early
    two.clock.advance(1.0)
    assert two.step()
    assert two.ids() == ["r1-2"]


def test_only_the_leader_sends() -> None:
    """And a cursor is not moved by whoever lost the lease meanwhile: the next leader sends again."""
    one = Harness()
    one.happen("started")
    assert one.store.lead("other", ttl_s=5, now=one.clock.now())
    assert not one.step()
    assert one.got == []
    one.clock.advance(6)
    one.answers = [_Steals(one)]
    assert not one.step()
    two = Harness(store=one.store, holder="other")
    two.clock.advance(6)
    assert two.step()
    assert two.ids() == one.ids() == ["r1-1"]


class _Steals(httpx.Response):
    """While the receiver thinks, the lease goes to somebody else."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(204)
        self._house = harness

    @property
    def is_success(self) -> bool:
        assert self._house.store.lead("other", ttl_s=60, now=self._house.clock.now() + 60)
        return True


def test_patience_has_a_limit_and_what_is_given_up_is_counted() -> None:
    """An event that is refused for days does not hold the others back for ever."""
    harness = Harness(*[500] * 500, webhook_give_up_days=1 / 24, webhook_retry_max_s=600)
    harness.happen("started", "advance")
    for _ in range(200):
        harness.clock.advance(60)
        harness.step()
        if harness.cursor().after:
            break

    assert harness.cursor().after == 1
    assert harness.metric("given_up") == 1
    assert set(harness.ids()) == {"r1-1"}


@pytest.mark.parametrize(
    ("said", "least", "most"), [("7", 7, 7), ("100000", 60 * 1.25, 60 * 1.25), ("soon", 0.75, 1.25)]
)
def test_a_receiver_may_ask_for_time(said: str, least: float, most: float) -> None:
    """`Retry-After`, as far as the longest wait."""
    harness = Harness(httpx.Response(429, headers={"Retry-After": said}), webhook_retry_max_s=60)
    harness.happen("started")
    harness.step()

    assert least <= harness.cursor().not_before - harness.clock.now() <= most


def test_what_waits_is_bounded() -> None:
    """However long the log, so much of it is looked at."""
    harness = Harness()
    harness.happen(*["weight"] * (WAITING_MAX + 50))

    assert len(harness.hooks._look(URL)[1]) == WAITING_MAX


def test_logs_and_metrics_show_no_more_of_a_url_than_its_host() -> None:
    """Paths, queries and passwords of webhooks are secrets."""
    assert receiver("https://user:pass@hooks.example:8443/T000/secret?x=1") == "hooks.example:8443"


def fails(job: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        job()


def test_settings_that_do_not_fit_are_said_at_the_start(tmp_path: Path) -> None:
    """Which line, and what it must be."""
    file = tmp_path / "secret"
    fails(lambda: read_secrets(None), "UNDERSTUDY_WEBHOOK_SECRET_FILE")
    fails(lambda: read_secrets(file), "cannot be read")
    for text in ("", "# nothing\n"):
        file.write_text(text)
        fails(lambda: read_secrets(file), "has no secret")
    for text in ("secret", "whsec_c2hvcnQ=", "whsec_!!", WORD.removeprefix("whsec_")):
        file.write_text(f"# ours\n{text}\n")
        fails(lambda: read_secrets(file), "line 2")
    file.write_text(f"# new\n{WORD}\n\n{WORD}\n")
    assert read_secrets(file) == [SECRET, SECRET]
    fails(lambda: read_urls("https://a.example ftp://b.example"), "ftp://b.example")
    fails(lambda: read_urls("hooks.example"), "not an http")
    fails(lambda: read_urls(" ".join(f"http://h/{i}" for i in range(11))), "the limit is 10")
    assert read_urls(" https://a.example\nhttps://a.example http://127.0.0.1:1/x ") == [
        "https://a.example",
        "http://127.0.0.1:1/x",
    ]
