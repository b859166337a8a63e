"""A table as history for a replay: rows as callers send them, times, and labels."""

from pathlib import Path
from typing import Any

import pytest

from understudy.errors import ConfigurationError
from understudy.offline import table_history
from understudy.offline.starting.survey import Roles
from understudy.offline.table_history import PastRequest, TableHistory, history, label_in

DAY = 86_400.0
FIELD = {"scalar": True, "nullable": True, "required": True, "description": ""}
POLICY = {
    "fields": [
        {"name": "age", "dtype": "float32", "shape": [], **FIELD},
        {"name": "v", "dtype": "float32", "shape": [2], **FIELD},
    ],
    "context": ["who"],
    "classes": [0, 1],
}


ROLES = Roles("y")


def read(folder: Path, text: str, roles: Roles = ROLES, **options: Any) -> TableHistory:
    (folder / "d.csv").write_text(text, encoding="utf-8")
    return history(folder / "d.csv", roles, POLICY, **{"over_s": 2 * DAY, "now": 100 * DAY, **options})


def test_rows_are_what_callers_send(tmp_path: Path) -> None:
    """Vectors are put together, missing values are null, and the routing key goes along."""
    found = read(tmp_path, "Age,v0,v1,who,y\n,1,2.5,ada,1\n")

    assert [each.row for each in found.requests] == [{"age": None, "v": [1, 2.5], "who": "ada"}]
    assert any("`Age`" in note for note in found.notes)


def test_rows_without_times_are_spread_up_to_now(tmp_path: Path) -> None:
    """And it is said; their labels are known at once."""
    found = read(tmp_path, "age,v0,v1,y\n" + "1,1,1,0\n" * 4)
    requests = list(found.requests)

    assert [each.scheduled_at / DAY for each in requests] == [98.0, 98.5, 99.0, 99.5]
    assert all(each.label_at == each.scheduled_at for each in requests)
    assert any("spread evenly over 2 days" in note for note in found.notes)


def test_rows_are_sent_in_the_order_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in another order is sorted, unless it is too long for that."""
    text = "age,v0,v1,y,t,k\n1,1,1,0,2024-01-02,2024-01-03\n2,1,1,1,2024-01-01,\n"
    roles = Roles("y", at="t", label_at="k")
    found = read(tmp_path, text, roles)
    requests: list[PastRequest] = list(found.requests)

    assert [each.row["age"] for each in requests] == [2, 1]
    assert requests[1].label_at == requests[1].scheduled_at + DAY
    assert requests[0].label_at == requests[0].scheduled_at
    assert "the rows are sorted by t" in found.notes
    monkeypatch.setattr(table_history, "SORTED_ROWS_MAX", 1)
    with pytest.raises(ConfigurationError, match="2 rows that are not in the order of time: sort them by t"):
        read(tmp_path, text, roles)


def test_a_row_without_a_label_is_sent_without_one(tmp_path: Path) -> None:
    (request,) = read(tmp_path, "age,v0,v1,y\n1,1,1,\n").requests
    assert (request.label, request.label_at) == (None, None)


def test_only_the_first_rows_are_sent(tmp_path: Path) -> None:
    found = read(tmp_path, "age,v0,v1,y\n" + "1,1,1,0\n" * 4, limit=3)
    assert found.rows == len(list(found.requests)) == 3


def test_a_table_without_the_fields_of_the_service_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`v` takes 2 numbers a row, and 1 columns are left for it: `v0`"):
        read(tmp_path, "age,v0,y\n1,1,0\n")
    with pytest.raises(ConfigurationError, match="has no rows"):
        read(tmp_path, "age,v0,v1,y\n")


@pytest.mark.parametrize(
    ("value", "classes", "label"),
    [
        ("1.0", [0, 1], 1),
        ("2.5", [], 2.5),
        ("cat", [], "cat"),
        ("[1, 2]", [], (1, 2)),
        ('["a"]', ["a", "b"], ("a",)),
        ("NA", [], None),
        ("", [0, 1], None),
        (["a"], ["a", "b"], ("a",)),
    ],
)
def test_labels(value: object, classes: list[int | str], label: object) -> None:
    """Classes, numbers, vectors and sets of classes."""
    assert label_in(value, classes, "d.csv, line 2") == label


def test_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="line 2: the label '7' is none of the model's classes"):
        label_in("7", [0, 1], "d.csv, line 2")
    with pytest.raises(ConfigurationError, match="is no list in JSON"):
        label_in("[1,", [], "d.csv, line 2")
