"""Processes that use the store beside the test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.contract.stores import CHILD, ROOT


@contextmanager
def children(*commands: tuple[str, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have loaded everything and wait for a line; killed at the end, whatever happened."""
    started = [
        subprocess.Popen([*CHILD, *each], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for each in commands
    ]
    try:
        for child in started:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        yield started
    finally:
        for child in started:
            child.kill()
            child.communicate()


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
