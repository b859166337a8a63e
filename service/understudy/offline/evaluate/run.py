"""Runs an evaluation: loads models and data, and calls `judge` and `problems`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy import loading
from understudy.domain import Attempt, Status, Variant
from understudy.drift.alarms import Limits
from understudy.errors import ConfigurationError
from understudy.inference import Engine, OutputReader, Scores, ended
from understudy.inference.cards import MULTILABEL, Card
from understudy.inference.decoding import Array, Columns, Decoder, Field, Row
from understudy.inference.joint import JointRuns
from understudy.inference.names import AS_IN_THE_GRAPH
from understudy.inference.onnx import EngineOptions, OnnxEngine
from understudy.loading.trial import opened
from understudy.offline import sources
from understudy.offline.evaluate.by_row import judged
from understudy.offline.evaluate.data import ColumnNames, Sample, read_file, sample_of
from understudy.offline.evaluate.judge import Evaluation, evaluate
from understudy.offline.evaluate.problems import found_in, skew, skew_of_predictions
from understudy.rollout.losses import label_classes
from understudy.rollout.policy import Policy
from understudy.serving.noise_floor import scored
from understudy.settings import read_settings

BATCH_ROWS = 2_048
SEGMENT_VALUES_MAX = 30
"""An input with more different values than this is not used for segments."""
MONTHS = (7, 8, 9, 10, 11, 12)
"""The months of the example's flights that no example model was trained on."""

ProgressCallback = Callable[[str, int], None]
"""Called with the present activity and the number of rows done since the last call."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        models: folders, files or `bentoml:` tags. The first is the primary.
        of_policy: whether these are the rollout file's models, whose names it maps.
        policy: the rollout file, for its goals and its device; None without one.
        data: a file; None to use `months` of the data source `source`.
        columns: the columns of the file that are not inputs.
    """

    models: Sequence[str]
    policy: Policy | None
    data: Path | None
    columns: ColumnNames
    months: Sequence[int] = MONTHS
    source: str = sources.FLIGHTS
    of_policy: bool = False


def run(request: EvaluationRequest, step: ProgressCallback = lambda what, rows: None) -> Evaluation:
    """Evaluate.

    Raises:
        ConfigurationError: if a model or the data cannot be read, or they do not match.
        InferenceError: if a model fails on a batch.
    """
    settings = read_settings()
    engines = [
        opened(source, _options(request, is_first=not place), settings) for place, source in enumerate(request.models)
    ]
    try:
        for engine in engines:
            _check_task(engine.card, request.policy)
        return _run(request, engines, step)
    finally:
        for engine in engines:
            engine.close()


def _check_task(card: Card, policy: Policy | None) -> None:
    """Check that a label is one class or one number, which a column of the data can hold.

    Raises:
        ConfigurationError: if it is not. The message says what the model predicts instead.
    """
    if policy is not None and policy.goals.quality is not None and not policy.goals.quality.scale.loss.labelled:
        raise ConfigurationError(
            f"the rollout is judged by `{policy.goals.quality.loss}`, which needs no labels, so there is nothing to evaluate: "
            "`understudy check --rows FILE` compares the two models' answers"
        )
    several = card.task == MULTILABEL or any(o.role == "value" and o.width != 1 for o in card.outputs)
    if several:
        what = "a set of classes" if card.task == MULTILABEL else "several numbers"
        raise ConfigurationError(
            f"{card.name} predicts {what} per row, but `understudy evaluate` scores one class or one number. The service can judge "
            "such models, and `understudy check --rows FILE` compares their answers"
        )


def _run(request: EvaluationRequest, engines: Sequence[OnnxEngine], step: ProgressCallback) -> Evaluation:
    first = engines[0].card
    context = [name for name in (request.policy.route_by, request.policy.unit) if name] if request.policy else []
    decoder = Decoder(fields_of_all(engines), context=context, rows_max=1_000, key_max_chars=1_000)
    pipeline: dict[str, Array] = {}
    if request.data is None:
        sample, pipeline = _history(request, decoder, step)
    else:
        sample = read_file(
            request.data, decoder, request.columns, _classes(engines), lambda rows: step("reading", rows)
        )
    if not sample.segments:
        sample.segments = _segments(decoder, sample)
    goal = request.policy.goals.quality if request.policy else None
    models = []
    for source, engine in zip(request.models, engines, strict=True):
        columns, reader = loading.inputs_of(engine.card, decoder.positions), OutputReader(engine.card)
        answers: list[Attempt] = []
        joint = JointRuns()
        for start in range(0, len(sample.rows), BATCH_ROWS):
            batch = sample.rows[start : start + BATCH_ROWS]
            answers += answers_of(engine, columns, reader, batch, joint)
            step(f"{engine.card.name} answers", len(batch))
        if not any(answer.given for answer in answers):
            scored(engine, columns, reader, sample.rows[:1])  # it failed on every row: this raises the reason
        name = engine.card.name if sum(e.card.name == engine.card.name for e in engines) == 1 else source
        models.append(judged(name, engine.card, answers, sample.labels, goal))
    if not models[0].losses:
        raise ConfigurationError(f"{sample.source} has no label with which {models[0].name}'s answers can be compared")
    found = evaluate(sample, models, goal)
    found.notes = [*sample.notes, *found.notes]
    step("looking for problems in the data", 0)
    found.problems, found.drift = found_in(sample, models, decoder.positions, Limits())
    found.skew = skew_of_predictions(sample, models[0])
    if pipeline:
        served = loading.inputs_of(first, decoder.positions).build(sample.rows)
        found.skew += skew(served, pipeline)
    found.skew_checked = bool(pipeline) or sample.predicted is not None
    return found


