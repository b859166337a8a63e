"""An example receiver of Understudy's webhooks: it verifies the signature and retrains when a candidate failed or data drifted.

    understudy webhook-secret secret
    python docs/how-to/webhook_receiver.py --secret secret --run "make models"
    UNDERSTUDY_WEBHOOK_SECRET_FILE=secret UNDERSTUDY_WEBHOOK_URLS=http://127.0.0.1:8085/ make serve

It answers at once and works afterwards, one job at a time: whoever answers late is sent the same event again. An event may come
twice (at least once is the promise), so the ids that were seen are remembered, as far as this process lives. Standard library only.
"""

import argparse
import base64
import hashlib
import hmac
import json
import queue
import shlex
import subprocess
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BODY_MAX_BYTES = 4 * 2**20
TOLERANCE_S = 300
SEEN_MAX = 10_000
RETRAIN = ("understudy.rollout.rollback", "understudy.rollout.abort", "understudy.drift.on")
"""Types, or what they begin with, after which the job runs."""


def is_signed(secret: bytes, headers: dict[str, str], body: bytes, now: float) -> bool:
    """Whether one of the signatures is the secret's, over this very body, and the message is young (Standard Webhooks)."""
    message, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not stamp.isdigit() or abs(now - int(stamp)) > TOLERANCE_S:
        return False
    digest = hmac.new(secret, f"{message}.{stamp}.".encode() + body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(expected.encode(), one) for one in given)


class Jobs:
    """Runs the command for one event after the other; what comes while one waits already changes nothing."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._waiting: queue.Queue[str] = queue.Queue(maxsize=1)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        threading.Thread(target=self._work, daemon=True).start()

    def offer(self, event: dict[str, str]) -> str:
        """Take note of an event; says what becomes of it."""
        with self._lock:
            if event["id"] in self._seen:
                return "seen before"
            self._seen[event["id"]] = None
            if len(self._seen) > SEEN_MAX:
                self._seen.popitem(last=False)
        if not event["type"].startswith(RETRAIN):
            return "noted"
        try:
            self._waiting.put_nowait(event["type"])
        except queue.Full:
            return "a job waits already"
        return "a job begins"

    def _work(self) -> None:
        while True:
            why = self._waiting.get()
            print(f"{why}: {shlex.join(self._command)}", flush=True)
            done = subprocess.run(self._command, check=False)
            print(f"{why}: exit code {done.returncode}", flush=True)


def handler(secret: bytes, jobs: Jobs) -> type[BaseHTTPRequestHandler]:
    """The request handler of a receiver."""

    class Receiver(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            """Verify, note, answer; the job runs elsewhere."""
            size = self.headers.get("content-length", "")
            if not size.isdigit() or int(size) > BODY_MAX_BYTES:
                self.send_error(413)
                return
            body = self.rfile.read(int(size))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if not is_signed(secret, headers, body, time.time()):
                self.send_error(401, "not signed with this secret")
                return
            event = json.loads(body)
            print(f"{event['time']} {event['type']}: {event['data']['reason']} ({jobs.offer(event)})", flush=True)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Said above, in its own words."""

    return Receiver


def main() -> None:
    """Listen until Ctrl-C."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--secret", type=Path, required=True, help="the file that `understudy webhook-secret` wrote")
    options.add_argument("--run", default="make models", help="what to run after a rollback, an abort or a drift alarm")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8085)
    given = options.parse_args()
    newest = next(line for line in given.secret.read_text().splitlines() if line.startswith("whsec_"))
    jobs = Jobs(shlex.split(given.run))
    server = ThreadingHTTPServer(
        (given.host, given.port), handler(base64.b64decode(newest.removeprefix("whsec_")), jobs)
    )
    print(f"listening on {given.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
