"""The check of `conftest.py` works: a process or a listener in a unit test fails it."""

import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.unit.conftest import attempts


def listen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("event", "attempt"),
    [
        ("subprocess.Popen", lambda: subprocess.run([sys.executable, "-c", ""], check=True)),
        ("socket.bind", listen),
    ],
)
def test_a_unit_test_cannot_leave_its_process(event: str, attempt: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=f"{event}: move .*test_isolation"):
        attempt()

    assert attempts == [event]
    attempts.clear()
