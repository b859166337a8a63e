"""Compares both models on the same sample rows, for `understudy check`."""

from dataclasses import dataclass
from pathlib import Path

from understudy import loading
from understudy.domain import JsonObject, Variant
from understudy.inference import OutputReader
from understudy.inference.cards import Card, InputSpec
from understudy.inference.decoding import Decoder
from understudy.inference.onnx import OnnxEngine
from understudy.offline import samples
from understudy.records.pairs import Pairs, tolerances
from understudy.rollout.comparison import figures
from understudy.rollout.policy import Policy
from understudy.serving import noise_floor
from understudy.settings import Settings

ROWS_DRAWN = 512
"""Number of rows drawn from the profiles if no file is named."""


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """The result of the comparison.

    Attributes:
        rows: number of rows.
        source: where the rows come from, in words.
        floor: output → noise floor; see `understudy.serving.noise_floor`.
        floor_file: the file with the noise floor.
        comparison: see `understudy.rollout.comparison.figures`; None without a candidate.
        signature: sentences about outputs that differ between the models in kind, type or shape.
    """

    rows: int
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


def run(settings: Settings, rows_from: RowsSource = DRAWN) -> ModelComparison:
    """Measure the noise floor, and compare the two models on rows of a file or on drawn ones.

    Raises:
        ConfigurationError: if a model cannot be loaded, or a row of the file is invalid.
        InferenceError: if a model fails on the rows.
    """
    policy = loading.load_policy(settings)
    engine = loading.open_engine(policy.primary, settings, policy)
    other = (
        loading.open_engine(policy.candidate, settings, policy, variant=Variant.CANDIDATE) if policy.candidate else None
    )
    try:
        return _run(settings, policy, engine, other, rows_from)
    finally:
        for each in (engine, other):
            if each is not None:
                each.close()


def _run(
    settings: Settings, policy: Policy, engine: OnnxEngine, other: OnnxEngine | None, rows_from: RowsSource
) -> ModelComparison:
    cards = {Variant.PRIMARY: engine.card} | ({Variant.CANDIDATE: other.card} if other else {})
    decoder = Decoder(
        loading.fields_of(engine.card, other.card if other else None),
        context=[name for name in (policy.route_by, policy.unit) if name],
        rows_max=settings.rows_max,
        key_max_chars=settings.key_max_chars,
    )
    if rows_from.requests is not None:
        rows, source = samples.read(rows_from.requests, decoder, settings.check_max_rows), str(rows_from.requests)
    elif rows_from.table is not None:
        rows, source = samples.from_table(rows_from.table, decoder, settings.check_max_rows, rows_from.label)
    else:
        specs = {spec.name: spec for card in reversed(cards.values()) for spec in card.inputs}
        rows = samples.drawn([specs[field.name] for field in decoder.fields], ROWS_DRAWN)
        source = _drawn_from(list(specs.values()))
    readers = {variant: OutputReader(card) for variant, card in cards.items()}
    columns = {variant: loading.inputs_of(card, decoder.positions) for variant, card in cards.items()}
    threads = loading.thread_count(settings, policy)
    threaded = OnnxEngine(
        loading.local(policy.primary, settings),
        device=policy.device,
        threads=2 if threads == 1 else 1,
        warm_max_rows=1,
        classes=policy.classes,
        task=policy.task,
        gpu=loading.gpu_options(policy),
    )
    noise = noise_floor.measure(engine, threaded, columns[Variant.PRIMARY], readers[Variant.PRIMARY], rows)
    threaded.close()
    file = noise_floor.write(settings.state_dir, engine.card.digest, noise)
    comparison = None
    if other is not None:
        pairs = Pairs(readers, tolerances(policy, cards.values()), noise)
        primary, candidate = (
            noise_floor.scored(each, columns[variant], readers[variant], rows)
            for variant, each in ((Variant.PRIMARY, engine), (Variant.CANDIDATE, other))
        )
        comparison = figures(pairs.compare(primary, candidate))
    return ModelComparison(len(rows), source, noise, file, comparison, _signature(list(cards.values())))


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
