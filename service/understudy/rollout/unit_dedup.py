"""Which requests are the first of their unit, in memory that does not grow with the units. Pure.

One bit per unit, by its hash, in `BITS` bits a window. Two units may share a bit: the later one is then taken for a repeat,
which depends on their names and never on how their requests went, so it costs evidence and not validity. At a tenth as
many units as bits that is one unit in twenty.
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping

UNIT_WINDOW_S = 86_400.0
WINDOWS_MAX = 8
"""Windows that are remembered, of all time bases: those that were used last."""
BITS = 2**21
"""256 KiB a window."""


class Firsts:
    """Whether a unit is seen for the first time in its window; a window belongs to one time base.

    >>> firsts = Firsts()
    >>> [firsts.first("ann", 10.0), firsts.first("ann", 20.0), firsts.first("ann", 10.0 + UNIT_WINDOW_S)]
    [True, False, True]
    """

    def __init__(self) -> None:
        self._windows: dict[str, bytearray] = {}  # the one used last is the last

    def first(self, unit: str | None, at: float, replay: str | None = None) -> bool:
        """Whether this request counts. Without a unit every request does.

        Args:
            at: when it happened; replay: on which time base, as `Observation` has them.
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
        """Whether this point, which is a hash already, was never seen before; no window ends."""
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

    def copy(self) -> "Firsts":
        """One that remembers the same and goes its own way."""
        other = Firsts()
        other._windows = {window: bytearray(seen) for window, seen in self._windows.items()}
        return other

    def state(self) -> dict[str, str]:
        """As JSON: window → its bits, deflated, in base64."""
        return {
            window: base64.b64encode(zlib.compress(bytes(seen), 1)).decode() for window, seen in self._windows.items()
        }

    def take(self, state: Mapping[str, str]) -> None:
        """Take over a stored state.

        Raises:
            ValueError: when it was made with another number of bits.
        """
        found = {window: bytearray(zlib.decompress(base64.b64decode(seen))) for window, seen in state.items()}
        for seen in found.values():
            if len(seen) != BITS // 8:
                raise ValueError(
                    f"these units were remembered in {len(seen) * 8} bits, this program has {BITS}: start anew"
                )
        self._windows = found
