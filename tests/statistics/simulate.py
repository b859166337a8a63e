"""Thousands of rollouts at once, judged after every label: the formulas of `understudy.rollout.sequential` in numpy.

`tests/statistics/test_statistics_simulator.py` holds the two implementations to 1e-9 of each other, step by step.

A rollout is a column. Rows are labels, as codes: 0 both right, 1 only the candidate wrong, 2 only the primary wrong,
3 both wrong. The e-processes are kept as products, rescaled now and then; a stock under 1e-250 is dropped (it could
only come back with luck of that size) and one over 1e100 is capped (its rollout has been decided).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from understudy.rollout.sequential.attribution import ABOVE, fair_part
from understudy.rollout.sequential.attribution import BELOW as FEWER
from understudy.rollout.sequential.base import RUNGS
from understudy.rollout.sequential.mean import bets

DIFFERENCE = np.array([0, 1, -1, 0], dtype=np.int8)
"""Loss of the candidate minus loss of the primary, by code."""

RESCALE = 1024

Floats = NDArray[np.float64]
Schedule = Callable[[NDArray[np.int64]], Floats]
"""Time (0, 1, 2, …) to the true difference at that label."""


class Walk:
    """An e-process per rollout, and when each first reached 1/α."""

    def __init__(self, rollouts: int, alpha: float) -> None:
        self.n = 0
        self.enough = 1.0 / alpha
        self.first = np.zeros(rollouts, dtype=np.int64)
        """The label at which it crossed; 0 for not yet."""

    def step(self, values: NDArray) -> None:
        self.n += 1
        with np.errstate(over="ignore", under="ignore"):
            self._move(values)
            crossed = self.e() >= self.enough
        if crossed.any():
            self.first[crossed & (self.first == 0)] = self.n

    def e(self) -> Floats:
        raise NotImplementedError

    def _move(self, values: NDArray) -> None:
        raise NotImplementedError

    @property
    def crossed(self) -> int:
        return int((self.first > 0).sum())


def _multiply(stocks: Floats, stakes: Floats, values: NDArray) -> None:
    """Stocks (rollouts x rungs) times 1 + λx; for 0, 1, -1 only where something happens."""
    if values.dtype == np.int8:
        moved = np.flatnonzero(values)
        table = np.stack([np.ones_like(stakes), 1.0 + stakes, 1.0 - stakes])  # by 0, 1, -1
        stocks[moved] *= table[values[moved]]
    else:
        stocks *= 1.0 + np.multiply.outer(values, stakes)


def _tidy(stocks: Floats) -> None:
    stocks[stocks < 1e-250] = 0.0
    np.minimum(stocks, 1e100, out=stocks)


class MeanWalk(Walk):
    """`MeanEvidence` against the line `m`: `side` is "above" (harm) or "below" (promote)."""

    def __init__(self, rollouts: int, alpha: float, m: float, side: str, bound: float = 1.0) -> None:
        super().__init__(rollouts, alpha)
        every = np.array(bets(-bound, bound, 0.0))
        self._stakes = every[:RUNGS] if side == "above" else every[RUNGS:]
        self._paid = 1.0 + self._stakes * m
        self._weights = np.full(RUNGS, 1.0 / RUNGS)
        self._stocks = np.ones((rollouts, RUNGS))

    def _move(self, values: NDArray) -> None:
        _multiply(self._stocks, self._stakes, values)
        self._weights = self._weights / self._paid
        if self.n % RESCALE == 0:
            self._stocks *= self._weights * RUNGS
            self._weights = np.full(RUNGS, 1.0 / RUNGS)
            _tidy(self._stocks)

    def e(self) -> Floats:
        return self._stocks @ self._weights


class LateWalk(Walk):
    """`LateHarm` against the harm line."""

    def __init__(self, rollouts: int, alpha: float, line: float = 0.0) -> None:
        super().__init__(rollouts, alpha)
        self._stakes = np.array(bets(-1.0, 1.0, 0.0)[:RUNGS])
        self._line = line
        self._kept = 1.0
        self._stocks = np.zeros((rollouts, RUNGS))

    def _move(self, values: NDArray) -> None:
        kept = 1.0 / np.log2(self.n + 2)
        self._stocks += self._kept - kept
        self._kept = kept
        _multiply(self._stocks, self._stakes, values)
        if self._line:
            self._stocks /= 1.0 + self._stakes * self._line
        if self.n % RESCALE == 0:
            _tidy(self._stocks)

    def e(self) -> Floats:
        return self._kept + self._stocks.mean(axis=1)


@dataclass
class Intervals:
    """Counts per 100 labels, for the rules that look at intervals: rows are intervals, columns rollouts."""

    candidate_only: list[NDArray] = field(default_factory=list)
    primary_only: list[NDArray] = field(default_factory=list)
    both: list[NDArray] = field(default_factory=list)
    early: list[NDArray] = field(default_factory=list)
    """The first labels by themselves, for a rule on little traffic: [candidate's, primary's] errors per `FEW`."""

    LENGTH, FEW, EARLY = 100, 20, 60

    def add(self, codes: NDArray) -> None:
        if len(self.early) < self.EARLY:
            few = codes.reshape(-1, self.FEW, codes.shape[1])
            both = [(np.isin(few, wrong)).sum(axis=1, dtype=np.int32) for wrong in ((1, 3), (2, 3))]
            self.early.extend(np.stack(both, axis=1)[: self.EARLY - len(self.early)])
        blocks = codes.reshape(-1, self.LENGTH, codes.shape[1])
        for code, rows in ((1, self.candidate_only), (2, self.primary_only), (3, self.both)):
            rows.extend((blocks == code).sum(axis=1, dtype=np.int32))

    def counts(self) -> tuple[NDArray, NDArray, NDArray]:
        return np.array(self.candidate_only), np.array(self.primary_only), np.array(self.both)

    def few(self) -> tuple[NDArray, NDArray]:
        early = np.array(self.early)
        return early[:, 0], early[:, 1]


def codes(
    rng: np.random.Generator, labels: int, rollouts: int, difference: Schedule, *, differ: float, both: float = 0.05
) -> Iterator[NDArray[np.int8]]:
    """Blocks of codes: `differ` is the share of requests on which exactly one model is wrong."""
    block = 4 * Intervals.LENGTH
    for start in range(0, labels, block):
        t = np.arange(start, min(start + block, labels))
        one = ((differ + difference(t)) / 2).astype(np.float32)[:, None]
        u = rng.random((len(t), rollouts), dtype=np.float32)
        drawn = np.full(u.shape, 0, dtype=np.int8)
        drawn[u < differ + both] = 3
        drawn[u < differ] = 2
        drawn[u < one] = 1
        yield drawn


def brier(rng: np.random.Generator, labels: int, rollouts: int, difference: float) -> Iterator[Floats]:
    """Blocks of differences of squared errors: forecasts are the true chance ± an error, the candidate's a bit larger."""
    error = 0.1
    ours = np.sqrt(error**2 + difference)
    for start in range(0, labels, 100):
        shape = min(100, labels - start), rollouts
        chance = rng.uniform(0.2, 0.8, shape)
        label = rng.random(shape) < chance
        signs = rng.integers(0, 2, (2, *shape)) * 2 - 1
        yield (chance + ours * signs[0] - label) ** 2 - (chance + error * signs[1] - label) ** 2


