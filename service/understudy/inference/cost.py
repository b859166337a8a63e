"""What a run of a model is expected to take: measured at warm-up, and learned from the runs.

======================  ===============================================================================================
the cost follows from   expected seconds
======================  ===============================================================================================
the rows (`RowCosts`)   looked up by the number of rows. Most models of tables.
sizes (`SizeCosts`)     a + b·rows + c·elements + d·elements²/rows, fitted at warm-up to several lengths of the open axes, times
                        what runs of about that size took in the end. Texts, images and sequences of any length.
values (`ValueCosts`)   nothing can be foreseen (`understudy.inference.graph_costs`): such a model never runs on the event loop
======================  ===============================================================================================

A run that took much longer than expected raises the expectation at once; it falls again with shorter runs and with time.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from typing_extensions import override

from understudy.inference.decoding import Array
from understudy.inference.ragged import is_ragged

FORGET_S = 10.0
"""After this long without a run, half of what was learned about a size is forgotten: a slow moment does not close it for ever."""
LEARN = 0.5
"""Weight of the latest run, where it was shorter than expected."""
AS_USUAL = 1.5
"""A run that takes up to this many times what the warm-up measured ends what a slow one has taught."""
LATE = 2.0
"""A run that was cancelled counts as this many times as long as it had taken by then, because its true cost is unknown."""
SURE = 3
"""Runs of one size that were cancelled in a row until it is sure that such runs are too long: one may be the machine's fault."""


class Costs(Protocol):
    """What runs of one model take. Not thread-safe: it belongs to the event loop.

    Attributes:
        free: the inputs with axes that vary, besides the rows; their elements count.
        text: the inputs whose characters count as elements too.
        foreseeable: whether the cost follows from the sizes of the inputs.
    """

    free: Sequence[str]
    text: Sequence[str]
    foreseeable: bool

    def seconds(self, rows: int, elements: int = 0) -> float:
        """The expected duration of a run.

        Args:
            rows: the number of rows.
            elements: the number of elements in `free` and `text`.
        """
        ...

    def least(self, rows: int, elements: int = 0) -> float:
        """What a run takes as far as is sure: one slow run raises `seconds`, and only several raise this."""
        ...

    def measured(self, rows: int, elements: int = 0) -> bool:
        """Whether runs of this size, or larger ones, have been measured."""
        ...

    def took(self, seconds: float, rows: int, elements: int = 0, *, ended: bool = True) -> None:
        """Learn from a run.

        Args:
            seconds: how long it took.
            rows: its number of rows.
            elements: as for `seconds`.
            ended: False if it was cancelled after that time.
        """
        ...


class RowCosts(Costs):
    """Costs by the number of rows.

    Args:
        measured: seconds by number of rows, from the warm-up.
    """

    free = text = ()
    foreseeable = True

    def __init__(self, measured: Mapping[int, float]) -> None:
        self._measured = interpolated(measured)
        self._seconds = list(self._measured)
        self._late = [0] * len(self._seconds)  # cancelled runs in a row

    @override
    def seconds(self, rows: int, elements: int = 0) -> float:
        """See `Costs.seconds`: interpolated between the warm-up's batch sizes, extended in proportion beyond them."""
        if rows < len(self._seconds):
            return self._seconds[rows]
        return self._seconds[-1] * rows / (len(self._seconds) - 1)

    @override
    def least(self, rows: int, elements: int = 0) -> float:
        last = len(self._seconds) - 1
        at = min(rows, last)
        sure = self._seconds[at] if self._late[at] >= SURE else min(self._seconds[at], self._measured[at])
        return sure * max(1.0, rows / last)

    @override
    def measured(self, rows: int, elements: int = 0) -> bool:
        return rows < len(self._seconds)

    @override
    def took(self, seconds: float, rows: int, elements: int = 0, *, ended: bool = True) -> None:
        last = len(self._seconds) - 1
        at = min(rows, last)
        seconds /= max(1.0, rows / last)
        self._late[at] = 0 if ended else self._late[at] + 1
        if not ended:
            seconds *= LATE
        expected, measured = self._seconds[at], self._measured[at]
        if seconds > expected:
            self._seconds[at] = seconds
        elif measured < expected and seconds < measured * AS_USUAL:
            self._seconds[at] = measured
        else:
            self._seconds[at] = expected + (seconds - expected) * LEARN


