"""A unit test starts no process and binds no socket; tests that need one are in `tests/integration/`."""

import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from understudy.errors import UnderstudyError
from understudy.inference.trial_process import opened
from understudy.loading import trial
from understudy.loading.trial import Trial, Untried
from understudy.settings import Settings

HERE = Path(__file__).parent
FORBIDDEN = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "socket.bind", "subprocess.Popen"}
"""Audit events of the interpreter: https://docs.python.org/3/library/audit_events.html."""

running: list[str] = []
attempts: list[str] = []


def refuse(event: str, _: object) -> None:
    """Fail what a unit test may not do. An audit hook also sees what libraries do, and what is imported late."""
    if running and event in FORBIDDEN:
        attempts.append(event)
        raise RuntimeError(f"a unit test did {event}: move {running[0]} to tests/integration/")


sys.addaudithook(refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse during the test and its fixtures, those of modules and sessions included."""
    if item.path.is_relative_to(HERE):  # pytest calls this hook for every test of the run
        running.append(item.nodeid)
    attempts.clear()
    try:
        return (yield)
    finally:
        running.clear()


def tried_here(models: Sequence[Untried], settings: Settings) -> list[Trial | UnderstudyError]:
    """Try models in this process."""
    return [
        trial.outcome(opened(model.request(settings.model_open_max_mib)), model.source, settings) for model in models
    ]


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also fail a test whose code swallowed the refusal. Models are tried in the test's process."""
    monkeypatch.setattr(trial, "_together", tried_here)
    yield
    assert not attempts