def judge(blocks: Iterator[NDArray], walks: Sequence[Walk], intervals: Intervals | None = None) -> None:
    """Every walk sees every label; stops early when nothing is left to decide and no interval is asked for."""
    for block in blocks:
        if intervals is not None:
            intervals.add(block)
        for row in DIFFERENCE[block] if block.dtype == np.int8 else block:
            for walk in walks:
                walk.step(row)
        if intervals is None and all(walk.first.all() for walk in walks):
            return


# Schedules of the true difference


def constant(points: float) -> Schedule:
    return lambda t: np.full(len(t), points)


def day_and_night(day: float, night: float, half: int = 1000) -> Schedule:
    return lambda t: np.where((t // half) % 2 == 0, day, night)


def first_then(first: float, then: float, change: int) -> Schedule:
    return lambda t: np.where(t < change, first, then)


# Labels that come late


@dataclass(frozen=True)
class Delays:
    """Mean delay, in requests, of a label by its difference (exponential)."""

    worse: float
    better: float
    same: float


def delayed(
    rng: np.random.Generator, labels: int, rollouts: int, *, points: float, differ: float, delays: Delays
) -> tuple[NDArray[np.int8], Floats]:
    """Differences in request order and the time at which each label comes; some more requests than labels."""
    requests = labels + 3 * int(max(delays.worse, delays.better, delays.same)) // 2
    u = rng.random((requests, rollouts), dtype=np.float32)
    drawn = np.where(u < (differ + points) / 2, 1, np.where(u < differ, -1, 0)).astype(np.int8)
    mean = np.array([delays.same, delays.worse, delays.better])[drawn]
    return drawn, np.arange(1.0, requests + 1)[:, None] + rng.exponential(1.0, drawn.shape) * mean


def in_order_of_arrival(drawn: NDArray[np.int8], arrival: Floats, labels: int) -> NDArray[np.int8]:
    """What a judge who counts labels as they come sees first."""
    order = np.argpartition(arrival, labels, axis=0)[:labels]
    sub = np.take_along_axis(arrival, order, axis=0)
    order = np.take_along_axis(order, np.argsort(sub, axis=0), axis=0)
    return np.take_along_axis(drawn, order, axis=0)


def shortcut(drawn: NDArray[np.int8], arrival: Floats, labels: int) -> NDArray[np.int8]:
    """The mutant: agreements (whose difference is known to be 0) count at once, disagreements with their label."""
    at_once = np.where(drawn == 0, np.arange(1.0, len(drawn) + 1)[:, None], arrival)
    return in_order_of_arrival(drawn, at_once, labels)


def settled_crossing(
    drawn: NDArray[np.int8],
    arrival: Floats,
    labels: int,
    *,
    m: float,
    side: str,
    alpha: float,
    ages: Sequence[int] = (0,),
) -> NDArray:
    """`MeanEvidence` over the requests of at least some age, in request order, pending disagreements as the worst.

    The first crossing (or 0) over all `ages`; 0 is every request so far. Each is below what the same requests will
    say when all their labels have come, and that is an e-process at every length at once: any of them may cross.
    """
    stakes = np.array(bets(-1.0, 1.0, 0.0))
    stakes = stakes[:RUNGS] if side == "above" else stakes[RUNGS:]
    helps = -1 if side == "below" else 1  # the labels that only count once they are known
    logs = [(np.log1p(helps * s), np.log1p(-helps * s), np.log1p(s * m)) for s in stakes]
    came = np.minimum(np.ceil(arrival).astype(np.int64), labels + 1)
    rows, columns = np.nonzero(drawn[:labels] == helps)
    differing = np.cumsum(drawn[:labels] != 0, axis=0)
    first = np.full(drawn.shape[1], labels + 1)
    for age in ages:
        seen = np.zeros((labels + 2, drawn.shape[1]), dtype=np.int32)
        np.add.at(seen, (np.minimum(np.maximum(came[rows, columns], rows + 1 + age), labels + 1), columns), 1)
        known = np.cumsum(seen, axis=0)[1 + age : labels + 1]
        at = _crossing(known, differing[: labels - age] - known, logs, 1 / alpha)
        first = np.where(at > 0, np.minimum(first, at + age), first)
    return np.where(first <= labels, first, 0)


def _crossing(known: NDArray, against: NDArray, logs: Sequence[tuple[float, float, float]], enough: float) -> NDArray:
    first = np.zeros(known.shape[1], dtype=np.int64)
    n = np.arange(1, len(known) + 1)[:, None]
    for start in range(0, len(known), 2000):
        part = slice(start, start + 2000)
        total = np.zeros(known[part].shape)
        for helping, hurting, paid in logs:
            total += np.exp(np.minimum(known[part] * helping + against[part] * hurting - n[part] * paid, 600))
        crossed = total / len(logs) >= enough
        new = crossed.any(axis=0) & (first == 0)
        first[new] = start + 1 + crossed.argmax(axis=0)[new]
    return first


# One model per request, with shares that change


class AttributionWalk(Walk):
    """`AttributionEvidence` against the ratio: fed with (failed, candidate served, share)."""

    def __init__(self, rollouts: int, alpha: float, ratio: float, side: str) -> None:
        super().__init__(rollouts, alpha)
        self._stakes = np.array(ABOVE if side == "above" else FEWER)
        self._ratio = ratio
        self._stocks = np.ones((rollouts, len(self._stakes)))

    def see(self, failed: NDArray, candidate: NDArray, share: float) -> None:
        self._paid = 1.0 + self._stakes * fair_part(share, self._ratio)
        self.step(np.where(failed, candidate.astype(np.int8), np.int8(-1)))

    def _move(self, values: NDArray) -> None:
        for candidate in (0, 1):
            self._stocks[values == candidate] *= (1.0 + self._stakes * candidate) / self._paid
        if self.n % RESCALE == 0:
            _tidy(self._stocks)

    def e(self) -> Floats:
        return self._stocks.mean(axis=1)


@dataclass(frozen=True)
class Ramp:
    """Shares of the candidate and error rates of both models, in equal parts of the rollout."""

    shares: Sequence[float]
    primary: Sequence[float]
    candidate: Sequence[float]


def ramp(
    rng: np.random.Generator, labels: int, plan: Ramp, ipw: Sequence[MeanWalk], errors: Sequence[AttributionWalk]
) -> NDArray:
    """Feed the walks; gives cumulative [requests, errors] of both models per 100 labels, for the pooled z-test."""
    rollouts = len(ipw[0].first)
    losses, seen = np.zeros(rollouts), []
    totals = np.zeros((4, rollouts), dtype=np.int64)
    for t in range(labels):
        part = t * len(plan.shares) // labels
        share = plan.shares[part]
        candidate = rng.random(rollouts, dtype=np.float32) < share
        failed = rng.random(rollouts, dtype=np.float32) < np.where(candidate, plan.candidate[part], plan.primary[part])
        centre = losses / t if t else np.full(rollouts, 0.5)
        moved = failed - centre
        value = np.where(candidate, moved / share, -moved / (1.0 - share))
        for walk in ipw:
            walk.step(value)
        for walk in errors:
            walk.see(failed, candidate, share)
        losses += failed
        totals += np.stack([candidate, ~candidate, candidate & failed, ~candidate & failed])
        if (t + 1) % 100 == 0:
            seen.append(totals.copy())
    return np.array(seen)