def answers_of(
    engine: Engine, columns: Columns, reader: OutputReader, rows: Sequence[Row], joint: JointRuns
) -> list[Attempt]:
    """A model's attempt at each row. A row on which it fails is `FAILED`, one that is not finite `INVALID`."""

    def run(part: Sequence[Row]) -> Scores:
        return scored(engine, columns, reader, list(part))

    attempts: list[Attempt] = []
    for count, scores in joint.run(rows, run):
        if isinstance(scores, Exception):
            attempts.append(Attempt(ended(scores)[0]))
            continue
        own = reader.attempts(scores, Status.OK, 0.0, count)
        for row in scores.bad_rows:
            own[row] = Attempt(Status.INVALID)
        attempts += own
    return attempts


def _options(request: EvaluationRequest, *, is_first: bool) -> EngineOptions:
    """How a model is opened: as the rollout file says, with its names of inputs and outputs if it is one of its models."""
    if (policy := request.policy) is None:
        return {"warm_max_rows": 1}
    variant = Variant.PRIMARY if is_first else Variant.CANDIDATE
    return {
        "device": policy.device,
        "warm_max_rows": 1,
        "classes": policy.classes,
        "task": policy.task,
        "names": loading.model_names(policy, variant) if request.of_policy else AS_IN_THE_GRAPH,
        "gpu": loading.gpu_options(policy),
    }


def _classes(engines: Sequence[OnnxEngine]) -> list[int | str]:
    """The possible labels: the classes of all models."""
    first, *others = (engine.card.classes for engine in engines)
    for each in others:
        first = label_classes(first, each)
    return list(first)


def fields_of_all(engines: Sequence[OnnxEngine]) -> list[Field]:
    """The fields of a row: the inputs of the first model, then further inputs of the others."""
    cards = [engine.card for engine in engines]
    fields = {field.name: field for field in loading.fields_of(cards[0], None)}
    for card in cards[1:]:
        fields |= {field.name: field for field in loading.fields_of(cards[0], card) if field.name not in fields}
    return list(fields.values())


def _segments(decoder: Decoder, sample: Sample) -> dict[str, list[str]]:
    """Text inputs with few different values."""
    found = {}
    for each in decoder.fields:
        if each.dtype == "string" and each.scalar:
            values = ["(missing)" if v is None or v == "" else v for v in decoder.values(sample.rows, each.name)]
            if 1 < len(set(values)) <= SEGMENT_VALUES_MAX:
                found[each.name] = values
    return found


def _history(request: EvaluationRequest, decoder: Decoder, step: ProgressCallback) -> tuple[Sample, dict[str, Array]]:
    """Held-out rows of a data source, and the model inputs that its training pipeline computes for them."""
    try:
        source = sources.find(request.source)
    except ConfigurationError as error:
        raise ConfigurationError(f"name your data with --data and --label: {error.detail}") from None
    missing = sorted({field.name for field in decoder.fields if field.required} - set(source.fields))
    if missing:
        raise ConfigurationError(
            f"these models read {', '.join(missing)}, which the data source `{request.source}` does not have: "
            "name your data with --data and --label"
        )
    step(f"reading the {request.source}", 0)
    held_out = source.held_out(request.months)
    records = (
        (i, moment.row | {"(label)": moment.label, "(at)": moment.scheduled_at, "(month)": month})
        for i, (moment, month) in enumerate(held_out.moments, 1)
    )
    names = ColumnNames("(label)", "(at)", None, tuple(held_out.segments), "(month)")
    sample = sample_of(
        held_out.name,
        records,
        decoder,
        names,
        list(held_out.classes),
        lambda rows: step(f"reading the {request.source}", rows),
    )
    return sample, dict(held_out.feeds)
