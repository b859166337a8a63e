"""Finds the first request of each unit, in memory that does not grow with the number of units. Pure.

Each unit sets one bit, chosen by its hash, among `BITS` bits per window. Two units may share a bit. The later one then counts as
a repeat. That depends on their names and never on the outcome of their requests, so it loses evidence but stays valid. With a
tenth as many units as bits it happens to one unit in twenty.
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping

UNIT_WINDOW_S = 86_400.0
WINDOWS_MAX = 8
"""Number of windows in memory, over all time bases; the least recently used one is dropped."""
BITS = 2**21
"""Bits per window: 256 KiB."""


class FirstRequests:
    """Remembers units, to find the first request of each in its window. A window belongs to one time base.

    >>> firsts = FirstRequests()
    >>> [firsts.first("ann", 10.0), firsts.first("ann", 20.0), firsts.first("ann", 10.0 + UNIT_WINDOW_S)]
    [True, False, True]
    """

    def __init__(self) -> None:
        self._windows: dict[str, bytearray] = {}  # ordered by last use

    def first(self, unit: str | None, at: float, replay: str | None = None) -> bool:
        """Whether this is the unit's first request in its window; always true without a unit.

        Args:
            at: when the request happened, as in `Observation`.
            replay: the time base of `at`, as in `Observation`.
        """
        if unit is None:
            return True
        window = f"{int(at // UNIT_WINDOW_S)}" if replay is None else f"{int(at // UNIT_WINDOW_S)}/{replay}"
        fresh = self._mark(window, int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest()))
        self._windows[window] = self._windows.pop(window)
        if len(self._windows) > WINDOWS_MAX:
            del self._windows[next(iter(self._windows))]
        return fresh

    def first_ever(self, point: int) -> bool:
        """Whether this point, which is a hash already, was never seen before, in any window."""
        return self._mark("", point)

    def _mark(self, window: str, hashed: int) -> bool:
        seen = self._windows.get(window)
        if seen is None:
            seen = self._windows[window] = bytearray(BITS // 8)
        at, bit = hashed % BITS >> 3, 1 << (hashed & 7)
        if seen[at] & bit:
            return False
        seen[at] |= bit
        return True

    def copy(self) -> "FirstRequests":
        """An independent copy."""
        other = FirstRequests()
        other._windows = {window: bytearray(seen) for window, seen in self._windows.items()}
        return other

    def state(self) -> dict[str, str]:
        """The stored form: window → its bits, compressed with zlib, in base64."""
        return {
            window: base64.b64encode(zlib.compress(bytes(seen), 1)).decode() for window, seen in self._windows.items()
        }

    def take(self, state: Mapping[str, str]) -> None:
        """Restore a stored state.

        Raises:
            ValueError: if it was made with another number of bits.
        """
        windows = {window: bytearray(zlib.decompress(base64.b64decode(seen))) for window, seen in state.items()}
        for seen in windows.values():
            if len(seen) != BITS // 8:
                raise ValueError(
                    f"these units were remembered in {len(seen) * 8} bits, this program has {BITS}: start anew"
                )
        self._windows = windows
