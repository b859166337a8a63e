"""A service of the test's own: the rollout file, code and settings of the one that will answer callers, another store."""

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
"""What a service that nobody but the test knows must not take from this process's environment."""


@contextlib.contextmanager
def service(
    file: Path, folder: Path, env: Mapping[str, str] | None = None, *, weight: float | None = None
) -> Iterator[str]:
    """Serve a rollout file on a free port of the loopback; its URL.

    Args:
        folder: where its store and its log go; env: settings besides those of this process's environment.
        weight: the candidate's share of live answers to test at, percent; None leaves it where the rollout begins.

    Raises:
        ConfigurationError: it did not start; where its log is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Without tokens, whatever this machine's own service wants: it listens on loopback, for as long as the test takes.
    given = {k: v for k, v in os.environ.items() if k not in _NOT_ITS_OWN}
    given |= {"UNDERSTUDY_STATE_DIR": str(folder), "UNDERSTUDY_STORE_URL": ""} | dict(env or {})
    command = programs.command_line("serve", str(file), "--port", str(port))
    log = folder / "service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=given, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
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
    """Until every worker is ready and the candidate, where there is one, answers."""
    until = time.monotonic() + READY_S
    with Client(url, timeout_s=5) as client:
        while True:
            with contextlib.suppress(CallFailed):
                client.text("/readyz")
                candidate = client.get("/rollout")["candidate"]
                if candidate is None or candidate["up"]:
                    return
            if process.poll() is not None or time.monotonic() > until:
                raise ConfigurationError(f"the service did not start; {log} says why:\n{_last(log)}")
            time.sleep(0.1)


def answers(url: str, token: str | None) -> bool:
    """Whether a service of ours is there.

    Raises:
        CallFailed: something is there, and it is no service of ours, or refuses us.
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
