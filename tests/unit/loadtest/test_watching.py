"""What became of a load's records: given up, late, or where they belong."""

import pytest

from understudy.loadtest.watching import Counts, RecordsWatch


def counts(rows: float, dropped: float = 5.0) -> Counts:
    return Counts({"rows/load": rows - 10, "rows/live": 10, "requests/primary/load/200": 7}, dropped)


@pytest.mark.parametrize(
    ("soon", "last", "loss"),
    [
        (counts(1_100), counts(1_100), 0.0),
        (counts(600), counts(1_100), 0.5),  # the rest came, but too late to say that the service keeps up
        (counts(1_100, dropped=1_005), counts(1_100, dropped=1_005), 0.5),
        (counts(600), counts(1_100, dropped=1_005), 0.75),
        (counts(100), counts(100), 0.0),  # nothing was answered
    ],
)
def test_records_that_were_given_up_or_came_late_are_lost(soon: Counts, last: Counts, loss: float) -> None:
    """As a share of all that were made after the warm-up."""
    assert RecordsWatch(counts(100), soon, last).loss == loss
