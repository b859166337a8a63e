"""Keeps `understudy check` within a budget of time and memory: how many rows are compared, and how many of them at once."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from understudy.inference.cards import Card

BYTES_PER_ELEMENT = 64
"""Memory that one number of a row takes while rows are drawn and compared: a Python float in a list, and copies in arrays."""
BYTES_PER_ELEMENT_OF_A_RUN = 128
"""Memory that one number of a row takes while a model runs: an estimate for the layers of a convolutional network."""
PROGRAM_MIB = 256
"""Memory of the program and its libraries."""
ROWS_MIN = 2
SAFETY = 0.5
"""Share of the time left that the next batch may take, by what the rows before took."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of time and memory. The time begins when the budget is made.

    Attributes:
        seconds: time limit; at least one row is compared all the same.
        mib: memory limit in MiB. What the program leaves is for the rows and, as much again, for a run.
    """

    seconds: float = 20.0
    mib: int = 1_024
    until: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        object.__setattr__(self, "until", time.monotonic() + self.seconds)

    def left_s(self) -> float:
        """Seconds that are left; negative if the time is over."""
        return self.until - time.monotonic()

    def _half(self) -> int:
        """Bytes for the rows, and for a run."""
        return max(self.mib - PROGRAM_MIB, self.mib // 4) * 2**19

    def rows_in_memory(self, elements: int) -> int:
        """How many rows fit into memory, at least `ROWS_MIN`.

        Args:
            elements: numbers per row; see `elements_of_a_row`.
        """
        return max(ROWS_MIN, self._half() // (elements * BYTES_PER_ELEMENT))

    def rows_at_once(self, elements: int) -> int:
        """How many rows a model may run on at once, at least one."""
        return max(1, self._half() // (elements * BYTES_PER_ELEMENT_OF_A_RUN))

    def rows_in_time(self, seconds_per_row: float) -> int:
        """How many rows fit into a part of the time that is left; 0 if not even one does."""
        return max(0, int(self.left_s() * SAFETY / max(seconds_per_row, 1e-9)))


def elements_of_a_row(cards: Iterable[Card]) -> int:
    """The numbers in a row's inputs and outputs, of the model that has more; a size that varies is taken as it was tried."""
    return max(
        1,
        *(
            sum(
                max((math.prod(shape) for shape in spec.tried), default=math.prod(size or 1 for size in spec.row_shape))
                for spec in card.inputs
            )
            + sum(math.prod(size or 1 for size in output.row_shape) for output in card.outputs)
            for card in cards
        ),
    )
