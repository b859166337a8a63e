"""Works out a new rollout: the order of things. The parts are in the other modules of this package."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy import loading
from understudy.domain import Attempt, Variant
from understudy.errors import ConfigurationError, InferenceError
from understudy.inference.cards import Card, beside
from understudy.inference.decoding import Field
from understudy.loading.preflight import subject
from understudy.offline.starting import labelling, result
from understudy.offline.starting.models import (
    Ask,
    Model,
    answers,
    check_mapped,
    map_inputs,
    map_outputs,
    name_lines,
    open_models,
    seconds_of,
)
from understudy.offline.starting.reading import Data, Step, read, settle_missing
from understudy.offline.starting.rollout_file import (
    Goal,
    Names,
    Starter,
    goals_without_data,
    latency_of,
    model_name,
    names,
    write,
)
from understudy.offline.starting.survey import Roles
from understudy.records.pairs import incomparable


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What `understudy init` was asked.

    Attributes:
        sources: the proof of concept and the candidate.
        names: the class names, if the user gave them.
        data: a table with held-out data; None without.
        roles: the columns of the data that are not inputs.
        target: the mean loss that the proof of concept was to reach.
        force: whether to replace cards beside `.onnx` files.
    """

    sources: tuple[Path, Path]
    names: Names = field(default_factory=Names)
    data: Path | None = None
    roles: Roles | None = None
    target: float | None = None
    force: bool = False


@dataclass(slots=True)
class Started:
    """A new rollout.

    Attributes:
        text: the rollout file.
        fields: the fields of a request's row.
        cards: card file → card, of those to be written.
        lines: what was found, for the user.
        kept: cards that exist and are kept.
        example: a row of the data as callers send it; empty without data.
    """

    text: str
    fields: list[Field]
    cards: dict[Path, Card] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    example: Mapping[str, object] = field(default_factory=dict)


def start(
    request: StartRequest, step: Step = lambda what, rows: None, ask: Ask = lambda question, default: default
) -> Started:
    """Work out a rollout.

    Raises:
        ConfigurationError: a model or the data cannot be read or do not fit each other, or no rollout could finish.
        InferenceError: a model fails on every row.
    """
    force = request.force and request.data is not None  # without data no card is written, so none is replaced
    models = open_models(request.sources, request.names.classes, force=force)
    try:
        map_inputs(models[0], models[1], request.names.classes)
        if request.data is None or request.roles is None:
            return _without_data(request, models, ask)
        return _with_data(request, models, read(models, request.data, request.roles, step), step, ask)
    finally:
        for model in models:
            model.engine.close()


def _without_data(request: StartRequest, models: list[Model], ask: Ask) -> Started:
    """From the signatures alone."""
    named = request.names
    unnamed = max(model.engine.unnamed for model in models)
    if unnamed and not named.classes:
        named = _asked_names(_guessed_names(models, unnamed), ask)
        for model in models:
            model.reopen(named.classes)
    map_outputs(models[0], models[1], named.classes if models[1].guessed else request.names.classes)
    task = labelling.common_task(models)
    check_mapped(models[0], models[1])
    _ask_missing(models, ask)
    seconds = [model.engine.seconds(1) for model in models]
    cards = [model.card for model in models]
    subjects = dict(zip(Variant, map(subject, cards, seconds), strict=True))
    p99_ms, deadline_ms, why = latency_of(max(seconds), "one row")
    first, second = request.sources
    deadline = result.number(ask("deadline in milliseconds", f"{deadline_ms}"), "deadline")
    starter = Starter(
        model_name(first.stem if first.suffix else first.name),
        task,
        str(first),
        str(second),
        Goal(None, ""),
        named,
        p99_ms,
        deadline,
        why,
        keys=name_lines(*models),
    )
    goals = result.asked(list(goals_without_data(task, comparable=incomparable(cards[0], cards[1]) is None)), ask)
    line = "made from the models' signatures alone; with --data and --label, held-out rows say more"
    return Started(write(starter, goals, subjects), loading.fields_of(*cards), lines=[line])


