"""Events reach a real receiver, signed, through failures, `kill -9` and a new leader; the example receiver starts its job."""

import base64
import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.support.service import ROOT, rollout_file, start
from understudy.observability.metrics import parse

pytestmark = pytest.mark.acceptance


class Receiver(ThreadingHTTPServer):
    """Answers with the next of `answers`, then with 204; keeps what it got. `hold` keeps callers waiting."""

    def __init__(self) -> None:
        self.answers, self.got = [500, 503], list[tuple[int, dict[str, str], bytes]]()
        self.hold = threading.Event()
        self.hold.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answers.pop(0) if receiver.answers else 204
                receiver.got.append((status, dict(self.headers.items()), body))
                receiver.hold.wait(20)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?key=hidden"

    def kinds(self, *, taken: bool = True) -> list[str]:
        return [json.loads(body)["data"]["kind"] for status, _, body in self.got if not taken or status == 204]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.hold.set()
    found.shutdown()
    found.server_close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    command = [sys.executable, "-m", "understudy.cli", "webhook-secret", str(tmp_path / "secret")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return tmp_path / "secret"


def test_every_event_arrives_signed_through_failures_kill_9_and_a_new_leader(
    tmp_path: Path, receiver: Receiver, secret: Path
) -> None:
    """Two refusals, then taken; everything killed while the receiver holds an event; a leader killed: nothing is lost, in order."""
    options: dict[str, Any] = {
        "rollout": rollout_file(tmp_path),
        "workers": 2,
        "webhook_urls": receiver.url,
        "webhook_secret_file": str(secret),
        "webhook_poll_ms": "50",
        "lease_s": "1.0",
        "webhook_timeout_s": "2",
    }
    service = start(tmp_path / "state", **options)
    service.wait_for(lambda: receiver.kinds() == ["started"])
    assert [status for status, _, _ in receiver.got] == [500, 503, 204]
    receiver.hold.clear()
    service.http.post("/rollout/pause", json={"reason": "lunch"})
    service.wait_for(lambda: len(receiver.got) == 4)  # it has the event, and has not answered
    service.kill()
    receiver.hold.set()
    service = start(tmp_path / "state", **options)
    try:
        service.wait_for(lambda: receiver.kinds() == ["started", "pause", "pause"])
        ids = [headers["webhook-id"] for _, headers, _ in receiver.got]
        assert ids[3] == ids[4] != ids[2]  # the same event: at least once, and to be known by its id
        killed: set[int] = set()  # for a moment they are still there
        for order in ("resume", "pause"):
            service.wait_for(
                lambda order=order: service.http.post(f"/rollout/{order}", json={"reason": "again"}).is_success
            )
            living = service.wait_for(lambda: [p for p in service.children("Records") if p.pid not in killed])
            killed.add(living[0].pid)
            living[0].kill()  # which leads
        service.wait_for(lambda: receiver.kinds()[-2:] == ["resume", "pause"])
        logged = [event["kind"] for event in service.http.get("/rollout/events").json()["events"]]
        unique = {json.loads(body)["id"]: json.loads(body)["data"]["kind"] for _, _, body in receiver.got}
        assert list(unique.values()) == logged == ["started", "pause", "resume", "pause"]
        tool = Webhook(secret.read_text().splitlines()[0])
        for _, headers, body in receiver.got:
            assert tool.verify(body, headers)["specversion"] == "1.0"
        service.wait_for(lambda: waiting(service.http.get("/metrics").text) == 0)
        assert "hidden" not in service.log.read_text() + service.http.get("/metrics").text
    finally:
        service.stop()


def waiting(text: str) -> float:
    return sum(value for name, _, value in parse(text) if name == "understudy_webhook_waiting")


def test_without_a_secret_nothing_starts(tmp_path: Path) -> None:
    """And the way out is said."""
    service = start(tmp_path / "state", wait=False, webhook_urls="http://127.0.0.1:9/")
    assert service.process.wait(60) != 0
    assert "understudy webhook-secret" in service.log.read_text()
    service.http.close()


def test_the_example_receiver_retrains_after_an_abort_and_believes_nobody_else(tmp_path: Path, secret: Path) -> None:
    """The program of docs/, as it is: the job runs once for the abort; a forged message is 401; a repeated one runs nothing."""
    mark = tmp_path / "retrained"
    command = [sys.executable, "docs/how-to/webhook_receiver.py", "--secret", str(secret), "--port", "0"]
    job = f"{sys.executable} -c \"open('{mark}', 'a').write('x')\""
    with subprocess.Popen([*command, "--run", job], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = "http://" + process.stdout.readline().split()[-1] + "/"
            service = start(
                tmp_path / "state",
                rollout=rollout_file(tmp_path),
                webhook_urls=url,
                webhook_secret_file=str(secret),
                webhook_poll_ms="50",
            )
            service.http.post("/rollout/abort", json={"reason": "worse on Sundays"})
            service.wait_for(mark.exists)
            forged = service.http.post(
                url, json={"id": "x", "type": "understudy.rollout.rollback"}, headers=signed(b"y" * 32, b"{}")
            )
            assert forged.status_code == 401
            key = base64.b64decode(secret.read_text().split()[0].removeprefix("whsec_"))
            event = service.http.get("/rollout/events").json()["events"][-1]
            body = json.dumps(
                {"id": "again", "type": "understudy.rollout.pause", "time": "", "data": {"reason": event["reason"]}}
            ).encode()
            assert service.http.post(url, content=body, headers=signed(key, body)).status_code == 204
            service.stop()
        finally:
            process.terminate()
        said = process.stdout.read()
    assert "understudy.rollout.abort: worse on Sundays (a job begins)" in said
    assert mark.read_text() == "x"


def signed(key: bytes, body: bytes) -> dict[str, str]:
    import time

    from understudy.observability.webhooks import signatures

    message, now = f"again-{secrets.token_hex(4)}", int(time.time())
    return {
        "webhook-id": message,
        "webhook-timestamp": str(now),
        "webhook-signature": signatures([key], message, now, body),
    }
