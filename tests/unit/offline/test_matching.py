"""Columns of a table and fields of a row: which belongs to which, and what a cell is."""

import pytest

from understudy.inference.decoding import Field
from understudy.offline.matching import Matching, cell, lacking, match

X3 = Field("x", "float32", (3,))


def columns(found: Matching) -> dict[str, tuple[str, ...]]:
    return dict(found.columns)


@pytest.mark.parametrize("column", ["AgeYears", "age years", "Age (years)", "AGE-YEARS", "age_years"])
def test_names_may_differ_in_case_blanks_and_punctuation(column: str) -> None:
    """And it is said, unless the name is the same."""
    found = match([Field("age_years", "float32")], ["id", column])

    assert columns(found) == {"age_years": (column,)}
    assert list(found.notes) == (
        [] if column == "age_years" else [f"input `age_years` is read from the column `{column}`"]
    )


def test_two_columns_that_are_alike_are_not_guessed_between() -> None:
    """The exact name wins; without it there is none."""
    assert columns(match([Field("a b", "float32")], ["A_B", "AB", "a b"])) == {"a b": ("a b",)}
    found = match([Field("a-b", "float32")], ["A_B", "AB"])
    assert [field.name for field in found.lacking] == ["a-b"]


@pytest.mark.parametrize(
    "names",
    [
        ["x0", "x1", "x2"],
        ["x_1", "x_2", "x_3"],
        ["X[0]", "X[1]", "X[2]"],
        ["x2", "x0", "x1"],
        ["f0", "f1", "f2"],
        ["length", "width", "height"],
    ],
)
def test_a_vector_may_be_spread_over_columns(names: list[str]) -> None:
    """Numbered, in any order; or all that are left, in the order of the file."""
    found = match([X3], ["id", *names, "y"] if names[0] != "length" else [*names, "y"], ["y"])
    order = sorted(names) if names[0] != "length" else names

    assert columns(found) == {"x": tuple(order)}
    assert found.body(dict.fromkeys(names, "1") | {"y": "0"}) == {"x": [1, 1, 1]}
    assert "(3 numbers) is read from the columns" in found.notes[0]


def test_a_vector_whose_columns_cannot_be_told_is_refused_with_the_way_out() -> None:
    """Too many columns, and two groups that fit."""
    found = match([X3], ["a", "b", "c", "d", "y"], ["y"])
    says = lacking(found, ["a", "b", "c", "d", "y"], ["y"])
    assert says is not None
    assert "`x` takes 3 numbers a row, and 4 columns are left for it: `a`, `b`, `c`, `d`" in says
    assert "Name its columns `x0` to `x2`" in says
    assert match([X3], ["a0", "a1", "a2", "b0", "b1", "b2"]).lacking == (X3,)


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    """And with the one that is nearly so called."""
    fields = [Field("temperature", "float32"), Field("wind", "float32")]
    found = match(fields, ["temprature", "y"], ["y"])
    says = lacking(found, ["temprature", "y"], ["y"])

    assert says is not None
    assert says.startswith("no column has the inputs `temperature`, `wind`; is it `temprature`? Then rename it.")
    assert says.endswith("The columns are `temprature`, `y`")


def test_an_optional_field_may_have_no_column() -> None:
    found = match([Field("new", "float32", nullable=True, required=False)], ["y"], ["y"])
    assert lacking(found, ["y"], ["y"]) is None


def test_the_label_is_no_input_under_a_similar_name() -> None:
    assert match([Field("Y", "float32")], ["y"], ["y"]).lacking == (Field("Y", "float32"),)


@pytest.mark.parametrize("text", ["", "NaN", "nan", "NA", "N/A", "null", "NULL", "None", " na ", "#N/A", "<NA>"])
def test_missing_numbers(text: str) -> None:
    """In the ways of pandas, R, SQL and Excel. In texts they are words: NA is Namibia."""
    assert cell(text, Field("x", "float32", nullable=True)) is None
    assert cell(text, Field("s", "string")) == text


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("2.0", "int64", 2),
        ("9007199254740993", "int64", 9007199254740993),
        (" 1.5 ", "float32", 1.5),
        ("1,5", "float32", "1,5"),
        ("1_000", "int64", "1_000"),
        ("inf", "float32", "inf"),
        ("True", "float32", 1),
        ("false", "bool", False),
        ("yes", "bool", True),
        ("2024-01-31", "float32", "2024-01-31"),
    ],
)
def test_cells(text: str, dtype: str, value: object) -> None:
    """What a field does not take stays as it is, so that it can be reported."""
    found = cell(text, Field("x", dtype))
    assert found == value
    assert type(found) is type(value)


def test_decimal_commas() -> None:
    """Only where the file says so, and never with a point."""
    field = Field("x", "float32")
    assert cell("-1,5", field, decimal_comma=True) == -1.5
    assert cell("1.234,5", field, decimal_comma=True) == "1.234,5"
    assert cell("1,234,5", field, decimal_comma=True) == "1,234,5"


def test_an_array_in_a_cell() -> None:
    assert match([X3], ["x"]).body({"x": "[1, 2.5, 3]"}) == {"x": [1, 2.5, 3]}
    assert match([X3], ["x"]).body({"x": "1 2 3"}) == {"x": "1 2 3"}


def test_a_field_whose_column_a_record_lacks_is_left_out() -> None:
    """JSON lines: the decoder then says that it is missing."""
    found = match([Field("a", "float32"), Field("b", "float32")], ["a", "b"])
    assert found.body({"a": 1.0}) == {"a": 1.0}


def test_a_vector_of_any_width_takes_numbered_columns_or_all_that_are_left() -> None:
    """The model says whether it takes so many."""
    field = Field("x", "float32", (None,))
    assert columns(match([field], ["x0", "x1", "other", "y"], ["y"])) == {"x": ("x0", "x1")}
    assert columns(match([field], ["a", "b", "y"], ["y"])) == {"x": ("a", "b")}
    only = match([field], ["a", "y"], ["y"])
    assert only.body({"a": "1", "y": "0"}) == {"x": [1]}
    assert match([Field("s", "string", (None,))], ["a", "b"]).lacking


def test_an_image_is_nested_in_the_order_of_c() -> None:
    field = Field("x", "int64", (2, 2))
    found = match([field], ["x0", "x1", "x2", "x3"])
    assert found.body({f"x{i}": str(i) for i in range(4)}) == {"x": [[0, 1], [2, 3]]}
    assert "(2 x 2 numbers)" in found.notes[0]