def _with_data(request: StartRequest, models: list[Model], data: Data, step: Step, ask: Ask) -> Started:
    named = request.names
    notes = [*data.table.notes, *data.matching.notes, *settle_missing(models, data)]
    own: dict[int, list[int | str]] = {}
    if data.labelled and not named.classes:
        naming = labelling.name_models(models, data.decoder, data.sample, data.names, data.name, ask)
        named, own = naming.names, naming.own
        if named.classes and (changed := _asked_names(named, ask)) != named:
            named = changed
            for model in models:
                if model.guessed:
                    model.reopen(named.classes)
        else:
            notes += naming.notes
        _ask_positive(models, named, ask)
    if models[0].card.digest == models[1].card.digest:
        notes.append("warning: both are the same model, so nothing can be won by this rollout")
    map_outputs(models[0], models[1], named.classes if models[1].guessed else request.names.classes)
    task = labelling.common_task(models)
    check_mapped(models[0], models[1])
    attempts = [_answers(model, data, step) for model in models]
    seconds = [seconds_of(model, data.decoder, data.sample.rows) for model in models]
    found = result.Found(models, data, named, task, attempts, seconds, request.target)
    text, lines = found.rollout(ask)
    cards = {
        beside(model.source): result.card_of(model, data, attempts[place], own.get(place, ()))
        for place, model in enumerate(models)
        if model.is_new
    }
    kept = [beside(model.source) for model in models if model.source.suffix == ".onnx" and not model.is_new]
    example = dict(zip(data.decoder.positions, data.sample.rows[0], strict=True))  # with the routing key
    return Started(text, data.fields, cards, [*notes, *lines], kept, example)


def _answers(model: Model, data: Data, step: Step) -> list[Attempt]:
    """A model's answers to the sample.

    Raises:
        ConfigurationError: it answers no row.
    """
    try:
        return answers(model, data.fields, data.sample.rows, lambda rows: step("asking the models", rows))
    except InferenceError as error:
        read = "; ".join(data.matching.notes) or "each input is read from the column of its name"
        raise ConfigurationError(f"{model.source} answers no row of {data.name} ({read}): {error.detail}") from None


def _guessed_names(models: Sequence[Model], unnamed: int) -> Names:
    """Names for models without them: those of the other model, or numbers from 0."""
    known = next((model.card.classes for model in models if len(model.card.classes) == unnamed), None)
    if known is not None:
        why = "a guess: only one of the models names its classes; the other is assumed to have the same, in the same order"
        return Names(tuple(known), why)
    why = "a guess: the models do not name the classes. Write them as in your labels, in the order of the probabilities"
    return Names(tuple(range(unnamed)), why)


def _asked_names(guess: Names, ask: Ask) -> Names:
    default = ",".join(map(str, guess.classes))
    answer = ask("classes as your labels have them, in the order of the probabilities", default)
    return guess if answer == default else names(answer)


def _ask_missing(models: Sequence[Model], ask: Ask) -> None:
    """Which inputs may be missing: without data nothing shows it, and by default none may.

    Raises:
        ConfigurationError: an input of this name is not there, or has no missing value.
    """
    fields = {field.name: field for field in loading.fields_of(*(model.card for model in models))}
    able = [name for name, field in fields.items() if field.dtype == "string" or field.dtype.startswith("float")]
    if not able:
        return
    answer = ask(f"inputs that may be missing (null), of {', '.join(able)}; separated by commas, or none", "none")
    names_ = [] if answer.strip() == "none" else [part.strip() for part in answer.split(",") if part.strip()]
    if wrong := [name for name in names_ if name not in able]:
        raise ConfigurationError(f"{wrong[0]!r} is no input that can be missing; those are {', '.join(able)}")
    for model in models:
        model.allow_missing(names_, on_card=False)


def _ask_positive(models: Sequence[Model], named: Names, ask: Ask) -> None:
    """Which of two classes that were worked out is the positive one: by default the second."""
    if len(named.classes) != 2:
        return
    default = str(named.classes[1])
    answer = ask("positive class, whose probability is the score", default)
    positive = next((name for name in named.classes if str(name) == answer), None)
    if positive is None:
        raise ConfigurationError(
            f"the positive class is one of {named.classes[0]} and {named.classes[1]}, not {answer!r}"
        )
    for model in models:
        if model.guessed and answer != default:
            model.engine.card = model.card.model_copy(update={"positive": positive})
