"""The example's flights as a data source of `understudy replay`, `demo`, `evaluate` and `loadtest`; pyproject.toml registers it."""

from collections.abc import Sequence

from models import data, features
from understudy.offline.sources import HeldOut, Moment


class Flights:
    """The flights of 2013, whose label is whether they arrived late: see `models.data`."""

    fields = features.NAMES

    def moments(self, month: int, limit: int | None = None) -> Sequence[Moment]:
        """A month of flights in the order of scheduled departure."""
        return data.replay_rows(month, limit)

    def held_out(self, months: Sequence[int]) -> HeldOut:
        """The flights of some months, and what training feeds a model for them."""
        frame = data.month_of(data.load(), *months)
        return HeldOut(
            name="the flights of 2013, months " + ", ".join(map(str, months)),
            moments=((flight, f"2013-{flight.row['month']:02d}") for flight in data.flights(frame)),
            segments=("carrier", "origin"),
            classes=(0, 1),
            feeds=features.feeds(frame),
        )


FLIGHTS = Flights()
