"""Waiting for a condition, with a limit after which the test fails instead of hanging."""

import asyncio
import time
from collections.abc import Callable

LIMIT_S = 10.0


def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until the condition is true, in a test that uses threads or processes."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s"
        time.sleep(0.005)


async def eventually(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until the condition is true, while the event loop runs."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.001)
