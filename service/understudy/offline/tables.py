"""Reads tables that users bring: CSV in the ways that tools write it, JSON lines, and Parquet if pyarrow is installed.

One reader for `init`, `check`, `evaluate`, `profile` and `replay`. Rows are read one at a time, so a file may be larger than
memory. What was decided about a file (its separator, its encoding) is said in `Table.notes`.
"""

import codecs
import csv
import datetime
import decimal
import importlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from understudy.errors import ConfigurationError

Record: TypeAlias = Mapping[str, object]
"""One row of a file: column → value. Cells of CSV are texts; an empty cell is None."""
Records: TypeAlias = Iterator[tuple[int, Record]]
"""Rows with their line (Parquet: row) in the file, counted from 1."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
CELL_MAX_CHARS = 64 * 2**20
"""A cell may hold an image as a JSON array."""
LOOKED_AT = 100
"""Columns of JSON lines are those of this many first rows."""
BLOCK_BYTES = 2**20
PARQUET_ROWS = 1_024
NO_TABLES = {
    b"PK\x03\x04": "is an Excel workbook or another zip archive: save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook: save the sheet as CSV",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it first",
}
"""How files begin that are not read."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file that can be read several times.

    Attributes:
        columns: in the order of the file.
        notes: what was decided about the file, for the user.
        decimal_comma: whether numbers may be written 1,5: in a CSV file that is separated by semicolons.
    """

    path: Path
    columns: tuple[str, ...]
    read: Callable[[], Records]
    notes: tuple[str, ...] = ()
    decimal_comma: bool = False


def open_table(path: Path) -> Table:
    """Find out how a file is written.

    Raises:
        ConfigurationError: it is missing, empty, or no table; the message says what to do.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(4_096)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    for magic, says in NO_TABLES.items():
        if begin.startswith(magic):
            raise ConfigurationError(f"{path} {says}")
    suffix = path.suffix.lower()
    if begin.startswith(b"PAR1") or suffix in {".parquet", ".pq"}:
        return _parquet(path)
    if not begin.strip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"):
        raise ConfigurationError(f"{path} is empty: it needs a line with the names of the columns, and a line per row")
    is_json = begin.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in {b"{", b"["}
    if suffix in {".jsonl", ".ndjson", ".json"} or (is_json and suffix not in {".csv", ".tsv"}):
        return _json_lines(path, array=begin.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[")
    return _csv(path)


def _csv(path: Path) -> Table:
    encoding, notes = _encoding(path)
    with path.open(newline="", encoding=encoding) as file:
        first = next((line for line in file if line.strip()), "")
    separator = _separator(first, path)
    if separator != ",":
        notes.append(f"{path} is separated by {SEPARATORS[separator]}s")
    columns = next(_rows(path, encoding, separator))[1]
    names = [name.strip() for name in columns]
    while len(names) > 1 and not names[-1]:
        names.pop()  # many tools end each line with a separator
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        which = "without a name" if not twice[0] else f"`{twice[0]}`"
        raise ConfigurationError(
            f"{path} has the column {which} {Counter(names)[twice[0]]} times (columns "
            f"{', '.join(str(i) for i, name in enumerate(names, 1) if name == twice[0])}): give each column a name of its own"
        )
    if len(names) > 1 and all(_number(name) for name in names):
        raise ConfigurationError(
            f"{path} begins with numbers ({', '.join(names[:4])}, …): its first line must have the names of the columns"
        )

    def read() -> Records:
        width, rows = len(names), _rows(path, encoding, separator)
        next(rows)
        for line, found in rows:
            cells = found[:width] if len(found) > width and not any(found[width:]) else found
            if len(cells) != width:
                raise ConfigurationError(
                    f"{path}, line {line}: the number of cells differs from the header: {len(cells)} cells, {width} columns. A "
                    f"{SEPARATORS[separator]} or a line break inside a cell needs quotes around the cell"
                )
            yield line, {name: cell or None for name, cell in zip(names, cells, strict=True)}

    return Table(path, tuple(names), read, tuple(notes), decimal_comma=separator == ";")


def _rows(path: Path, encoding: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file as cells, without empty lines."""
    csv.field_size_limit(CELL_MAX_CHARS)
    with path.open(newline="", encoding=encoding) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)  # an open quote would swallow rows
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except csv.Error as error:
            raise ConfigurationError(f"{path}, line {reader.line_num} cannot be read: {error}") from None


def _separator(header: str, path: Path) -> str:
    """The separator that occurs most often in the header, outside of quotes."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    plain = "".join(header.split('"')[::2])
    counts = {separator: plain.count(separator) for separator in SEPARATORS}
    most = max(counts, key=lambda separator: counts[separator])
    return most if counts[most] else ","


def _encoding(path: Path) -> tuple[str, list[str]]:
    """The encoding of a text file: by its byte order mark, UTF-8, or what Excel writes on Windows.

    Raises:
        ConfigurationError: it is none of them.
    """
    with path.open("rb") as file:
        mark = file.read(4)
        if mark[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            return "utf-16", [f"{path} is encoded as UTF-16"]
        file.seek(0)
        decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
        while block := file.read(BLOCK_BYTES):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                line += block[: error.start].count(b"\n")
                break
            line += block.count(b"\n")
        else:
            return "utf-8-sig", []
    try:
        with path.open(encoding="cp1252") as text:
            for _ in text:
                pass
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"{path}, line {line} is neither UTF-8 nor Windows-1252 (Western Europe): save the file as UTF-8"
        ) from None
    return "cp1252", [f"{path} is not UTF-8 (line {line}), so it is read as Windows-1252, the encoding of Excel"]


def _json_lines(path: Path, *, array: bool) -> Table:
    def read() -> Records:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not text.strip():
                    continue
                try:
                    record = json.loads(text)
                except ValueError as error:
                    hint = ": write one object per line (pandas: `to_json(…, orient='records', lines=True)`)"
                    raise ConfigurationError(
                        f"{path}, line {number} is not JSON: {error}{hint if array or number == 1 else ''}"
                    ) from None
                if not isinstance(record, dict):
                    raise ConfigurationError(
                        f"{path}, line {number} is not an object of fields and their values: write one object per line "
                        "(pandas: `to_json(…, orient='records', lines=True)`)"
                    )
                yield number, {name: plain(value) for name, value in record.items()}

    columns: dict[str, None] = {}
    for _, record in itertools.islice(read(), LOOKED_AT):
        columns |= dict.fromkeys(record)
    return Table(path, tuple(columns), read)


def _parquet(path: Path) -> Table:
    try:
        lib, parquet = (importlib.import_module(f"pyarrow.{name}") for name in ("lib", "parquet"))
    except ImportError:
        raise ConfigurationError(
            f"{path} is a Parquet file, which needs pyarrow: `pip install pyarrow`, or save the data as CSV"
        ) from None
    try:
        names = list(parquet.ParquetFile(path).schema_arrow.names)
    except (lib.ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read as Parquet: {error}") from None

    def read() -> Records:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield number, {name: plain(value) for name, value in record.items()}

    return Table(path, tuple(names), read)


def plain(value: object) -> object:
    """A value of JSON or Parquet as the service's JSON has it: NaN is missing, times and decimals are written out."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
