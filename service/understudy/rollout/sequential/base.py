"""The base class of all sequential evidence: its stored state, the version of its bets, and the checks before a merge.

Evidence is a few numbers. Its `settings` (bounds, lines, shares) are frozen when it starts; its `totals` grow. Two
objects merge, and a stored one is resumed, only if the version of the bets and the settings are equal. Otherwise the
stored numbers answer another question, and the error guarantee would not hold.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypedDict, TypeVar

GRID = 1
"""Version of all bets and weights in this package. It is stored with every state; raise it when any bet changes."""

RUNGS = 9
"""Bets per side of `MeanEvidence`, each half of the one before."""

STRONGEST = 0.95
"""The strongest bet stakes this part of the worst loss, so that no factor ever reaches zero."""

Settings: TypeAlias = dict[str, float]
"""Arguments of a constructor, by name."""
T = TypeVar("T", bound=Mapping[str, object])


class State(TypedDict, Generic[T]):
    """A stored object of one kind of evidence, as JSON."""

    kind: str
    grid: int
    settings: Settings
    totals: T


AnyState: TypeAlias = State[Any]
"""The state of some kind of evidence, for code that handles several kinds."""


class SequentialEvidence(ABC, Generic[T]):
    """Sums about one question, with frozen settings. `T` is the type of the sums (`totals`), which a subclass defines."""

    KIND: ClassVar[str]

    @abstractmethod
    def settings(self) -> Settings:
        """The constructor's arguments. Two objects with equal settings answer the same question."""

    @abstractmethod
    def totals(self) -> T:
        """What has been counted so far, as JSON values."""

    @abstractmethod
    def take(self, totals: T) -> None:
        """Add stored totals. On new evidence this restores them bit for bit."""

    def state(self) -> State[T]:
        """The whole object as JSON values; `from_state` restores it bit for bit."""
        return {"kind": self.KIND, "grid": GRID, "settings": self.settings(), "totals": self.totals()}

    @classmethod
    def from_state(cls, state: State[T]) -> Self:
        """Restore evidence from its `state()`.

        Raises:
            ValueError: if the state has another kind or other bets, or if its totals are damaged.
        """
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

    def resume(self, state: State[T]) -> Self:
        """Restore evidence from its `state()`, as `from_state` does, with the same settings as this object.

        Raises:
            ValueError: also if the settings differ. A changed bound, line or share is a new question, which needs new evidence.
        """
        stored = type(self).from_state(state)
        self.require_same(stored)
        return stored

    def require_same(self, other: "SequentialEvidence[Any]") -> None:
        """Raise ValueError unless `other` has the same kind and the same settings."""
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

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        named = ", ".join(f"{name}={value!r}" for name, value in (*self.settings().items(), *self.totals().items()))
        return f"{type(self).__name__}({named})"


class Mergeable(SequentialEvidence[T]):
    """Evidence that does not depend on order or grouping, so that several workers may each count a part."""

    def merge(self, other: Self) -> None:
        """Add the evidence of other requests."""
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
    """Log 1/α, which a log e-value must reach. Under a true null it ever does so with chance at most α (Ville)."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha!r}; it is a chance above 0 and below 1")
    return -math.log(alpha)


def crossed(log_e: float, alpha: float) -> bool:
    """Whether a log e-value is large enough to decide at error level `alpha`.

    >>> crossed(3.1, alpha=0.05), crossed(2.9, alpha=0.05)
    (True, False)
    """
    return log_e >= threshold(alpha)


def checked(name: str, value: float, low: float, high: float) -> float:
    """`value` as a float; raises ValueError if it is not in [low, high] (NaN never is)."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a number in [{low!r}, {high!r}]")
    return float(value)


def counted(name: str, value: object) -> int:
    """`value` as a count; raises ValueError if it is not a whole number of 0 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, 0 or more")
    return value
