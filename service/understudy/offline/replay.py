"""Replays history: sends requests in their original order, and each label after it became known, on a fast clock.

Each request carries its own time (`X-Rollout-At`), so that delays, waits and windows are those of the history, however fast it is
sent. It also names the replay (`X-Rollout-Replay`), which separates its time from live callers and other replays. Before a
request is sent, every label that was known by then has been posted. At the end the service's counters are read from its store
and from its Prometheus metrics, and must agree.
"""

import asyncio
import heapq
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import aiohttp
import msgspec

from understudy.domain import Label, Variant
from understudy.observability.metrics import LATENCY_BUCKETS, parse
from understudy.offline.client import CallFailed
from understudy.offline.client import headers as headers_of
from understudy.offline.sources import Moment

LABELS_PER_POST = 200
"""Labels are posted in groups of this size, or after `LABEL_STEP_S` of replayed time."""
LABEL_STEP_S = 900.0
LABEL_TRIES = 4
"""Number of tries to post labels, with `LABEL_RETRY_S` before the second try and twice as long before each next one."""
LABEL_RETRY_S = 0.2
STILL_LOOKS = 3
_AGAIN = frozenset({408, 429})

DueLabel: TypeAlias = tuple[float, str, Label | None]
"""Time at which a label became known, prediction id, label."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass
class ReplaySummary:
    """What the replay sent and received."""

    sent: int = 0
    failed: int = 0
    fallbacks: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False

    def quantile_ms(self, quantile: float) -> float | None:
        """A quantile of the latencies as the client measured them."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1)] * 1000


