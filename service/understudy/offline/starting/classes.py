"""Which class each probability belongs to, where neither graph nor card says so: worked out from labels and answers. Pure.

Converters sort the classes, so the sorted labels are the first guess. It is then held against the data: the right order is the one
in which the likeliest class is right most often. A model's own label output, where it has one, leaves nothing to guess.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ORDERS_MAX = 6
"""With more classes not every order is tried: each class in turn then takes the column that says it most often."""
BEATS = 0.02
"""Another order is proposed only if it is right on this much more of the rows than the sorted one."""

CHANCE = 3.0
"""And on so many standard deviations more, since the best of many orders looks better than it is."""

ClassList = list[int | str]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Order:
    """The classes in the order of the probabilities.

    Attributes:
        accuracy: share of the rows on which the likeliest class is the label.
        sorted_accuracy: the same if the classes are taken in sorted order.
        exact: whether the model's own label output says so.
    """

    classes: ClassList
    accuracy: float
    sorted_accuracy: float
    exact: bool = False

    @property
    def is_sorted(self) -> bool:
        """Whether this is the sorted order."""
        return self.classes == sorted(self.classes, key=lambda name: (isinstance(name, str), name))


def counts(columns: Sequence[int], labels: Sequence[int | str], names: ClassList) -> Counts:
    """How often each column was the likeliest where each class was the label: int64 [columns, classes]."""
    place = {name: i for i, name in enumerate(names)}
    found = np.zeros((len(names), len(names)), np.int64)
    for column, label in zip(columns, labels, strict=True):
        if label in place:
            found[column, place[label]] += 1
    return found


def order(found: Counts, names: ClassList) -> Order:
    """The order of the classes that is right most often, or the sorted one if no other is clearly better.

    Args:
        found: as from `counts`.
        names: the classes, sorted.
    """
    total = max(int(found.sum()), 1)
    straight = float(np.trace(found)) / total
    best = _best(found)
    right = float(sum(found[column, best[column]] for column in range(len(names)))) / total
    if right - straight <= BEATS + CHANCE / math.sqrt(total):
        return Order(list(names), straight, straight)
    return Order([names[place] for place in best], right, straight)


def _best(found: Counts) -> list[int]:
    """Column → class, for the assignment with the most right rows."""
    size = len(found)
    if size <= ORDERS_MAX:
        return list(
            max(
                itertools.permutations(range(size)),
                key=lambda each: sum(int(found[column, place]) for column, place in enumerate(each)),
            )
        )
    rest, columns = found.astype(np.float64), [0] * size
    for _ in range(size):
        column, place = np.unravel_index(int(np.argmax(rest)), rest.shape)
        columns[int(column)] = int(place)
        rest[column, :] = rest[:, place] = -1.0
    return columns


def told_by_labels(columns: Sequence[int], own: Sequence[int | str], width: int) -> ClassList | None:
    """The classes in the order of the probabilities, from a model's own label output; None if it does not say all of them.

    Args:
        columns: the likeliest column of each row.
        own: the label that the model gave to it.
    """
    found: dict[int, set[int | str]] = {}
    for column, label in zip(columns, own, strict=True):
        found.setdefault(column, set()).add(label)
    if len(found) < width or any(len(names) != 1 for names in found.values()):
        return None
    names = [next(iter(found[column])) for column in range(width)]
    return names if len(set(names)) == width else None


def comment(found: Order, source: str, name: str) -> str:
    """What was guessed, from what, and how sure it is, for the rollout file."""
    if found.exact:
        return f"the order of {name}'s probabilities, as its own labels on {source} show it"
    if found.is_sorted:
        return (
            f"a guess: the labels of {source} in sorted order, as converters write them; so {name}'s likeliest class is right on "
            f"{found.accuracy:.1%} of the rows"
        )
    return (
        f"a guess: the labels of {source} in the order in which {name}'s likeliest class is right most often, on "
        f"{found.accuracy:.1%} of the rows; in sorted order it would be right on {found.sorted_accuracy:.1%}"
    )
