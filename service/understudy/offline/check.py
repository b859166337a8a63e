"""Compares both models on the same sample rows, for `understudy check`."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy import loading
from understudy.domain import JsonObject, Variant
from understudy.inference import OutputReader, Scores
from understudy.inference.cards import Card, InputSpec
from understudy.inference.decoding import Columns, Decoder, Row
from understudy.inference.onnx import OnnxEngine
from understudy.offline import samples
from understudy.offline.budget import Budget, elements_of_a_row
from understudy.records.pairs import Pairs, joined, tolerances
from understudy.rollout.comparison import ComparisonSums, figures, floor_of
from understudy.rollout.policy import Policy
from understudy.serving import noise_floor
from understudy.settings import Settings

ROWS_DRAWN = 512
"""Number of rows drawn from the profiles if no file is named, and if the budget allows them."""

WARM_ROWS_MAX = 32
"""The largest batch that `check` warms a model up with."""

Progress = Callable[[int, int], None]
"""Called with the rows that were compared, and the rows that there are."""


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """The result of the comparison.

    Attributes:
        rows: number of rows that were compared.
        left_out: what was left out for lack of time or memory, in words; empty if nothing was.
        made_up: whether some fields of the rows were made up, so that how far the answers differ says nothing about real rows.
        source: where the rows come from, in words.
        floor: output → noise floor; see `understudy.serving.noise_floor`.
        floor_file: the file with the noise floor.
        comparison: see `understudy.rollout.comparison.figures`; None without a candidate.
        signature: sentences about outputs that differ between the models in kind, type or shape.
    """

    rows: int
    left_out: str
    made_up: bool
    source: str
    floor: dict[str, float]
    floor_file: Path
    comparison: JsonObject | None
    signature: list[str]


@dataclass(frozen=True, slots=True)
class RowsSource:
    """Where the rows come from on which the models are compared; without files they are drawn from the cards' profiles.

    Attributes:
        requests: a file with one JSON object per line, as in `rows` of `POST /predict`.
        table: a table.
        label: the column of the table with the label, which is no input.
    """

    requests: Path | None = None
    table: Path | None = None
    label: str | None = None


DRAWN = RowsSource()


def run(
    settings: Settings,
    rows_from: RowsSource = DRAWN,
    budget: Budget | None = None,
    progress: Progress = lambda done, rows: None,
) -> ModelComparison:
    """Measure the noise floor, and compare the two models on rows of a file or on drawn ones.

    Args:
        budget: limits of time and memory, which decide how many rows are compared; None for the default.

    Raises:
        ConfigurationError: if a model cannot be loaded, or a row of the file is invalid.
        InferenceError: if a model fails on the rows.
    """
    policy = loading.load_policy(settings)
    # `check` has warmed the models up before: here only what is run is paid for.
    settings = settings.model_copy(update={"batch_max_rows": 1})
    budget = budget or Budget()
    engine = loading.open_engine(policy.primary, settings, policy)
    other = (
        loading.open_engine(policy.candidate, settings, policy, variant=Variant.CANDIDATE) if policy.candidate else None
    )
    threads = 2 if loading.thread_count(settings, policy) == 1 else 1
    options = loading.engine_options(settings, policy, Variant.PRIMARY) | {"threads": threads}
    threaded = OnnxEngine(loading.local(policy.primary, settings), **options)
    try:
        return _run(settings, policy, Engines(engine, threaded, other), rows_from, budget, progress)
    finally:
        for each in (engine, threaded, other):
            if each is not None:
                each.close()


@dataclass(frozen=True, slots=True)
class Engines:
    """The models in memory: the primary, the primary with another number of threads, and the candidate."""

    primary: OnnxEngine
    threaded: OnnxEngine
    candidate: OnnxEngine | None


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows, run on both models: the scores, and the differences of the primary's own runs."""

    primary: Scores
    candidate: Scores | None
    noise: ComparisonSums


def _run(
    settings: Settings,
    policy: Policy,
    engines: Engines,
    rows_from: RowsSource,
    budget: Budget,
    progress: Progress,
) -> ModelComparison:
    engine, other = engines.primary, engines.candidate
    cards = {Variant.PRIMARY: engine.card} | ({Variant.CANDIDATE: other.card} if other else {})
    decoder = Decoder(
        loading.fields_of(engine.card, other.card if other else None),
        context=[name for name in (policy.route_by, policy.unit) if name],
        rows_max=settings.rows_max,
        key_max_chars=settings.key_max_chars,
    )
    elements = elements_of_a_row(cards.values())
    fit, specs = budget.rows_in_memory(elements), _specs(cards.values())
    wanted = ROWS_DRAWN if rows_from == DRAWN else settings.check_max_rows
    rows, source = _rows(rows_from, decoder, min(wanted, fit), specs)
    readers = {variant: OutputReader(card) for variant, card in cards.items()}
    columns = {variant: loading.inputs_of(card, decoder.positions) for variant, card in cards.items()}

    def compared(part: Sequence[Row], alone: int) -> Part:
        return _part(engines, columns, readers, list(part), alone)

    parts = _in_budget(compared, rows, elements, budget, progress)
    sums = ComparisonSums()
    for part in parts:
        sums.merge(part.noise)
    noise = floor_of(sums)
    file = noise_floor.write(settings.state_dir, engine.card.digest, noise)
    primary, comparison = joined([part.primary for part in parts]), None
    if other is not None:
        pairs = Pairs(readers, tolerances(policy, cards.values()), noise)
        candidate = joined([part.candidate for part in parts if part.candidate is not None])
        comparison = figures(pairs.compare(primary, candidate))
    return ModelComparison(
        rows=primary.rows,
        left_out=_left_out(primary.rows, len(rows), cut=len(rows) == fit < wanted, budget=budget),
        made_up=rows_from == DRAWN and not all(spec.profile for spec in specs.values()),
        source=source,
        floor=noise,
        floor_file=file,
        comparison=comparison,
        signature=_signature(list(cards.values())),
    )


