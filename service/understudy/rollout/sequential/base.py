"""What every kind of evidence has in common: the grid's version, a state that survives a restart, and a clear refusal.

Evidence is a handful of numbers. `settings` are frozen when it starts (bounds, lines, shares); `totals` grow. Two
pieces of evidence merge, and a stored one resumes, only where grid and settings are the same: anything else would be
a different test that inherits somebody else's luck.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

GRID = 1
"""Version of all bets and weights in this package. It is stored with every state; a change of any bet raises it."""

RUNGS = 9
"""Bets per side of the mean engine, each half of the one before."""

STRONGEST = 0.95
"""The strongest bet stakes this part of the worst loss, so that no factor ever reaches zero."""


class SequentialEvidence(ABC):
    """Numbers that add up, with their settings frozen. Subclasses say what the numbers are."""

    KIND: ClassVar[str]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments: what must be equal for two states to be about the same question."""

    @abstractmethod
    def totals(self) -> dict[str, Any]:
        """What has been counted so far, as JSON-able values."""

    @abstractmethod
    def take(self, totals: Mapping[str, Any]) -> None:
        """Count what these totals have counted. On fresh evidence that restores them, to the last bit."""

    def state(self) -> dict[str, Any]:
        """Everything there is to know, JSON-able; `from_state` gives an equal object back, bit for bit."""
        return {"kind": self.KIND, "grid": GRID, "settings": self.settings(), "totals": self.totals()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The evidence that `state()` was taken from. Refuses another kind, another grid and damaged totals."""
        kind, grid = state.get("kind"), state.get("grid")
        if kind != cls.KIND:
            raise ValueError(f"this state is of kind {kind!r}; {cls.__name__} needs {cls.KIND!r}")
        if grid != GRID:
            raise ValueError(f"this state was made with bets of version {grid!r}, this program has {GRID}: start anew")
        evidence = cls(**state["settings"])
        try:
            evidence.take(state["totals"])
        except (KeyError, TypeError, IndexError) as problem:
            raise ValueError(f"these totals of {cls.KIND!r} are damaged: {problem!r}") from problem
        return evidence

    def resume(self, state: Mapping[str, Any]) -> Self:
        """As `from_state`, and refuses a state whose settings are not this object's.

        A changed bound, line or share is a changed question: it starts new evidence, it never inherits.
        """
        stored = type(self).from_state(state)
        self.require_same(stored)
        return stored

    def require_same(self, other: "SequentialEvidence") -> None:
        """Raise ValueError unless `other` asks the same question with the same bets."""
        if type(other) is not type(self):
            raise ValueError(f"cannot join {other.KIND!r} to {self.KIND!r}")
        mine, theirs = self.settings(), other.settings()
        differing = [
            f"{name} is {mine[name]!r} here and {theirs[name]!r} there" for name in mine if mine[name] != theirs[name]
        ]
        if differing:
            raise ValueError(f"cannot join this evidence of kind {self.KIND!r}: {', '.join(differing)}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        named = ", ".join(f"{name}={value!r}" for name, value in {**self.settings(), **self.totals()}.items())
        return f"{type(self).__name__}({named})"


class Mergeable(SequentialEvidence):
    """Evidence for which neither order nor grouping matters: every worker may count for itself."""

    def merge(self, other: Self) -> None:
        """Add another worker's evidence about other requests."""
        self.require_same(other)
        self.take(other.totals())


def log_sum_exp(terms: Iterable[float]) -> float:
    """Log Σ exp(term), without overflow; minus infinity for nothing.

    >>> round(log_sum_exp([1000.0, 1000.0]) - 1000.0, 6)
    0.693147
    """
    values = list(terms)
    top = max(values, default=-math.inf)
    if top in {-math.inf, math.inf}:
        return top
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def threshold(alpha: float) -> float:
    """Log 1/α: what a log e-value must reach. Ville: an e-process of a true null ever does with chance at most α."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha!r}; it is a chance above 0 and below 1")
    return -math.log(alpha)


def crossed(log_e: float, alpha: float) -> bool:
    """Whether the evidence suffices at error level `alpha`.

    >>> crossed(3.1, alpha=0.05), crossed(2.9, alpha=0.05)
    (True, False)
    """
    return log_e >= threshold(alpha)


def checked(name: str, value: float, low: float, high: float) -> float:
    """`value` as a float, or ValueError where it is not inside [low, high]; NaN never is."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a number in [{low!r}, {high!r}]")
    return float(value)


def counted(name: str, value: Any) -> int:
    """`value` as a count, or ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, 0 or more")
    return value
