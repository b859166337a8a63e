"""Webhooks: sends every event of the audit log as a signed CloudEvent to each URL, until it is delivered.

Theory of operation
-------------------
The audit log is the queue: events with a greater id than the URL's cursor are waiting, so a crash loses nothing. The leader sends
one event at a time per URL, in order, and moves the cursor when the receiver has answered 2xx. After a crash between the two, the
event is sent again with the same `webhook-id`: delivery is at least once. Failed attempts are stored with the cursor, so a restart
neither shortens the wait nor extends the time limit.

Bodies are CloudEvents 1.0 in structured JSON mode; headers are those of Standard Webhooks: `webhook-id`, `webhook-timestamp`,
`webhook-signature` = `v1,` + base64 of HMAC-SHA256 over `id.timestamp.body`, one for each secret of the file, so that a
secret can be changed without interruption. Nothing here is on the request path.
"""

import asyncio
import base64
import binascii
import contextlib
import datetime
import hashlib
import hmac
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import structlog

from understudy.clock import Clock
from understudy.domain import Event, JsonObject
from understudy.errors import ConfigurationError, NotAllowedNow, StoreError
from understudy.observability.metrics import Metrics
from understudy.settings import Settings
from understudy.store import Store

log = structlog.get_logger(__name__)

PREFIX = "whsec_"
SECRET_MIN_BYTES, SECRET_MAX_BYTES = 24, 64
URLS_MAX = 10
WAITING_MAX = 100
"""The largest number of waiting events that is counted per URL."""
FIRST_RETRY_S = 1.0
MEDIA_TYPE = "application/cloudevents+json; charset=utf-8"


def cloud_event(event: Event, model: str, rollout: str) -> JsonObject:
    """An event of the audit log as a CloudEvent (CNCF CloudEvents 1.0, section 3), in structured JSON mode."""
    time = datetime.datetime.fromtimestamp(event.at, datetime.UTC).isoformat().replace("+00:00", "Z")
    return {
        "specversion": "1.0",
        "id": f"{rollout}-{event.id}",
        "source": f"/understudy/{model}",
        "type": _type(event),
        "subject": rollout,
        "time": time,
        "datacontenttype": "application/json",
        "data": {
            "model": model,
            "kind": event.kind,
            "actor": event.actor,
            "reason": event.reason,
            "revision": event.revision,
            "details": dict(event.details),
        },
    }


def _type(event: Event) -> str:
    """`understudy.rollout.<kind>`; for drift, `understudy.drift.on` when an alarm is raised and `.off` when it clears."""
    return (
        f"understudy.drift.{event.details.get('alarm', 'on')}"
        if event.kind == "drift"
        else f"understudy.rollout.{event.kind}"
    )