def _specs(cards: Iterable[Card]) -> dict[str, InputSpec]:
    """Each field's input; the primary's where both models have it."""
    return {spec.name: spec for card in reversed(list(cards)) for spec in card.inputs}


def _rows(rows_from: RowsSource, decoder: Decoder, most: int, specs: Mapping[str, InputSpec]) -> tuple[list[Row], str]:
    """The rows to compare on, and where they come from, in words."""
    if rows_from.requests is not None:
        return samples.read(rows_from.requests, decoder, most), str(rows_from.requests)
    if rows_from.table is not None:
        return samples.from_table(rows_from.table, decoder, most, rows_from.label)
    return samples.drawn([specs[field.name] for field in decoder.fields], most), _drawn_from(list(specs.values()))


def _part(
    engines: Engines,
    columns: Mapping[Variant, Columns],
    readers: Mapping[Variant, OutputReader],
    rows: list[Row],
    alone: int,
) -> Part:
    """Run rows on both models, and the primary again in other batches and with other threads."""
    primary, candidate = Variant.PRIMARY, Variant.CANDIDATE
    whole, noise = noise_floor.differences(
        engines.primary, engines.threaded, columns[primary], readers[primary], rows, alone
    )
    other = engines.candidate
    scores = noise_floor.scored(other, columns[candidate], readers[candidate], rows) if other else None
    return Part(whole, scores, noise)


def _in_budget(
    compared: Callable[[Sequence[Row], int], Part],
    rows: Sequence[Row],
    elements: int,
    budget: Budget,
    progress: Progress,
) -> list[Part]:
    """Compare as many rows as the budget allows, at least one.

    The first row is run to learn what a row takes. If all rows fit, they are run at once, as a service may do.
    """
    began = time.monotonic()
    first = compared(rows[:1], 1)
    per_row, done = time.monotonic() - began, 0
    parts: list[Part] = []
    while done < len(rows):
        size = min(len(rows) - done, budget.rows_at_once(elements), budget.rows_in_time(per_row))
        if size < 1:
            break
        began = time.monotonic()
        parts.append(compared(rows[done : done + size], max(noise_floor.ALONE_ROWS - done, 0)))
        per_row = (time.monotonic() - began) / size
        done += size
        progress(done, len(rows))
    return parts or [first]


def _left_out(compared: int, rows: int, *, cut: bool, budget: Budget) -> str:
    """What was left out for lack of time or memory, in words."""
    if compared < rows:
        return f"the other {rows - compared:,} of {rows:,} rows did not fit into {budget.seconds:g} s; raise --budget"
    return f"more rows do not fit into {budget.mib:,} MiB; raise --memory" if cut else ""


def _drawn_from(specs: list[InputSpec]) -> str:
    """How the rows were drawn, in words."""
    known = sum(spec.profile is not None for spec in specs)
    if known == len(specs):
        return "drawn from the cards' profiles, each field by itself"
    made_up = (
        "made up, since no card has a profile of them" if not known else f"made up for {len(specs) - known} fields"
    )
    way = "`--data FILE` or `--rows FILE` compares them on your own rows"
    return f"{made_up}: on real rows the models may differ far more or less; {way}"


def _signature(cards: list[Card]) -> list[str]:
    """Sentences about outputs that differ between the models."""
    if len(cards) < 2:
        return []
    primary, candidate = ({(o.role if o.role != "other" else o.name): o for o in card.outputs} for card in cards)
    differences = []
    for name in dict.fromkeys([*primary, *candidate]):
        a, b = primary.get(name), candidate.get(name)
        if a is None or b is None:
            differences.append(f"only the {'candidate' if a is None else 'primary'} gives {name}")
        elif a.dtype != b.dtype:
            differences.append(f"{name} is {a.dtype} of the primary and {b.dtype} of the candidate")
        elif len(a.row_shape) != len(b.row_shape) or any(
            x != y for x, y in zip(a.row_shape, b.row_shape, strict=True) if x and y
        ):
            differences.append(f"{name} has shape {a.shape} of the primary and {b.shape} of the candidate")
    return differences
