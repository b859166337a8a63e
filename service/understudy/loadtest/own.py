"""Starts a service for the load test only: the production service's rollout file, code and settings, with its own store."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from understudy.errors import ConfigurationError
from understudy.offline.client import CallFailed, Client
from understudy.runtime import programs
from understudy.runtime.ports import free_port

READY_S = 90.0
_NOT_ITS_OWN = {
    "UNDERSTUDY_TOKENS_FILE",
    "UNDERSTUDY_TOKEN",
    "PORT",
    "UNDERSTUDY_WEBHOOK_URLS",
    "UNDERSTUDY_WEBHOOK_SECRET_FILE",
}
"""Environment variables that the test's service must not inherit."""


@contextlib.contextmanager
def service(
    file: Path, folder: Path, env: Mapping[str, str] | None = None, *, weight: float | None = None
) -> Iterator[str]:
    """Serve a rollout file on a free loopback port.

    Args:
        folder: where its store and its log are written.
        env: environment variables in addition to this process's.
        weight: the candidate's share of live answers to test at, in percent; None keeps the one that the rollout begins with.

    Yields:
        The service's URL.

    Raises:
        ConfigurationError: the service did not start; the message has the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # No tokens, even if the production service needs them: this one listens on loopback, during the test only.
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_ITS_OWN}
    environment |= {"UNDERSTUDY_STATE_DIR": str(folder), "UNDERSTUDY_STORE_URL": ""} | dict(env or {})
    command = programs.command_line("serve", str(file), "--port", str(port))
    log = folder / "service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        _wait(url, process, log)
        if weight is not None:
            with Client(url) as client:
                client.post(
                    "/rollout/weight", {"weight": weight, "force": True, "reason": "the load test's own service"}
                )
        yield url
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until every worker is ready, and the candidate if there is one."""
    until = time.monotonic() + READY_S
    with Client(url, timeout_s=5) as client:
        while True:
            with contextlib.suppress(CallFailed):
                client.text("/readyz")
                candidate = client.get("/rollout")["candidate"]
                if candidate is None or candidate["up"]:
                    return
            if process.poll() is not None or time.monotonic() > until:
                raise ConfigurationError(f"the service did not start. Its log {log} ends with:\n{_last(log)}")
            time.sleep(0.1)


def answers(url: str, token: str | None) -> bool:
    """Whether an Understudy service answers at this URL.

    Raises:
        CallFailed: something else answers there, or the call is rejected.
    """
    try:
        with Client(url, token, timeout_s=5) as client:
            client.get("/rollout/loadtest")
    except CallFailed as error:
        if "does not answer" in error.detail:
            return False
        raise
    return True


def _last(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-800:]
