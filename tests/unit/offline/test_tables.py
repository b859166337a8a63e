"""Tables as users bring them: separators, encodings, and files that are none."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from understudy.errors import ConfigurationError
from understudy.offline import tables
from understudy.offline.tables import open_table


def write(folder: Path, content: str | bytes, name: str = "d.csv") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refused(file: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        list(open_table(file).read())
    return error.value.detail


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a,b\n1,x y\n,z\n", "d.csv"),
        ("a;b\n1;x y\n;z\n", "d.csv"),
        ("a\tb\n1\tx y\n\tz\n", "d.csv"),
        ("a|b\r\n1|x y\r\n|z\r\n", "d.txt"),
        ("\ufeffa,b\n1,x y\n\n,z\n", "d.csv"),
        ("a,b,\n1,x y,\n,z,\n", "d.csv"),
        ('"a","b"\n"1","x y"\n"","z"\n', "d.csv"),
        ("a\tb\n1\tx y\n\tz\n".encode("utf-16"), "d.csv"),
    ],
)
def test_the_ways_in_which_tools_write_csv(tmp_path: Path, content: str | bytes, name: str) -> None:
    """An empty cell is None; empty lines and a separator at the end of each line are nothing."""
    table = open_table(write(tmp_path, content, name))

    assert table.columns == ("a", "b")
    assert [record for _, record in table.read()] == [{"a": "1", "b": "x y"}, {"a": None, "b": "z"}]
    assert next(record for _, record in table.read())["a"] == "1", "it can be read again"


def test_the_encoding_of_excel_is_said(tmp_path: Path) -> None:
    """Windows-1252, with the line that shows it; numbers may have a decimal comma where semicolons separate."""
    table = open_table(write(tmp_path, "Ort;Preis\nUlm;1,5\nKöln;2,5\n".encode("cp1252")))

    assert [record["Ort"] for _, record in table.read()] == ["Ulm", "Köln"]
    assert table.decimal_comma
    assert "line 3" in table.notes[0]
    assert "Windows-1252" in table.notes[0]
    assert "separated by semicolons" in table.notes[1]


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """Byte 0x81 is in neither."""
    assert "line 2 is neither UTF-8 nor Windows-1252" in refused(write(tmp_path, b"a,b\n\x81,1\n"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty: it needs a line with the names of the columns"),
        ("\ufeff \n\n", "is empty"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\x1f\x8b\x08", "compressed with gzip: unpack it first"),
        ("a,b,a\n1,2,3\n", "has the column `a` 2 times (columns 1, 3)"),
        ("a,,\n1,2,3\n", "the number of cells differs from the header: 3 cells, 1 columns"),
        ("a,,b,\n1,2,3,4\n", "the number of cells differs"),
        ("1,2.5,3\n4,5,6\n", "begins with numbers (1, 2.5, 3, …)"),
        ("a,b\n1,2\n1,2,3\n", "line 3: the number of cells differs from the header: 3 cells, 2 columns"),
        ('a,b\n1,"2\n', "line 2 cannot be read: unexpected end of data"),
    ],
)
def test_what_is_no_table_is_refused_with_the_way_out(tmp_path: Path, content: str | bytes, told: str) -> None:
    """Each names the file, and the line where there is one."""
    detail = refused(write(tmp_path, content))

    assert told in detail
    assert "d.csv" in detail


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.csv").endswith("no.csv cannot be read: No such file or directory")


def test_json_lines_have_the_columns_of_their_first_rows(tmp_path: Path) -> None:
    """NaN, which Python writes, is a missing value; also in a list."""
    table = open_table(write(tmp_path, '{"a": NaN}\n\n{"b": [1, NaN], "a": 2.5}\n', "d.jsonl"))

    assert table.columns == ("a", "b")
    assert list(table.read()) == [(1, {"a": None}), (3, {"b": [1, None], "a": 2.5})]


@pytest.mark.parametrize("content", ['[{"a": 1}]', '[\n {"a": 1}\n]', '{\n "a": 1\n}'])
def test_json_that_is_no_object_per_line_is_refused_with_the_way_out(tmp_path: Path, content: str) -> None:
    """What pandas writes by default."""
    assert "lines=True" in refused(write(tmp_path, content, "d.json"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file is called."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "needs pyarrow: `pip install pyarrow`, or save the data as CSV" in refused(write(tmp_path, b"PAR1", "d.bin"))


def test_parquet_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow is an optional package, so its two calls are stood in for."""

    class File:
        schema_arrow = SimpleNamespace(names=["a", "b"])

        def __init__(self, path: Path) -> None:
            self.path = path

        def iter_batches(self, batch_size: int) -> Any:
            for number in (1.0, float("nan")):
                yield SimpleNamespace(to_pylist=lambda number=number: [{"a": number, "b": b"x"}])

    fakes = {
        "pyarrow": ModuleType("pyarrow"),
        "pyarrow.lib": SimpleNamespace(ArrowException=ValueError),
        "pyarrow.parquet": SimpleNamespace(ParquetFile=File),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    table = open_table(write(tmp_path, b"PAR1", "d.parquet"))

    assert table.columns == ("a", "b")
    assert list(table.read()) == [(1, {"a": 1.0, "b": "x"}), (2, {"a": None, "b": "x"})]


def test_a_real_parquet_file(tmp_path: Path) -> None:
    """Where pyarrow is installed."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"a": [1, None], "b": ["x", "y"]}), tmp_path / "d.parquet"
    )

    assert list(open_table(tmp_path / "d.parquet").read()) == [(1, {"a": 1, "b": "x"}), (2, {"a": None, "b": "y"})]


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """The first rows come before the last one is read."""
    file = tmp_path / "d.csv"
    with file.open("w") as out:
        out.write("a,b\n")
        out.writelines("1,2\n" for _ in range(tables.BLOCK_BYTES // 2))
        out.write("1,2,3\n")
    rows = open_table(file).read()

    assert next(rows) == (2, {"a": "1", "b": "2"})
