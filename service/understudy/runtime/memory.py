"""Gives freed memory back to the system. The C library keeps it for later otherwise, up to what a process ever needed."""

import ctypes
import functools
import math
import time
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not the GNU C library
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


REST_S = 120.0
"""How long after something large its parts may still be freed: rows that wait to be rehearsed and recorded."""

_last = -math.inf  # when `give_back` was called


def give_back() -> None:
    """Give freed memory back. Takes milliseconds, without the interpreter's lock; for a thread that has done something large."""
    global _last  # noqa: PLW0603 - the heap is the process's
    _last = time.monotonic()
    _give()


def give_back_rest() -> None:
    """Give back what was freed since, if something large was done lately. Otherwise do nothing: each page costs a fault again."""
    if time.monotonic() < _last + REST_S:
        _give()


def _give() -> None:
    trim = _trim()
    if trim is not None:
        trim(0)
