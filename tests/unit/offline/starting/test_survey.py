"""One pass over a table: what its columns hold, and what is wrong with them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudy.inference.decoding import Field
from understudy.offline.matching import match
from understudy.offline.starting.survey import (
    Roles,
    Survey,
    Surveyor,
    check_cells,
    check_labels,
    check_roles,
    label_names,
)
from understudy.offline.tables import open_table

FIELDS = [Field("age", "float32"), Field("n", "int64"), Field("city", "string")]
ROLES = Roles("y")


def surveyed(folder: Path, text: str, roles: Roles = ROLES, fields: Sequence[Field] = FIELDS) -> Survey:
    (folder / "d.csv").write_text(text, encoding="utf-8")
    table = open_table(folder / "d.csv")
    matching = match(fields, table.columns, list(roles.named.values()), decimal_comma=table.decimal_comma)
    check_roles("d.csv", table.columns, roles, matching)
    surveyor = Surveyor("d.csv", matching, roles)
    for line, record in table.read():
        surveyor.add(line, record)
    check_cells("d.csv", surveyor.found, matching)
    return surveyor.found


def test_missing_values_and_labels_are_counted(tmp_path: Path) -> None:
    """A missing label is none; an empty text is missing, and NA is a text."""
    found = surveyed(tmp_path, "age,n,city,y\n1,2,Ulm,a\nNaN,3,,b\n2.5,NA,NA,\n")

    assert {name: cells.missing for name, cells in found.cells.items()} == {"age": 1, "n": 1, "city": 1}
    assert (found.rows, found.labelled, found.counted) == (3, 2, 2)
    assert label_names(found) == ["a", "b"]
    assert not found.numeric


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["2", "10", "1"], [1, 2, 10]),
        (["1.0", "0"], [0, 1]),
        (["True", "False"], [0, 1]),
        (["b", "a"], ["a", "b"]),
        (["1", "x"], ["1", "x"]),
    ],
)
def test_names_of_labels(tmp_path: Path, labels: list[str], names: list[int | str]) -> None:
    """Whole numbers in the order of numbers."""
    text = "age,n,city,y\n" + "".join(f"1,2,Ulm,{label}\n" for label in labels)
    assert label_names(surveyed(tmp_path, text)) == names


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("old,2,Ulm,1", "line 3, column 'age': 'old' is not what the input `age` takes, a number. Correct these cells"),
        ("1,2.5,Ulm,1", "column 'n': 2.5 is not what the input `n` takes, a whole number (int64)"),
        ("2024-05-01,2,Ulm,1", "A date is no number"),
        ("1,5,2,Ulm,1", "the number of cells differs"),
        ('"1,234.5",2,Ulm,1', "with a decimal point and without separators of thousands"),
    ],
)
def test_a_cell_that_does_not_fit_is_named(tmp_path: Path, row: str, told: str) -> None:
    """With file, line, column, value and the way out."""
    with pytest.raises(ConfigurationError) as error:
        surveyed(tmp_path, f"age,n,city,y\n1,2,Ulm,1\n{row}\n")
    assert told in error.value.detail
    assert "d.csv, line 3" in error.value.detail


def test_like_cells_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\(3 cells of this column are like it\)"):
        surveyed(tmp_path, "age,n,city,y\n" + "x,2,Ulm,1\n" * 3)


def test_a_file_with_nothing_but_a_header(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no rows, only the names of columns"):
        surveyed(tmp_path, "age,n,city,y\n")


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        (Roles("z"), "has no column 'z' for --label; it has age, n, city, y"),
        (Roles("y", key="id"), "has no column 'id' for --key"),
        (Roles("age"), "--label names the column 'age', and the models read it as the input `age`"),
    ],
)
def test_columns_of_options_are_there_and_are_no_input(tmp_path: Path, roles: Roles, told: str) -> None:
    """A label that a model reads would give it the answer."""
    with pytest.raises(ConfigurationError) as error:
        surveyed(tmp_path, "age,n,city,y\n1,2,Ulm,1\n", roles)
    assert told in error.value.detail


def test_labels_that_no_model_has_are_named(tmp_path: Path) -> None:
    """With the number of rows."""
    found = surveyed(tmp_path, "age,n,city,y\n1,2,Ulm,a\n1,2,Ulm,q\n1,2,Ulm,q\n")
    with pytest.raises(ConfigurationError, match=r"\(2 rows\): the label 'q' is none of the model's classes"):
        check_labels("d.csv", found, ["a", "b"])
    with pytest.raises(ConfigurationError, match="no row has a label; is --label the right column"):
        check_labels("d.csv", Survey(rows=3), [])


def test_times_delays_and_repeats(tmp_path: Path) -> None:
    """Repeats of a key within a day count once."""
    text = "age,n,city,y,at,then,who\n"
    text += "1,2,Ulm,1,2024-01-01T00:00:00Z,2024-01-01T02:00:00Z,a\n"
    text += "1,2,Ulm,0,2024-01-01T10:00:00Z,2024-01-02T10:00:00Z,a\n"
    text += "1,2,Ulm,0,2024-01-04T00:00:00Z,,a\n"
    found = surveyed(tmp_path, text, Roles("y", "at", "who", "then"))

    assert found.days == 3.0
    assert found.delays == [7_200.0, 86_400.0]
    assert (len(found.units), found.unit_rows) == (2, 3)
    assert found.few_keys, "a category, and no caller"
    assert (found.labelled, found.counted) == (3, 3)


def test_of_callers_only_the_first_request_a_day_counts(tmp_path: Path) -> None:
    text = "age,n,city,y,who\n" + "".join(f"1,2,Ulm,1,c{i % 100}\n" for i in range(150))
    found = surveyed(tmp_path, text, Roles("y", key="who"))
    assert found.unit
    assert (found.labelled, found.counted) == (150, 100)


def test_a_decimal_comma_is_read_where_semicolons_separate(tmp_path: Path) -> None:
    found = surveyed(tmp_path, "age;n;city;y\n1,5;2;Ulm;2,5\n")
    assert found.cells["age"].wrong == 0
    assert (found.numeric, found.whole) == (True, False)
