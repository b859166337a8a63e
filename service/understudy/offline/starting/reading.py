"""Reads held-out data for a new rollout: all rows for what the columns hold, then a sample of rows that the models answer."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy import loading
from understudy.errors import ConfigurationError
from understudy.inference.decoding import Decoder, Field
from understudy.offline.evaluate.data import ColumnNames, Sample, rows_of, sample_of
from understudy.offline.matching import Matching, lacking, match
from understudy.offline.starting import labelling
from understudy.offline.starting.models import Model, bears_missing
from understudy.offline.starting.survey import Roles, Survey, Surveyor, check_cells, check_labels, check_roles, flat
from understudy.offline.tables import Records, Table, open_table

SAMPLE_ROWS = 100_000
SAMPLE_CELLS = 4_000_000
"""The models answer at most so many rows, spread evenly over the data, and at most so many cells."""
PROGRESS_ROWS = 1_000

Step = Callable[[str, int], None]
"""Called with the present activity and the number of rows done since the last call."""


@dataclass(slots=True)
class Data:
    """The data, read.

    Attributes:
        name: of the file.
        fields: of a request's row; an input of which values are missing is nullable if the models bear that.
        survey: what the columns of all rows hold.
        sample: rows spread evenly over the data, with their labels.
        names: the possible labels; empty if labels are numbers.
        labelled: whether a label says how right an answer is; not if an answer is a set of classes or several numbers.
    """

    name: str
    table: Table
    roles: Roles
    matching: Matching
    survey: Survey
    fields: list[Field]
    sample: Sample
    names: list[int | str]
    labelled: bool

    @property
    def decoder(self) -> Decoder:
        """Decodes rows of these fields."""
        return _decoder(self.fields, self.roles)


def read(models: Sequence[Model], path: Path, roles: Roles, step: Step) -> Data:
    """Read the data.

    Raises:
        ConfigurationError: they cannot be read, or do not fit the models; the message names file, line and column.
    """
    table, name = open_table(path), str(path)
    fields = loading.fields_of(*(model.card for model in models))
    taken = list(roles.named.values())
    matching = match(fields, table.columns, taken, decimal_comma=table.decimal_comma)
    check_roles(name, table.columns, roles, matching)
    if why := lacking(matching, table.columns, taken):
        raise ConfigurationError(f"{name}: {why}")
    surveyor = Surveyor(name, matching, roles)
    for count, (line, record) in enumerate(table.read(), 1):
        surveyor.add(line, record)
        if count % PROGRESS_ROWS == 0:
            step(f"reading {path.name}", PROGRESS_ROWS)
    found = surveyor.found
    check_cells(name, found, matching)
    labelled = all(labelling.scorable(model) for model in models)
    names: list[int | str] = []
    if labelled:
        names = labelling.vocabulary(models, found, path.name)
        check_labels(name, found, names)
    fields = [dataclasses.replace(f, nullable=f.nullable or _may_miss(f, found)) for f in fields]
    cells = sum(len(columns) for columns in matching.columns.values())
    stride = max(1, -(-found.rows // SAMPLE_ROWS), -(-found.rows * cells // SAMPLE_CELLS))
    matching = dataclasses.replace(matching, fields=tuple(fields))
    numeric = not names and found.numeric
    sample = sample_of(
        name,
        _every(stride, table.read()),
        decoder := _decoder(fields, roles),
        ColumnNames(roles.label if labelled and (names or numeric) else None, roles.at),
        names,
        lambda rows: step(f"reading a sample of {path.name}" if stride > 1 else f"decoding {path.name}", rows),
        rows_of(matching, decoder),
        table.decimal_comma,
    )
    return Data(path.name, table, roles, matching, found, fields, sample, names, labelled)


def settle_missing(models: Sequence[Model], data: Data) -> list[str]:
    """Decide which inputs may be missing: those whose values are missing in the data, if the models answer then.

    Inputs that may not be missing are taken back, and rows without them leave the sample.

    Returns:
        Sentences for the user.
    """
    notes = []
    count = f"of {data.survey.rows:,} rows"
    for place, each in enumerate(data.fields):
        missing = data.survey.cells[each.name].missing
        if not missing:
            continue
        some = "" if each.scalar else "some of "
        share = f"{some}`{each.name}` is missing in {missing:,} {count}"
        declared = any(spec.name == each.name and spec.nullable for model in models for spec in model.card.inputs)
        if not each.nullable:
            kind = each.describe()
            notes.append(f"{share}, and cannot be missing in a request ({kind}): the service rejects such rows")
            continue
        whole = [row for row in data.sample.rows if None not in flat(list(row))] or data.sample.rows
        unable = [str(m.source) for m in models if not bears_missing(m, data.fields, whole, each.name)]
        if str(models[0].source) in unable and not declared:
            data.fields[place] = dataclasses.replace(each, nullable=False)
            notes.append(
                f"{share}, and {models[0].source} gives no finite answer then, so it may not be missing: the service rejects "
                "such rows"
            )
            _drop(data, place)
            continue
        notes.append(f"{share}, so a request may have null there")
        notes += [
            f"{source} gives no finite answer without `{each.name}`: that counts as a failure" for source in unable
        ]
        for model in models:
            model.allow_missing([each.name], on_card=model.is_new)
    if data.sample.rejected:
        notes.append(f"the service would reject {data.sample.rejected:,} rows: {'; '.join(data.sample.reasons)}")
    if not data.sample.rows:
        raise ConfigurationError(f"{data.name} has no row that the service would accept: {'; '.join(notes)}")
    return notes


def _drop(data: Data, place: int) -> None:
    """Remove the rows without a value from the sample."""
    sample = data.sample
    kept = [i for i, row in enumerate(sample.rows) if None not in flat(row[place])]
    sample.rejected += len(sample.rows) - len(kept)
    sample.rows = [sample.rows[i] for i in kept]
    sample.labels = [sample.labels[i] for i in kept]
    if sample.at is not None:
        sample.at = sample.at[kept]
    if sample.months is not None:
        sample.months = [sample.months[i] for i in kept]


def _may_miss(each: Field, found: Survey) -> bool:
    """Whether a missing value of a field can be given to a model: as NaN or as the empty string."""
    kind = each.dtype.startswith("float") or (each.dtype == "string" and each.scalar)
    return bool(found.cells[each.name].missing) and kind


def _every(stride: int, records: Records) -> Iterator[tuple[int, dict[str, object]]]:
    return ((line, dict(record)) for i, (line, record) in enumerate(records) if i % stride == 0)


def _decoder(fields: Sequence[Field], roles: Roles) -> Decoder:
    return Decoder(fields, context=[roles.key] if roles.key else [], rows_max=1_000, key_max_chars=10_000)