class SizeCosts(Costs):
    """Costs by the number of rows and of elements.

    The term elements²/rows is what attention costs: the rows of a run have one length, so it is rows · length².

    Args:
        measured: seconds by (rows, elements), from the warm-up.
        free: see `Costs`.
        text: see `Costs`.
        now: reads the clock, in seconds.
    """

    foreseeable = True

    def __init__(
        self,
        measured: Mapping[tuple[int, int], float],
        free: Sequence[str],
        text: Sequence[str] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.free, self.text, self._now = free, text, now
        self._weights = fitted(measured)
        self._learned: dict[int, _Learned] = {}  # by size class
        self._most_elements = max((elements for _, elements in measured), default=0)
        self._longest = max((elements / rows for rows, elements in measured), default=0.0)

    @override
    def seconds(self, rows: int, elements: int = 0) -> float:
        return self._fit(rows, elements) * self._times(_size_class(rows, elements))

    @override
    def least(self, rows: int, elements: int = 0) -> float:
        number = _size_class(rows, elements)
        times, learned = self._times(number), self._learned.get(number)
        sure = learned is not None and learned.late >= SURE
        return self._fit(rows, elements) * (times if sure else min(1.0, times))

    @override
    def measured(self, rows: int, elements: int = 0) -> bool:
        return elements <= self._most_elements and elements <= self._longest * rows

    @override
    def took(self, seconds: float, rows: int, elements: int = 0, *, ended: bool = True) -> None:
        number = _size_class(rows, elements)
        ratio = seconds * (1 if ended else LATE) / self._fit(rows, elements)
        times, before = self._times(number), self._learned.get(number)
        late = 0 if ended else 1 + (before.late if before else 0)
        new = ratio if ratio > times else times + (ratio - times) * LEARN
        self._learned[number] = _Learned(new, self._now(), late)
        if ended:
            self._most_elements = max(self._most_elements, elements)
            self._longest = max(self._longest, elements / rows)

    def _fit(self, rows: int, elements: int) -> float:
        once, row, each, square = self._weights
        return once + row * rows + each * elements + square * elements * elements / rows

    def _times(self, number: int) -> float:
        learned = self._learned.get(number)
        if learned is None:
            return 1.0
        forgotten: float = 0.5 ** ((self._now() - learned.at) / FORGET_S)
        return 1.0 + (learned.times - 1.0) * forgotten


class _Learned(NamedTuple):
    """What runs of about one size took: times the fit, when it was learned, and how many were cancelled in a row."""

    times: float
    at: float
    late: int


class ValueCosts(Costs):
    """Costs that depend on values: the mean of the latest runs is all there is to say.

    Args:
        typical: seconds of a run with plain values.
    """

    free = text = ()
    foreseeable = False

    def __init__(self, typical: float) -> None:
        self._seconds = typical

    @override
    def seconds(self, rows: int, elements: int = 0) -> float:
        return self._seconds

    @override
    def least(self, rows: int, elements: int = 0) -> float:
        return 0.0

    @override
    def measured(self, rows: int, elements: int = 0) -> bool:
        return False

    @override
    def took(self, seconds: float, rows: int, elements: int = 0, *, ended: bool = True) -> None:
        if ended:  # a cancelled run says nothing about others
            self._seconds += (seconds - self._seconds) * LEARN


def interpolated(costs: Mapping[int, float]) -> list[float]:
    """Measured seconds by batch size, interpolated for every number of rows up to the largest: it is looked up twice a request."""
    found: list[float] = np.interp(range(max(costs) + 1), list(costs), list(costs.values())).tolist()
    return found


def fitted(measured: Mapping[tuple[int, int], float]) -> tuple[float, float, float, float]:
    """The weights of 1, rows, elements and elements²/rows, none negative, that fit measured seconds best in relative terms.

    >>> times = {(n, n * t): 1e-4 + 1e-6 * n * t + 1e-8 * n * t * t for n in (1, 4) for t in (1, 16, 256, 1024)}
    >>> [round(weight, 10) for weight in fitted(times)]
    [0.0001, 0.0, 1e-06, 1e-08]
    """
    if not measured:
        return 1e-4, 0.0, 0.0, 0.0
    sizes = np.array(list(measured), float)
    seconds = np.maximum(np.array(list(measured.values())), 1e-7)
    terms: Array = np.stack([np.ones(len(sizes)), sizes[:, 0], sizes[:, 1], sizes[:, 1] ** 2 / sizes[:, 0]], axis=1)
    terms = terms / seconds[:, None]
    best: Array = np.array([seconds.max(), 0.0, 0.0, 0.0])
    least = math.inf
    # With so few terms each subset can be tried: the best one without a negative weight is the solution.
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(4), count) for count in range(1, 5)):
        weights, *_ = np.linalg.lstsq(terms[:, chosen], np.ones(len(sizes)), rcond=None)
        error = float(np.sum((terms[:, chosen] @ weights - 1) ** 2))
        if (weights >= 0).all() and error < least * (1 - 1e-6):
            least, best = error, np.zeros(4)
            best[list(chosen)] = weights
    once, row, each, square = best.tolist()
    return max(once, 1e-7), row, each, square


def _size_class(rows: int, elements: int) -> int:
    """Runs whose number of elements and whose length are within a factor of two share what is learned."""
    return max(elements, 1).bit_length() * 64 + max(elements // rows, 1).bit_length()


def elements_of(columns: Mapping[str, Array], free: Sequence[str], text: Sequence[str]) -> int:
    """The size of a run in elements.

    Args:
        columns: the inputs of the run.
        free: the inputs with axes that vary, besides the rows.
        text: the inputs whose characters count.
    """
    total = sum(sum(row.size for row in c) if is_ragged(c) else c.size for c in map(columns.__getitem__, free))
    for name in text:
        total += sum(map(len, columns[name].reshape(-1).tolist()))
    return int(total)
