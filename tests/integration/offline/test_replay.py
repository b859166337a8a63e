"""History is sent in its order, labels when they became known and not before, and the two sets of figures are compared."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.waiting import eventually
from understudy.domain import Variant
from understudy.offline.client import CallFailed
from understudy.offline.replay import (
    LABEL_TRIES,
    LABELS_PER_POST,
    Replay,
    ReplaySummary,
)
from understudy.testing import card


@dataclass(frozen=True)
class Past:
    """A moment of history."""

    row: dict[str, Any]
    scheduled_at: float
    label: Any = 1
    label_at: float | None = None


@dataclass
class Service:
    """A stub of the service: what it was sent, in order.

    Attributes:
        log: ("predict", row number, its time, when it came) and ("feedback", [(row number, label, its time)], moments fed).
        odd: what to answer to a row number instead of a prediction.
        refusals: what to answer to the next posts of labels instead of counts.
        posts: posts of labels that came; hold: what each of them waits for.
    """

    url: str = ""
    log: list[tuple[Any, ...]] = field(default_factory=list)
    odd: dict[int, Any] = field(default_factory=dict)
    refusals: list[Any] = field(default_factory=list)
    posts: int = 0
    hold: asyncio.Event | None = None
    fed: int = 0
    headers: list[Mapping[str, str]] = field(default_factory=list)

    async def predict(self, request: web.Request) -> web.StreamResponse:
        (row,) = (await request.json())["rows"]
        self.headers.append(request.headers)
        self.log.append(("predict", row["i"], float(request.headers["X-Rollout-At"]), time.perf_counter()))
        odd = self.odd.get(row["i"])
        if odd is not None:
            return await odd(request) if callable(odd) else web.json_response(odd[1], status=odd[0])
        variant = "candidate" if row["i"] % 4 == 0 else "primary"
        body = {"variant": variant, "fallback": row["i"] == 5, "predictions": [{"prediction_id": f"p-{row['i']}"}]}
        return web.json_response(body)

    async def feedback(self, request: web.Request) -> web.StreamResponse:
        labels = (await request.json())["labels"]
        self.posts += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.refusals:
            odd = self.refusals.pop()
            return await odd(request) if callable(odd) else web.json_response(odd[1], status=odd[0])
        self.log.append(("feedback", [(int(x["prediction_id"][2:]), x["label"], x["at"]) for x in labels], self.fed))
        return web.json_response({"matched": len(labels), "pending": 0})

    def feed(self, moments: list[Past]) -> Iterator[Past]:
        """The moments one by one, counted as they are taken."""
        for moment in moments:
            self.fed += 1
            yield moment

    @property
    def labels(self) -> list[tuple[int, Any, float]]:
        return [label for entry in self.log if entry[0] == "feedback" for label in entry[1]]

    @property
    def predicted(self) -> list[int]:
        return [entry[1] for entry in self.log if entry[0] == "predict"]


@asynccontextmanager
async def serving() -> AsyncIterator[Service]:
    service = Service()
    app = web.Application()
    app.add_routes([web.post("/predict", service.predict), web.post("/feedback", service.feedback)])
    async with TestServer(app) as server:
        service.url = str(server.make_url("/"))
        yield service


def run(job: Callable[[Service], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), serving() as service:
            await job(service)

    asyncio.run(main())


def past(count: int, *, apart: float, later: Callable[[int], float | None]) -> list[Past]:
    """Moments `apart` seconds from each other, each label known `later(i)` seconds after its moment."""
    return [
        Past({"i": i}, 1e9 + i * apart, i % 2, None if (delay := later(i)) is None else 1e9 + i * apart + delay)
        for i in range(count)
    ]


def test_a_label_is_posted_once_its_time_has_come_and_before_the_next_moment() -> None:
    """Forty moments a quarter of an hour apart, labels minutes to hours later, some never."""
    moments = past(40, apart=1000, later=lambda i: None if i % 7 == 3 else [0, 500, 3000, 20_000, 9e9][i % 5])

    async def job(service: Service) -> None:
        summary = await Replay(service.url, connections=1).run(service.feed(moments))
        assert service.predicted == list(range(40))
        assert sorted(service.labels) == [(i, m.label, m.label_at) for i, m in enumerate(moments) if m.label_at]
        assert summary.labels == {"matched": len(service.labels), "pending": 0}

        sent = 0
        posted: set[int] = set()
        for entry in service.log:
            if entry[0] == "feedback":
                over = service.fed == entry[2] and sent == 40  # after the last moment everything that is left is posted
                now = moments[entry[2] - 1].scheduled_at
                assert over or all(at <= now for _, _, at in entry[1])
                posted |= {i for i, _, _ in entry[1]}
                continue
            number, at = entry[1], entry[2]
            sent += 1
            # One request may be under way and one queued: labels of the moments before those are known to the replay.
            known = {
                i for i, m in enumerate(moments[: max(0, number - 2)]) if m.label_at is not None and m.label_at <= at
            }
            assert known <= posted

    run(job)


def test_labels_are_posted_in_batches_and_not_one_by_one() -> None:
    """Five hundred moments within nine minutes, each label known a second later."""
    moments = past(500, apart=1, later=lambda i: 1)

    async def job(service: Service) -> None:
        await Replay(service.url).run(service.feed(moments))
        posts = [entry for entry in service.log if entry[0] == "feedback"]
        assert len(service.labels) == 500
        assert 500 / 1000 <= len(posts) <= 500 / 10  # answers that come while a batch is on its way make small ones
        assert max(len(entry[1]) for entry in posts) >= LABELS_PER_POST

    run(job)


def test_every_request_says_when_it_happened_and_who_sends_it() -> None:
    """To the last bit of the float; with the token."""
    moments = [Past({"i": 0}, 1372636800.123456), Past({"i": 1}, 1372636800.1234562)]

    async def job(service: Service) -> None:
        await Replay(service.url, token="secret", connections=1).run(moments)
        assert [entry[2] for entry in service.log] == [m.scheduled_at for m in moments]
        assert {h["Authorization"] for h in service.headers} == {"Bearer secret"}
        assert {h["Content-Type"] for h in service.headers} == {"application/json"}

    run(job)


def test_the_rate_is_kept() -> None:
    """No request earlier than its turn, and the whole takes as long as it should."""

    async def job(service: Service) -> None:
        begun = time.perf_counter()
        summary = await Replay(service.url, rate=100).run(past(31, apart=1, later=lambda i: None))
        arrivals = [entry[3] - begun for entry in service.log]
        assert all(at >= i / 100 for i, at in enumerate(sorted(arrivals)))
        assert 0.3 <= summary.seconds < 5

    run(job)


def test_what_was_answered_by_whom_is_counted() -> None:
    """Variants, fallbacks, latencies, and progress after every answer."""
    seen: list[tuple[int, float]] = []

    async def job(service: Service) -> None:
        moments = past(8, apart=10, later=lambda i: None)
        replay = Replay(service.url, connections=1, progress=lambda s, at: seen.append((s.sent, at)))
        summary = await replay.run(moments)
        assert (summary.sent, summary.failed, summary.fallbacks) == (8, 0, 1)
        assert summary.answered == {"candidate": 2, "primary": 6}
        assert len(summary.latencies) == 8
        assert summary.quantile_ms(0.5) is not None
        assert seen == [(i + 1, m.scheduled_at) for i, m in enumerate(moments)]
        assert not summary.interrupted

    run(job)


def test_a_request_that_fails_is_counted_by_its_reason_and_its_label_is_not_sent() -> None:
    """A problem, something that is none, and a connection that breaks; the rest goes on."""

    async def job(service: Service) -> None:
        service.odd = {
            1: (503, {"detail": "not ready"}),
            2: (503, {"detail": "not ready"}),
            3: (502, "bad"),
            4: hang_up,
        }
        summary = await Replay(service.url, connections=2).run(past(10, apart=1000, later=lambda i: 1))
        assert (summary.sent, summary.failed) == (10, 4)
        assert summary.errors.pop("503: not ready") == 2
        assert summary.errors.pop('502: "bad"') == 1
        ((broken, count),) = summary.errors.items()
        assert broken.startswith("ServerDisconnectedError")
        assert count == 1
        assert sorted(i for i, _, _ in service.labels) == [0, 5, 6, 7, 8, 9]
        assert len(summary.latencies) == 6

    run(job)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.offline.replay.LABEL_RETRY_S", 0.001)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


REFUSALS = [(503, {"detail": "the store is away"}), (500, "odd"), (429, {"detail": "later"}), (200, "odd"), hang_up]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("odd", REFUSALS, ids=["503", "500", "429", "no counts", "hung up"])
def test_labels_are_posted_again_where_that_may_help(odd: Any) -> None:
    """To report a label twice does no harm, and a month of figures without some of its labels would be wrong."""

    async def job(service: Service) -> None:
        service.refusals = [odd] * (LABEL_TRIES - 1)
        summary = await Replay(service.url, connections=2).run(past(10, apart=1000, later=lambda i: 1))
        assert {i for i, _, _ in service.labels} == set(range(10))
        assert summary.labels["matched"] == 10
        assert service.refusals == []

    run(job)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("odd", "says", "tries"),
    [
        ((503, {"detail": "the store is away"}), "503 the store is away", LABEL_TRIES),
        ((422, {"detail": "no such class"}), "422 no such class", 1),
        (hang_up, "ServerDisconnectedError", LABEL_TRIES),
        ((200, "odd"), "ValidationError", LABEL_TRIES),
    ],
)
@pytest.mark.parametrize("when", ["on the way", "at the end"])
def test_labels_that_are_refused_end_the_replay_with_the_reason(odd: Any, says: str, tries: int, when: str) -> None:
    """Figures without labels would be figures of something else. Nothing is left running."""

    async def job(service: Service) -> None:
        before = asyncio.all_tasks()
        service.refusals = [odd] * 1000
        moments = past(10, apart=1000, later=lambda i: 1 if when == "on the way" else 1e9)
        with pytest.raises(CallFailed, match=f"POST /feedback: {says}"):
            await Replay(service.url, connections=2).run(moments)
        assert service.posts == tries
        assert not [task for task in asyncio.all_tasks() - before if "Replay" in repr(task)]

    run(job)


def test_a_sender_outlives_whatever_it_meets() -> None:
    """Answers that are none, and a progress bar that breaks: each is counted, and nobody waits for a sender that is gone."""

    def progress(summary: ReplaySummary, at: float) -> None:
        if at == 1e9 + 7000:
            raise ZeroDivisionError("bar")

    async def job(service: Service) -> None:
        service.odd = dict.fromkeys(range(6), (200, "odd")) | {6: (200, {"variant": "primary"})}
        replay = Replay(service.url, connections=2, progress=progress)
        summary = await replay.run(past(10, apart=1000, later=lambda i: 1))
        assert (summary.sent, summary.failed) == (10, 8)
        assert summary.errors["KeyError: 'fallback'"] == 1
        assert summary.errors["ZeroDivisionError: bar"] == 1
        assert sum(summary.answered.values()) == 3
        assert sorted(i for i, _, _ in service.labels) == [7, 8, 9]

    run(job)


def test_a_source_that_breaks_ends_the_replay() -> None:
    """With its own error, and with no task left behind."""

    def moments() -> Iterator[Past]:
        yield from past(5, apart=10, later=lambda i: 1)
        raise RuntimeError("the file ends here")

    async def job(service: Service) -> None:
        before = asyncio.all_tasks()
        with pytest.raises(RuntimeError, match="the file ends here"):
            await Replay(service.url, connections=2).run(moments())
        assert not [task for task in asyncio.all_tasks() - before if "Replay" in repr(task)]

    run(job)


def test_an_interrupted_replay_finishes_what_it_has_begun() -> None:
    """What was sent is answered and counted; labels that are not due are left."""

    async def job(service: Service) -> None:
        replay = Replay(service.url, rate=50, connections=2)
        task = asyncio.create_task(replay.run(past(1000, apart=1, later=lambda i: 1e6)))
        await eventually(lambda: len(service.predicted) >= 5)
        task.cancel()
        summary = await task
        assert summary.interrupted
        assert summary.sent == len(service.predicted) == len(summary.latencies) < 1000
        assert summary.failed == 0
        assert not service.labels

    run(job)


def test_an_interrupted_replay_posts_the_labels_that_are_due() -> None:
    """Those that were known by the last moment that was sent; the later ones never."""

    async def job(service: Service) -> None:
        moments = past(1000, apart=1, later=lambda i: 1 if i < 3 else 1e6)
        task = asyncio.create_task(Replay(service.url, rate=50, connections=2).run(moments))
        await eventually(lambda: len(service.predicted) >= 10)
        task.cancel()
        summary = await task
        assert summary.interrupted
        assert sorted(i for i, _, _ in service.labels) == [0, 1, 2]
        assert summary.labels["matched"] == 3

    run(job)


@pytest.mark.parametrize("when", ["on the way", "at the end"])
def test_an_interruption_while_labels_are_posted_loses_none(when: str) -> None:
    """They are posted again, perhaps, and never forgotten."""

    async def job(service: Service) -> None:
        service.hold = asyncio.Event()
        moments = past(20, apart=1000, later=lambda i: 1 if when == "on the way" else 1e6)
        task = asyncio.create_task(Replay(service.url, connections=1).run(moments))
        await eventually(lambda: service.posts)
        task.cancel()
        await asyncio.sleep(0.01)
        service.hold.set()
        summary = await task
        assert summary.interrupted
        due = service.predicted[:-1] if when == "on the way" else range(20)
        assert set(due) <= {i for i, _, _ in service.labels}
        assert summary.labels["matched"] >= len(due)

    run(job)


def test_a_second_interruption_ends_at_once() -> None:
    """For whoever does not want to wait for a service that no longer answers."""

    async def job(service: Service) -> None:
        before = asyncio.all_tasks()
        service.hold = asyncio.Event()
        task = asyncio.create_task(Replay(service.url, connections=1).run(past(20, apart=1000, later=lambda i: 1)))
        await eventually(lambda: service.posts)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not [task for task in asyncio.all_tasks() - before if "Replay" in repr(task)]
        service.hold.set()

    run(job)


CARD = card()


def test_the_stub_speaks_as_the_service_does() -> None:
    """A replay against a stub of another form would prove nothing: the keys it reads are in the published document."""
    from understudy.api import openapi
    from understudy.loading import fields_of
    from understudy.rollout.policy import parse

    policy = parse("model: m\ntask: binary-classification\nprimary: a\n")
    schemas = openapi.document({}, policy, fields_of(CARD, None), {Variant.PRIMARY: CARD})["components"]["schemas"]
    assert {"variant", "fallback", "predictions"} <= set(schemas["PredictResponse"]["required"])
    assert json.dumps(schemas["PredictResponse"]).count("prediction_id") >= 1
    assert {"matched", "pending"} <= set(schemas["FeedbackResponse"]["required"])
