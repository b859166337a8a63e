"""The two models of a new rollout: opened, asked for answers to real rows, and measured."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from understudy import loading
from understudy.domain import Attempt
from understudy.errors import UnderstudyError
from understudy.inference import OutputReader
from understudy.inference.cards import Card, beside
from understudy.inference.decoding import Array, Decoder, Field, Row
from understudy.inference.joint import JointRuns
from understudy.inference.mapping import check_fit, only_read_by, proposed_mapping
from understudy.inference.names import AS_IN_THE_GRAPH, ModelNames, listed, yaml_key, yaml_name
from understudy.inference.onnx import FOR_ITS_CARD, EngineOptions, OnnxEngine
from understudy.loading.trial import Untried, passed, tried
from understudy.offline.evaluate.run import BATCH_ROWS, answers_of
from understudy.serving.noise_floor import scored
from understudy.settings import read_settings

PROBED_ROWS = 32
"""Rows on which a model is tried with a value missing."""
TIMED_ROWS = 50
"""Rows that are timed one by one; the deadline follows the slowest but one in twenty."""
TIMED_S = 5.0

Ask = Callable[[str, str], str]
"""Asks a question with a default, and returns the answer; without a person, the default."""


@dataclass(slots=True)
class Model:
    """One model.

    Attributes:
        source: as the user named it.
        is_new: whether its card is to be written: it is an `.onnx` file, and has none that is kept.
        engine: the opened model.
        guessed: whether its class names are not its own: they were worked out.
        names: how the service calls its inputs and outputs, if not as its graph.
        nullable: inputs that may be missing by the rollout file, since no card of its own says so.
    """

    source: Path
    is_new: bool
    engine: OnnxEngine
    guessed: bool = False
    names: ModelNames = AS_IN_THE_GRAPH
    nullable: set[str] = field(default_factory=set)

    @property
    def card(self) -> Card:
        """Its card."""
        return self.engine.card

    def reopen(self, classes: Sequence[int | str], task: str = "other") -> None:
        """Open it again with class names, or as a model of another task.

        Raises:
            ConfigurationError: they do not fit the model.
        """
        engine = OnnxEngine(self.source, **_options(classes, is_new=self.is_new, task=task, names=self.names))
        self.engine.close()
        missing = [spec.name for spec in self.card.inputs if spec.nullable]
        self.engine, self.guessed = engine, bool(classes)
        self.allow_missing(missing, on_card=True)

    def allow_missing(self, names: Sequence[str], *, on_card: bool) -> None:
        """Let some inputs be missing.

        Args:
            on_card: whether a card of the model says so, or will be written; otherwise the rollout file does.
        """
        if not on_card:
            self.nullable |= {spec.name for spec in self.card.inputs if spec.name in names and not spec.nullable}
        inputs = [s.model_copy(update={"nullable": True}) if s.name in names else s for s in self.card.inputs]
        self.engine.card = self.card.model_copy(update={"inputs": inputs})


def open_models(sources: Sequence[Path], classes: Sequence[int | str], *, force: bool) -> list[Model]:
    """Open both models.

    Args:
        classes: the class names that the user gave.
        force: whether to replace cards beside `.onnx` files.

    Raises:
        ConfigurationError: a model cannot be read, or has another number of classes.
    """
    models: list[Model] = []
    new = [source.suffix == ".onnx" and (force or not beside(source).exists()) for source in sources]
    untried = [Untried(str(s), _options(classes, is_new=n)) for s, n in zip(sources, new, strict=True)]
    for result in tried(untried, read_settings()):
        passed(result)
    try:
        for source, is_new in zip(sources, new, strict=True):
            models.append(Model(source, is_new, OnnxEngine(source, **_options(classes, is_new=is_new))))
    except UnderstudyError:
        for model in models:
            model.engine.close()
        raise
    return models


def map_inputs(primary: Model, candidate: Model, classes: Sequence[int | str]) -> None:
    """Give the candidate's inputs the primary's names, where its graph has others and only one pairing fits.

    Args:
        classes: the class names that the user gave.
    """
    inputs, _ = proposed_mapping(primary.card, candidate.card)
    if inputs:
        candidate.names = ModelNames(inputs)
        candidate.reopen(classes)
        candidate.guessed = False


def map_outputs(primary: Model, candidate: Model, classes: Sequence[int | str]) -> None:
    """Like `map_inputs`, for outputs: their roles are known once their classes have names."""
    _, outputs = proposed_mapping(primary.card, candidate.card)
    if outputs:
        guessed = candidate.guessed
        candidate.names = ModelNames(candidate.names.inputs, outputs)
        candidate.reopen(classes)
        candidate.guessed = guessed


def check_mapped(primary: Model, candidate: Model) -> None:
    """Check that each input of the candidate has a value, and that it gives every output of the primary.

    An input that only the candidate has may be a field of its own, if no input of the primary is left for it.

    Raises:
        ConfigurationError: the candidate has names that are not the primary's, and nothing says which are the same.
    """
    read = {spec.name for spec in candidate.card.inputs}
    unread = any(spec.name not in read for spec in primary.card.inputs)
    check_fit(primary.card, candidate.card, () if unread else only_read_by(candidate.card, primary.card))


def name_lines(primary: Model, candidate: Model) -> list[tuple[str, str]]:
    """The keys `inputs` and `outputs` of the rollout file, each line with a comment."""
    names, others = candidate.names, only_read_by(candidate.card, primary.card)
    nullable = primary.nullable | candidate.nullable
    keys: dict[str, list[str]] = {name: [f"rename: {yaml_name(own)}"] for name, own in names.inputs.items()}
    for name in dict.fromkeys((*sorted(nullable), *others)):
        keys.setdefault(name, []).extend(["nullable: true"] if name in nullable else [])
    reasons = []
    if names.inputs:
        reasons.append("a guess: the two graphs have other names, and no other two fit each other")
    if nullable:
        reasons.append(f"{listed(sorted(nullable))} may be missing (null)")
    if others:
        reasons.append(
            f"only the candidate reads {listed(others)}: where a caller leaves it out, the candidate may fail"
        )
    lines = []
    if keys:
        entries = ", ".join(f"{yaml_key(name)}: {{{', '.join(given)}}}" for name, given in keys.items())
        lines.append((f"inputs: {{{entries}}}", "; ".join(reasons)))
    if names.outputs:
        pairs = ", ".join(f"{yaml_key(a)}: {yaml_name(b)}" for a, b in names.outputs.items())
        lines.append((f"outputs: {{{pairs}}}", "a guess, in the same way"))
    return lines


def _options(
    classes: Sequence[int | str], *, is_new: bool, task: str = "other", names: ModelNames = AS_IN_THE_GRAPH
) -> EngineOptions:
    return FOR_ITS_CARD | {"classes": classes, "without_card": is_new, "task": task, "names": names}


def raw_outputs(model: Model, decoder: Decoder, rows: Sequence[Row]) -> dict[str, Array]:
    """A model's output arrays for some rows.

    Raises:
        InferenceError: the model fails.
    """
    columns = loading.inputs_of(model.card, decoder.positions)
    parts = [
        model.engine.run(columns.build(list(rows[start : start + BATCH_ROWS])))
        for start in range(0, len(rows), BATCH_ROWS)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def likeliest(
    model: Model, outputs: Mapping[str, Array], width: int
) -> tuple[list[int], list[int | str] | None] | None:
    """The likeliest column of each row, and the model's own label where it has one; None if there are no probabilities.

    A single number per row is the probability of the second of two classes.
    """
    roles = {output.name: output.role for output in model.card.outputs}
    labels = next((outputs[name] for name, role in roles.items() if role == "label"), None)
    own = None if labels is None or labels.ndim != 1 else labels.tolist()
    order = sorted(
        (name for name, role in roles.items() if role != "label"), key=lambda name: roles[name] != "probabilities"
    )
    for name in order:
        array = outputs[name]
        if array.ndim == 2 and array.shape[1] == width:
            return array.argmax(axis=1).tolist(), own
        if width == 2 and array.size == len(array) and array.dtype.kind == "f":
            return (array.reshape(-1) >= 0.5).astype(int).tolist(), own
    return None


def bears_missing(model: Model, fields: Sequence[Field], rows: Sequence[Row], name: str) -> bool:
    """Whether a model gives finite answers to rows without a value for one input."""
    spec = next((each for each in model.card.inputs if each.name == name), None)
    if spec is None:
        return True
    place = [field.name for field in fields].index(name)
    probed = [(*row[:place], _without_one(row[place]), *row[place + 1 :]) for row in rows[:PROBED_ROWS]]
    return all(
        attempt.given for attempt in answers(model, [dataclasses.replace(f, nullable=True) for f in fields], probed)
    )


def _without_one(value: object) -> object:
    """A value that is missing, or an array of which the first number is."""
    return [_without_one(value[0]), *value[1:]] if isinstance(value, list) and value else None


def answers(
    model: Model, fields: Sequence[Field], rows: Sequence[Row], progress: Callable[[int], None] = lambda rows: None
) -> list[Attempt]:
    """A model's attempt at each row.

    Raises:
        InferenceError: it fails on every row.
    """
    positions = {field.name: place for place, field in enumerate(fields)}
    nullable = {field.name for field in fields if field.nullable}
    inputs = [s.model_copy(update={"nullable": s.nullable or s.name in nullable}) for s in model.card.inputs]
    card = model.card.model_copy(update={"inputs": inputs})
    columns, reader, joint = loading.inputs_of(card, positions), OutputReader(card), JointRuns()
    found: list[Attempt] = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        found += answers_of(model.engine, columns, reader, batch, joint)
        progress(len(batch))
    if found and not any(attempt.given for attempt in found):
        scored(model.engine, columns, reader, list(rows[:1]))  # this raises the reason
    return found


def seconds_of(model: Model, decoder: Decoder, rows: Sequence[Row]) -> float:
    """The time that one row takes, in seconds: the 95th percentile over real rows, each run alone."""
    columns = loading.inputs_of(model.card, decoder.positions)
    durations: list[float] = []
    begin = time.perf_counter()
    for row in rows[: TIMED_ROWS + 1]:
        started = time.perf_counter()
        model.engine.run(columns.build([row]))
        durations.append(time.perf_counter() - started)
        if time.perf_counter() - begin > TIMED_S:
            break
    return float(np.quantile(durations[1:] or durations, 0.95))  # the first run of a shape is slow