def signatures(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header (Standard Webhooks): one signature for each secret, separated by spaces."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def read_secrets(path: Path | None) -> list[bytes]:
    """The secrets of a file, one per line, newest first; lines that begin with `#` are ignored.

    Raises:
        ConfigurationError: there is no file, or a line is not `whsec_` and base64 of 24 to 64 bytes.
    """
    if path is None:
        raise ConfigurationError(
            "webhooks need a secret: set UNDERSTUDY_WEBHOOK_SECRET_FILE to the file with it; "
            "`understudy webhook-secret FILE` makes one"
        )
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the webhooks' secret file {path} cannot be read: {error}") from error
    secrets = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        try:
            secret = base64.b64decode(line.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if not line.startswith(PREFIX) or not SECRET_MIN_BYTES <= len(secret) <= SECRET_MAX_BYTES:
            raise ConfigurationError(
                f"{path}, line {number}: must be `{PREFIX}` and base64 of {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes"
            )
        secrets.append(secret)
    if not secrets:
        raise ConfigurationError(f"{path} has no secret; `understudy webhook-secret {path}` makes one")
    return secrets


def read_urls(text: str) -> list[str]:
    """The URLs of the setting, separated by blanks.

    Raises:
        ConfigurationError: one is not http(s), or there are more than `URLS_MAX`.
    """
    urls = list(dict.fromkeys(text.split()))
    if len(urls) > URLS_MAX:
        raise ConfigurationError(f"UNDERSTUDY_WEBHOOK_URLS has {len(urls)} URLs; the limit is {URLS_MAX}")
    for url in urls:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise ConfigurationError(f"UNDERSTUDY_WEBHOOK_URLS: {url!r} is not an http or https URL")
    return urls


@dataclass(frozen=True, slots=True)
class Cursor:
    """The progress of one URL.

    Attributes:
        after: the id of the last event that was delivered or given up.
        tries: failed attempts for the next event.
        since: when the first of them was.
        not_before: when the next attempt is due.
    """

    after: int = 0
    tries: int = 0
    since: float = 0.0
    not_before: float = 0.0


class Webhooks:
    """Sends events to one or more URLs while this process leads.

    Args:
        rollout: the rollout's key, for every message.
        holder: this process's name in the lease.
    """

    def __init__(
        self,
        urls: Sequence[str],
        secrets: Sequence[bytes],
        store: Store,
        metrics: Metrics,
        clock: Clock,
        settings: Settings,
        *,
        model: str,
        rollout: str,
        holder: str,
    ) -> None:
        self._urls, self._secrets, self._store, self._metrics, self._clock = urls, secrets, store, metrics, clock
        self._settings, self._model, self._rollout, self._holder = settings, model, rollout, holder
        self._tasks: list[asyncio.Task[None]] = []
        self._http: httpx.AsyncClient | None = None

    def start(self) -> None:
        """Start one task per URL, so that no URL waits for another."""
        if self._urls:
            self._http = httpx.AsyncClient(timeout=self._settings.webhook_timeout_s)
            self._tasks = [asyncio.get_running_loop().create_task(self._follow(url)) for url in self._urls]

    async def close(self) -> None:
        """Stop. The next leader sends unfinished events again."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._http is not None:
            await self._http.aclose()

    async def _follow(self, url: str) -> None:
        while True:
            try:
                if not await self.step(url):
                    await asyncio.sleep(self._settings.webhook_poll_ms / 1000)
            except StoreError:  # events wait while the store is unavailable
                self._metrics.store_errors.labels(call="webhooks").inc()
                await asyncio.sleep(1.0)
            except Exception:
                log.exception("internal error in the webhooks; they are retried. Please report it")
                await asyncio.sleep(10.0)

    async def step(self, url: str) -> bool:
        """Send the next event to a URL; False if there is none, it is not due, or another process leads.

        Raises:
            StoreError: the store is unavailable; an event that was sent will be sent again.
        """
        cursor, waiting = await asyncio.to_thread(self._look, url)
        self._metrics.webhook_waiting.labels(receiver=receiver(url)).set(len(waiting))
        rest = cursor.not_before - self._clock.now()
        # A longer wait than the longest one was noted before the clock was set back.
        if (
            not waiting
            or 0 < rest <= self._settings.webhook_retry_max_s * 1.25
            or not await asyncio.to_thread(self._lead)
        ):
            return False
        event = waiting[0]
        failure, retry_after = await self._send(url, event)
        moved = self._after(url, event, cursor, failure, retry_after)
        try:
            await asyncio.to_thread(self._store.save_state, _name(url), asdict(moved), holder=self._holder)
        except NotAllowedNow:
            return False  # another process leads now and sends it again
        return True

    def _look(self, url: str) -> tuple[Cursor, Sequence[Event]]:
        state = self._store.load_state(_name(url))
        cursor = Cursor(**state) if state else Cursor()
        return cursor, self._store.events(after=cursor.after, limit=WAITING_MAX)

    def _lead(self) -> bool:
        # Longer than an attempt can take, so that no other process sends the event meanwhile.
        ttl_s = max(self._settings.lease_s, self._settings.webhook_timeout_s + 1)
        return self._store.lead(self._holder, ttl_s=ttl_s, now=self._clock.now())

    async def _send(self, url: str, event: Event) -> tuple[str | None, float]:
        """Send once; returns why it failed, or None, and the seconds of `Retry-After`."""
        assert self._http is not None
        message = cloud_event(event, self._model, self._rollout)
        body = json.dumps(message, separators=(",", ":")).encode()
        timestamp = int(self._clock.now())
        headers = {
            "content-type": MEDIA_TYPE,
            "user-agent": "understudy",
            "webhook-id": message["id"],
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(self._secrets, message["id"], timestamp, body),
        }
        try:
            async with asyncio.timeout(self._settings.webhook_timeout_s):  # for the whole response, however slow
                response = await self._http.post(url, content=body, headers=headers)
        except (httpx.HTTPError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}", 0.0
        if response.is_success:
            return None, 0.0
        return f"it answered {response.status_code}", _seconds(response.headers)

    def _after(self, url: str, event: Event, cursor: Cursor, failure: str | None, retry_after: float) -> Cursor:
        """The cursor after an attempt, which is logged and counted."""
        where = receiver(url)
        if failure is None:
            self._metrics.webhooks.labels(receiver=where, result="delivered").inc()
            return Cursor(after=event.id)
        now = self._clock.now()
        since = cursor.since or now
        self._metrics.webhooks.labels(receiver=where, result="failed").inc()
        if now - since > self._settings.webhook_give_up_days * 86400:
            self._metrics.webhooks.labels(receiver=where, result="given_up").inc()
            log.error(
                "a webhook failed for too long: its event is skipped", receiver=where, event_id=event.id, reason=failure
            )
            return Cursor(after=event.id)
        longest = self._settings.webhook_retry_max_s
        wait = max(min(longest, FIRST_RETRY_S * 2.0 ** min(cursor.tries, 30)) * random.uniform(0.75, 1.25), retry_after)
        log.warning(
            "a webhook failed; it is retried",
            receiver=where,
            event_id=event.id,
            reason=failure,
            retry_in_s=round(wait, 1),
        )
        return replace(cursor, tries=cursor.tries + 1, since=since, not_before=now + min(wait, longest * 1.25))


def receiver(url: str) -> str:
    """A URL for logs and metrics: its host only, because paths and queries of webhooks may contain secrets."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _name(url: str) -> str:
    return f"webhook/{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def _seconds(headers: Mapping[str, str]) -> float:
    """`Retry-After` in seconds; 0 if it is missing or a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isdigit() else 0.0
