"""Yields the CPU where there are fewer cores than busy processes.

By itself the kernel takes a core from a process only at its clock tick, every 4 ms at 250 Hz. A response of 0.4 ms would then wait
ten times as long for the records process, which would become its p99. So both processes yield voluntarily: a worker between two
runs of a model, the records process between two pieces of its work. If no other process wants the core, that is a system call of
a third of a microsecond now and then.

This also helps where the kernel schedules sessions instead of processes (autogroup, `sched(7)`): each of BentoML's processes is
one, so their niceness has no effect on each other.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

SLICE_S = 0.0004
"""How long a process keeps a core that others want: about one run of a small model for sixteen callers."""
RETRY_S = 0.00005
"""How soon it yields again if no other process took the core."""
TAKEN_S = 0.00002
"""If yielding takes longer than this, another process had the core."""
PIECE = 16
"""Items between two looks at the clock."""

yield_now: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Let other processes that wait for this core run: `sched_yield(2)`."""

_until = 0.0  # end of this process's time slice, on the performance clock
_yielded = 0.0  # seconds that other processes had the core


def yield_cpu() -> None:
    """Yield if this process's time slice is over. Call it between two pieces of work, from any thread."""
    global _until, _yielded  # noqa: PLW0603 - a process has one time slice, whichever of its threads works
    now = time.perf_counter()
    if now >= _until:
        yield_now()
        back = time.perf_counter()
        if back - now > TAKEN_S:
            _yielded += back - now
            _until = back + SLICE_S
        else:
            _until = back + RETRY_S


def yielded_s() -> float:
    """How many seconds in total other processes had the core when this process yielded."""
    return _yielded


def yielding(items: Iterable[T], piece: int = PIECE) -> Iterator[T]:
    """The items, with a `yield_cpu` after each `piece` of them.

    >>> list(yielding("abc"))
    ['a', 'b', 'c']
    """
    rest = iter(items)
    while some := list(islice(rest, piece)):
        yield from some
        yield_cpu()


def clear_yielding(items: list[T]) -> None:
    """Empty a list in pieces: freeing a thousand rows takes as long as several responses."""
    while items:
        del items[-PIECE:]
        yield_cpu()
