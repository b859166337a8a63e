"""Taking turns on a core, where there are fewer cores than processes that always have something to do.

The kernel by itself takes a core from a process only when its clock ticks, every 4 ms at 250 Hz: an answer of 0.4 ms would wait
ten times as long for the records process, and that is its p99. So both give way by themselves: the process that answers between
two runs of a model, the one that records between two pieces of its work. Where nobody else wants the core, that is a system
call of a third of a microsecond now and then.

It helps also where the kernel weighs sessions and not processes (autogroup, `sched(7)`): each of BentoML's processes is one, and a
niceness among them does nothing there.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

TURN_S = 0.0004
"""How long a process keeps a core that others want: about as long as a run of a small model for sixteen callers takes."""
AGAIN_S = 0.00005
"""How soon it offers the core again when nobody took it."""
TAKEN_S = 0.00002
"""Giving way takes longer than this when somebody did."""
PIECE = 16
"""Rows between two looks at the clock."""

give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Let whoever waits for this core have it: `sched_yield(2)`."""

_until = 0.0  # when this process's turn is over, on the performance clock
_away = 0.0  # how long others have had the core, in seconds


def take_turns() -> None:
    """Give way, if this process has had its turn. To be called between two pieces of work, from any thread."""
    global _until, _away  # noqa: PLW0603 - one process has one turn, whichever of its threads works
    now = time.perf_counter()
    if now >= _until:
        give_way()
        back = time.perf_counter()
        if back - now > TAKEN_S:
            _away += back - now
            _until = back + TURN_S
        else:
            _until = back + AGAIN_S


def away_s() -> float:
    """How long others have had the core, in all, when this process gave way."""
    return _away


def in_turns(items: Iterable[T], piece: int = PIECE) -> Iterator[T]:
    """The items, taking turns after each `piece` of them.

    >>> list(in_turns("abc"))
    ['a', 'b', 'c']
    """
    rest = iter(items)
    while some := list(islice(rest, piece)):
        yield from some
        take_turns()


def let_go(items: list[Any]) -> None:
    """Empty a list, taking turns: to free a thousand rows takes as long as some answers."""
    while items:
        del items[-PIECE:]
        take_turns()
