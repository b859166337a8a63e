"""The 18 raw inputs that both example models take, by name: what they mean, which may be missing, how to feed them.

Everything here is known at the scheduled departure: the weather is an observation of an earlier hour (see `data.py`).
This module needs NumPy only, so that whoever replays traffic or feeds a graph does not load a training library.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # not needed to feed a graph
    import pandas as pd

Column: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.object_]

NUMERIC: Mapping[str, str] = {
    "month": "month of the scheduled departure, 1 to 12, local time",
    "day": "day of the month, 1 to 31",
    "dow": "day of the week, 0 is Monday",
    "sched_hour": "hour of the scheduled departure, 0 to 23, local time",
    "sched_min": "minute of the scheduled departure, 0 to 59",
    "sched_arr_hour": "hour of the scheduled arrival, 0 to 23, local time at the destination",
    "distance": "distance between the airports, miles",
    "temp": "temperature, degrees Fahrenheit, observed two hours before the scheduled departure's hour",
    "dewp": "dew point, degrees Fahrenheit, observed two hours earlier",
    "humid": "relative humidity, percent, observed two hours earlier",
    "wind_speed": "wind speed, miles per hour, observed two hours earlier",
    "precip": "precipitation, inches, observed two hours earlier",
    "pressure": "sea level pressure, millibars, observed two hours earlier",
    "visib": "visibility, miles, observed two hours earlier",
    "plane_age": "years since the plane was built",
}
"""float32 inputs of shape [rows, 1], in the order of the graph's inputs."""

CATEGORICAL: Mapping[str, str] = {
    "carrier": "two-character code of the airline, as in `UA`",
    "origin": "airport of departure: EWR, JFK or LGA",
    "dest": "airport of arrival, as in `IAH`",
}
"""String inputs of shape [rows, 1], after the numeric ones."""

WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
"""The inputs that come from the weather table."""

NULLABLE = frozenset((*WEATHER, "plane_age"))
"""Inputs that a row may leave unknown (`null`, NaN): the graph imputes them. The others are known for every flight."""

NAMES: tuple[str, ...] = (*NUMERIC, *CATEGORICAL)
"""All 18 inputs, in the order of the graph's inputs."""


def feeds(frame: "pd.DataFrame") -> dict[str, Column]:
    """What ONNX Runtime is fed for the rows of a pandas frame with the 18 columns.

    Returns:
        Fifteen float32 arrays (missing is NaN) and three object arrays of `str` (missing is ""), each [rows, 1].
    """
    columns: dict[str, Column] = {
        name: frame[name].to_numpy(dtype=np.float32, na_value=np.nan).reshape(-1, 1) for name in NUMERIC
    }
    for name in CATEGORICAL:
        columns[name] = frame[name].to_numpy(dtype=object, na_value="").reshape(-1, 1)
    return columns