class Replay:
    """Sends moments to a service.

    Args:
        url: base URL of the service.
        token: for a service that requires one.
        rate: requests per second; None: as fast as `connections` allow.
        connections: number of connections.
        progress: called after each request with the summary so far and the request's time.
        name: name of the replay, random by default.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        rate: float | None = None,
        connections: int = 16,
        progress: Callable[[ReplaySummary, float], None] = lambda summary, at: None,
        name: str | None = None,
    ) -> None:
        self._url, self._headers, self._rate, self._connections = url.rstrip("/"), headers_of(token), rate, connections
        self._progress, self._name = progress, name or secrets.token_hex(6)
        self.summary = ReplaySummary()
        self._due: list[DueLabel] = []
        self._now = -math.inf

    async def run(self, moments: Iterable[Moment]) -> ReplaySummary:
        """Send everything. A first cancellation finishes requests under way and posts the labels that are due; a second does not.

        Raises:
            CallFailed: if labels could not be posted after all tries.
        """
        started = time.perf_counter()
        # aiohttp sends several times as many requests per second as httpx, and the client is the bottleneck here.
        async with aiohttp.ClientSession(
            self._url,
            headers=self._headers | {"Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=self._connections + 2),
            timeout=aiohttp.ClientTimeout(total=30),
        ) as http:
            queue: asyncio.Queue[Moment | None] = asyncio.Queue(maxsize=self._connections)
            feeding = asyncio.create_task(self._feed(http, queue, moments, started))
            whole = asyncio.create_task(self._whole(http, queue, feeding))
            try:
                await asyncio.shield(whole)
            except asyncio.CancelledError:
                self.summary.interrupted = True
                feeding.cancel()
                await whole
        self.summary.seconds = time.perf_counter() - started
        return self.summary

    async def _whole(
        self, http: aiohttp.ClientSession, queue: "asyncio.Queue[Moment | None]", feeding: "asyncio.Task[None]"
    ) -> None:
        """Wait for the feeder, then for the senders, then post the labels. Leaves no task behind."""
        senders = [asyncio.create_task(self._send_all(http, queue)) for _ in range(self._connections)]
        try:
            await asyncio.wait([feeding])
            if not feeding.cancelled():
                feeding.result()
            for _ in senders:
                await queue.put(None)
            await asyncio.gather(*senders)
            await self._post_labels(http, self._now if feeding.cancelled() else math.inf)
        finally:
            for task in (feeding, *senders):
                task.cancel()
            await asyncio.gather(feeding, *senders, return_exceptions=True)

    async def _feed(
        self,
        http: aiohttp.ClientSession,
        queue: "asyncio.Queue[Moment | None]",
        moments: Iterable[Moment],
        started: float,
    ) -> None:
        posted_until = -math.inf
        for number, moment in enumerate(moments):
            if self._rate:
                ahead = started + number / self._rate - time.perf_counter()
                if ahead > 0:
                    await asyncio.sleep(ahead)
            at = moment.scheduled_at
            if self._due and (
                at - posted_until >= LABEL_STEP_S or (len(self._due) >= LABELS_PER_POST and self._due[0][0] <= at)
            ):
                await self._post_labels(http, at)
                posted_until = at
            await queue.put(moment)
            self._now = at

    async def _send_all(self, http: aiohttp.ClientSession, queue: "asyncio.Queue[Moment | None]") -> None:
        while (moment := await queue.get()) is not None:
            try:
                await self._send(http, moment)
            except Exception as error:  # noqa: BLE001 - if a sender died, the feeder would wait forever
                self._failed(f"{type(error).__name__}: {error}")

    async def _send(self, http: aiohttp.ClientSession, moment: Moment) -> None:
        summary = self.summary
        begun = time.perf_counter()
        summary.sent += 1
        data = _encode({"rows": [moment.row]})
        headers = {"X-Rollout-At": repr(moment.scheduled_at), "X-Rollout-Replay": self._name}
        async with http.post("/predict", data=data, headers=headers) as response:
            answer = await response.read()
        seconds = time.perf_counter() - begun
        if response.status >= 400:
            self._failed(f"{response.status}: {_detail(answer)}")
            return
        body = _decode(answer)
        variant, fallback, name = body["variant"], bool(body["fallback"]), body["predictions"][0]["prediction_id"]
        summary.latencies.append(seconds)
        summary.answered[variant] = summary.answered.get(variant, 0) + 1
        summary.fallbacks += fallback
        if moment.label_at is not None:
            heapq.heappush(self._due, (moment.label_at, name, moment.label))
        self._progress(summary, moment.scheduled_at)

    def _failed(self, error: str) -> None:
        self.summary.failed += 1
        self.summary.errors[error] = self.summary.errors.get(error, 0) + 1

    async def _post_labels(self, http: aiohttp.ClientSession, until: float) -> None:
        """Post every label that was known by `until`."""
        while self._due and self._due[0][0] <= until:
            batch: list[DueLabel] = []
            while self._due and self._due[0][0] <= until and len(batch) < 1000:
                batch.append(heapq.heappop(self._due))
            try:
                counts = await self._post_batch(http, batch)
            except BaseException:
                # It may have been cancelled while sending. Labels may be sent twice, but must not be lost.
                for label in batch:
                    heapq.heappush(self._due, label)
                raise
            for name, count in counts.items():
                self.summary.labels[name] = self.summary.labels.get(name, 0) + count

    async def _post_batch(self, http: aiohttp.ClientSession, batch: Iterable[DueLabel]) -> dict[str, int]:
        """Post labels and return their fates. Retries errors that may be temporary; reporting a label twice does no harm."""
        data = _encode({"labels": [{"prediction_id": name, "label": label, "at": at} for at, name, label in batch]})
        problem = ""
        for attempt in range(LABEL_TRIES):
            if attempt:
                await asyncio.sleep(LABEL_RETRY_S * 2 ** (attempt - 1))
            try:
                async with http.post("/feedback", data=data) as response:
                    answer = await response.read()
                if response.status < 400:
                    return msgspec.json.decode(answer, type=dict[str, int])
            except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            problem = f"{response.status} {_detail(answer)}"
            if response.status < 500 and response.status not in _AGAIN:
                break
        raise CallFailed(f"POST /feedback: {problem}")


def _detail(answer: bytes) -> str:
    try:
        return str(_decode(answer)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return answer[:300].decode(errors="replace")


_BY_LABEL = {"understudy_shadow_total": ("shadow", "result"), "understudy_fallbacks_total": ("fallbacks", "cause")}
_COMPARED = {
    "understudy_compared_rows_total": "compare/rows",
    "understudy_disagreements_total": "compare/label_flips",
    "understudy_probability_distance_count": "compare/distance_rows",
}


def from_metrics(text: str) -> dict[str, float]:
    """The store's counters as computed from `/metrics`, for the names that both have."""
    counters: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for name, labels, value in parse(text):
        if name == "understudy_requests_total" and labels["variant"] != "none":
            counters[f"requests/{labels['variant']}/{labels['mode']}/{labels['status']}"] = value
        elif name in _BY_LABEL:
            prefix, label = _BY_LABEL[name]
            counters[f"{prefix}/{labels[label]}"] = value
        elif name in _COMPARED and labels.get("output", "label") == "label":
            counters[_COMPARED[name]] = value
        elif name == "understudy_outcomes_total":
            counters[f"outcome/{labels['variant']}/{labels['predicted']}/{labels['actual']}"] = value
        elif name in {"understudy_loss_sum", "understudy_loss_count"}:
            counters[f"{name.removeprefix('understudy_')}/{labels['variant']}/{labels['loss']}"] = value
        elif name == "understudy_request_duration_seconds_bucket":
            buckets.setdefault(labels["variant"], {})[float(labels["le"])] = value
    for variant, counts in buckets.items():
        below = 0.0
        for i, edge in enumerate((*LATENCY_BUCKETS, math.inf)):
            counters[f"latency/{variant}/{i}"] = counts[edge] - below
            below = counts[edge]
    return counters


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """The increase of the counters between two readings."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def disagreements(store: Mapping[str, float], metrics: Mapping[str, float]) -> list[str]:
    """Sentences about counters that differ between store and metrics. Sums of losses are compared to a billionth."""
    kinds = (
        "requests/",
        "shadow/",
        "outcome/",
        "loss_sum/",
        "loss_count/",
        "fallbacks/",
        "latency/",
        *_COMPARED.values(),
    )
    return [
        f"{name}: the store says {store.get(name, 0.0):g}, /metrics says {metrics.get(name, 0.0):g}"
        for name in sorted(store.keys() | metrics.keys())
        if name.startswith(kinds)
        and (not name.startswith("compare/") or name in _COMPARED.values())  # rows by output are in the store only
        # The store has answered predictions; rejected requests are in the metrics only.
        and (not name.startswith("requests/") or "/shadow/" in name or name.endswith("/200"))
        and not math.isclose(store.get(name, 0.0), metrics.get(name, 0.0), rel_tol=1e-9, abs_tol=1e-6)
    ]


async def settled(read: Callable[[], Mapping[str, float]], timeout_s: float = 30.0) -> Mapping[str, float]:
    """The counters after they have not changed for a second: every rehearsal has ended, every record is written."""
    last: Mapping[str, float] = {}
    still, until = 0, time.monotonic() + timeout_s
    while time.monotonic() < until:
        now = await asyncio.to_thread(read)
        still = still + 1 if now == last else 0
        if still == STILL_LOOKS:
            return now
        last = now
        await asyncio.sleep(0.4)
    return last


def variants_in(counters: Mapping[str, float]) -> list[Variant]:
    """The variants that have a counter above 0."""
    return [v for v in Variant if any(f"/{v}/" in name for name, value in counters.items() if value)]
