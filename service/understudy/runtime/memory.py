"""Gives freed memory back to the system. The C library keeps it for later otherwise, up to what a process ever needed."""

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not the GNU C library
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


def give_back() -> None:
    """Give freed memory back. Takes milliseconds, without the interpreter's lock; for a thread that has done something large."""
    trim = _trim()
    if trim is not None:
        trim(0)
