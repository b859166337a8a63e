"""How the rate changes over a test, and when requests are due: open loop, seeded.

A shape gives the rate at each moment of the test as a share of its peak. Arrivals are a Poisson process with that rate, conditioned
on its count in each minute: given their number, the arrivals of a Poisson process are independent draws from the normalised rate.
So requests come in bursts as from real callers, but a test at 500 requests per second sends 500 and not, by chance, 497.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

BLOCK_S = 60.0
_GRID = 6_000

SHAPES: dict[str, tuple[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], str]] = {
    "steady": (np.ones_like, "the rate from start to end"),
    "soak": (np.ones_like, "the rate for an hour, unless --duration says otherwise: leaks and slow growth"),
    "step": (lambda x: np.ceil(np.clip(x, 1e-9, 1) * 4) / 4, "a quarter, a half, three quarters, all of the rate"),
    "ramp": (lambda x: 0.02 + 0.98 * x, "from nothing to the rate"),
    "spike": (
        lambda x: np.where((x >= 0.4) & (x < 0.6), 1.0, 0.25),
        "a quarter of the rate, and all of it in the middle fifth",
    ),
    "diurnal": (
        lambda x: 0.55 - 0.45 * np.cos(2 * math.pi * x),
        "a day: a tenth of the rate at night, all of it at noon",
    ),
}
"""Name → the rate at each moment (0 to 1 of the test) as a share of the peak, and a description."""


def share(shape: str, moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rate at moments of the test, as a share of the peak.

    Args:
        moments: 0 (start) to 1 (end), float64 of any array shape.
    """
    return SHAPES[shape][0](np.asarray(moments, dtype=np.float64))


def mean_share(shape: str) -> float:
    """The mean rate of a shape as a share of its peak."""
    return float(share(shape, (np.arange(_GRID) + 0.5) / _GRID).mean())


def arrivals(shape: str, peak: float, seconds: float, seed: int) -> Iterator[float]:
    """When requests are due, in seconds from the start, ascending.

    Args:
        peak: the highest rate in requests per second.
        seconds: the length of the test.
        seed: the same seed gives the same moments.
    """
    random = np.random.default_rng(seed)
    asked = 0.0
    begun = 0.0
    done = 0
    while begun < seconds - 1e-9:
        ended = min(begun + BLOCK_S, seconds)
        grid = np.linspace(begun, ended, _GRID + 1)
        middle = (grid[1:] + grid[:-1]) / 2
        expected = np.concatenate(([0.0], np.cumsum(share(shape, middle / seconds) * np.diff(grid)))) * peak
        asked += float(expected[-1])
        count = round(asked) - done
        done += count
        yield from np.interp(np.sort(random.random(count)) * expected[-1], expected, grid).tolist()
        begun = ended
