"""Puts together what was worked out from data: the rollout file, the cards, and the lines that `init` prints."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from understudy import loading
from understudy.domain import Attempt, Label, Variant
from understudy.errors import ConfigurationError
from understudy.inference.cards import Card, InputSpec, Measured
from understudy.inference.decoding import Row
from understudy.loading.preflight import subject
from understudy.offline.evaluate.by_row import Judged, judged
from understudy.offline.evaluate.data import day_of
from understudy.offline.evaluate.figures import Interval
from understudy.offline.evaluate.judge import Evaluation, evaluate
from understudy.offline.evaluate.profiles import profiles_of
from understudy.offline.starting import goals
from understudy.offline.starting.models import Ask, Model, name_lines
from understudy.offline.starting.reading import Data
from understudy.offline.starting.rollout_file import (
    ERRORS_WHY,
    Goal,
    Names,
    Starter,
    goals_without_data,
    latency_of,
    model_name,
    scalar,
    write,
)
from understudy.records.pairs import incomparable
from understudy.rollout.feasibility.table import table
from understudy.rollout.goals import Quality
from understudy.rollout.loss_table import LOSSES
from understudy.rollout.policy import Policy, parse

SHAPES_MAX = 4
"""So many shapes of rows are kept on a card."""


@dataclass(slots=True)
class Found:
    """What was worked out.

    Attributes:
        names: class names for the rollout file.
        attempts: each model's answers to the sample.
        seconds: that each model takes for one row.
        target: the mean loss that the proof of concept was to reach.
    """

    models: Sequence[Model]
    data: Data
    names: Names
    task: str
    attempts: Sequence[list[Attempt]]
    seconds: Sequence[float]
    target: float | None = None

    def rollout(self, ask: Ask) -> tuple[str, list[str]]:
        """The rollout file, and lines for the user.

        Raises:
            ConfigurationError: no rollout of these models could finish.
        """
        data, labels = self.data, self.data.sample.labels
        cards = [model.card for model in self.models]
        subjects = dict(zip(Variant, map(subject, cards, self.seconds), strict=True))
        starter, lines = self._starter(ask)
        comparable = incomparable(cards[0], cards[1]) is None
        bare = [
            judged(model.source.name, model.card, own, labels)
            for model, own in zip(self.models, self.attempts, strict=True)
        ]
        scored = data.labelled and set.intersection(*(set(each.losses) for each in bare)) & {
            "brier",
            "absolute_error",
            "zero_one",
        }
        if not scored:
            if self.target is not None:
                raise ConfigurationError(
                    "--target is a mean loss, and the answers of these models cannot be compared with a label"
                )
            why = f"{data.name}: the answers of these models cannot be compared with one label a row, so labels were not looked at"
            proposals = asked(list(goals_without_data(self.task, comparable=comparable)), ask)
            return write(starter, proposals, subjects), [why, *lines]
        goal, policy = self._goal(bare, starter, ask)
        starter = dataclasses.replace(starter, amount=goals.first_labels(self._traffic().rows))
        errors, _ = goals.error_margin(policy, self._traffic().rows)
        if errors != starter.errors_margin:
            why = f"{ERRORS_WHY}; the smallest that {self._traffic().rows:,} requests can decide"
            starter = dataclasses.replace(starter, errors_margin=errors, errors_why=why)
        text = write(starter, [goal, *goals_without_data(self.task, comparable=comparable)], subjects)
        policy = parse(text)
        quality = policy.goals.quality
        if quality is None or not goal.labelled or quality.loss != (goal.keys or {}).get("loss"):
            return text, lines
        return text, [*self._compared(quality), *lines, self._need(policy)]

    def _compared(self, quality: Quality) -> list[str]:
        """The result on the data, in lines."""
        labels = self.data.sample.labels
        models = [
            judged(model.source.name, model.card, own, labels, quality)
            for model, own in zip(self.models, self.attempts, strict=True)
        ]
        failed = [
            f"warning: {each.name} gave no answer, or none that is finite, to {each.failed:,} of {len(labels):,} rows: in the "
            "rollout each is a failure"
            for each in models
            if each.failed
        ]
        found = evaluate(dataclasses.replace(self.data.sample, segments={}, months=None), models, quality)
        return [*summary(found, models, quality), *_beside_constant(found, quality, labels), *failed]

    def _starter(self, ask: Ask) -> tuple[Starter, list[str]]:
        """The file without its goals for quality and failures."""
        data, (first, second) = self.data, (model.source for model in self.models)
        slowest = max(self.seconds)
        p99_ms, deadline_ms, why = latency_of(slowest, f"one row of {data.name} (all but the slowest 5 %)")
        wait, wait_why = goals.wait_for(data.survey.delays)
        key, lines = data.roles.key, []
        keys = name_lines(*self.models)
        if key is not None:
            keys.append((f"route_by: {scalar(key)}", "a caller with the same value stays on one model (--key)"))
            if data.survey.few_keys:
                values = f"{len(data.survey.keys):,} different values"
                lines.append(f"warning: `{key}` has {values}, too few to tell callers apart; name an id with --key")
            elif data.survey.unit:
                why_unit = f"values repeat within a day in {data.name}, so only the first request of each counts"
                keys.append((f"unit: {scalar(key)}", why_unit))
            if data.survey.keyless:
                lines.append(f"{data.survey.keyless:,} rows have no `{key}`: such requests are routed by their id")
        if data.survey.early_labels:
            lines.append(
                f"warning: {data.survey.early_labels:,} labels are known before their request; is --label-at the right column?"
            )
        starter = Starter(
            model_name(first.stem if first.suffix else first.name),
            self.task,
            str(first),
            str(second),
            Goal(None, ""),
            self.names,
            p99_ms,
            number(ask("deadline in milliseconds", f"{deadline_ms}"), "deadline"),
            why,
            head=self._head(),
            keys=keys,
            wait=goals.duration(wait),
            wait_why=wait_why,
        )
        return starter, lines

    def _head(self) -> list[str]:
        """Comments on what was read from where."""
        data = self.data
        head = [
            f"Worked out from the {data.survey.rows:,} rows of {data.name}, of which {data.survey.labelled:,} have a label."
        ]
        head += [f"{note}." for note in data.table.notes]
        head += [f"{note[0].upper()}{note[1:]}." for note in data.matching.notes]
        missing = [f"`{field.name}`" for field in data.fields if field.nullable]
        if missing:
            where = "`inputs` below" if any(model.nullable for model in self.models) else "`nullable` on the cards"
            head.append(f"May be missing (null), as in the data or by a card ({where}): {', '.join(missing)}.")
        return head

    def _traffic(self) -> goals.Traffic:
        found = self.data.survey
        what = f"first requests of a `{self.data.roles.key}` a day" if found.unit else "rows with a label"
        return goals.traffic(self.data.name, found.counted, found.rows, found.days, what)

    def _goal(self, models: Sequence[Judged], starter: Starter, ask: Ask) -> tuple[Goal, Policy]:
        """The quality goal, with the smallest margin that the traffic can decide."""
        loss, clip, what = goals.loss_of(models)
        if clip is not None:
            answer = number(
                ask("clip: an error larger than this counts as this much, in label units", f"{clip:.10g}"), "clip"
            )
            what = what if answer == clip else f"the mean absolute error in label units, cut at {answer:,.6g}"
            clip = answer
        keys: dict[str, str | float] = {"loss": loss} | ({} if clip is None else {"clip": clip})
        most = clip if clip is not None else 1.0
        start = dataclasses.replace(starter, quality=Goal({**keys, "margin": most / 10}, ""))
        policy = parse(start.text(), "the rollout file that init would write")
        quality = policy.goals.quality
        assert quality is not None
        found = goals.smallest_margin(policy, quality, self._traffic().rows, _mean(models[0], loss, most))
        value = number(ask(f"margin: how much worse the candidate's {loss} may be", f"{found.value:g}"), "margin")
        enough = (
            "the smallest that can be decided with" if found.enough else "coarse, and it still needs more labels than"
        )
        why = (
            f"A guess: {what}, may be worse by `margin`: {enough} {self._traffic().says}, if the two models are equal."
        )
        keys["margin"] = value
        if self.target is not None:
            if not LOSSES[loss].of_one:
                raise ConfigurationError(
                    f"--target is a mean loss of one model, and `{loss}` compares two: leave it out"
                )
            keys["poc_target"] = self.target
        return Goal(keys, why), policy

    def _need(self, policy: Policy) -> str:
        """How many labels the rollout needs, by the table of `understudy check`, in a sentence."""
        traffic, needs = self._traffic(), list(table(policy))
        labels = max((need.labels or 0 for need in needs), default=0)
        requests = max((need.requests or 0 for need in needs), default=0)
        text = f"each step needs about {labels:,} labels and {requests:,} requests if the models are equal"
        if traffic.a_day is None:
            return f"{text}; {self.data.name} has {traffic.rows:,}"
        days = max(1, math.ceil(requests / max(traffic.a_day, 1e-9)))
        return f"{text}: about {days:,} {'day' if days == 1 else 'days'} at the {traffic.a_day:,.0f} rows a day of {self.data.name}"


def summary(found: Evaluation, models: Sequence[Judged], goal: Quality) -> list[str]:
    """The result on the data, in two or three lines."""
    first, second = (model.name for model in models)
    apart, digits = found.everything.difference, goal.scale.digits
    lines = []
    if goal.scale.loss.of_one:
        means = ", ".join(
            f"{model.name} {each.mean:,.{digits}f}" for model, each in zip(models, found.everything.loss, strict=True)
        )
        unit = f" in {goal.scale.loss.unit}" if goal.scale.loss.unit else ""
        lines.append(f"{goal.scale.words}{unit} on {found.labelled:,} labelled rows, less is better: {means}")
    if apart is not None and apart.rows:
        which = "better" if apart.mean < 0 else "worse"
        subject_ = f"{second} is {which} than {first}" if apart.mean else f"{second} is as good as {first}"
        lines.append(f"{subject_}: difference {apart.mean:+,.{digits}f}{_between(apart, digits)}")
    lines += [
        f"{answer.question} {answer.answer}"
        for answer in found.answers
        if goal.poc_target is not None and "target" in answer.question
    ]
    return lines


def _beside_constant(found: Evaluation, goal: Quality, labels: Sequence[Label | None]) -> list[str]:
    """How good the proof of concept is, beside an answer that is the same for every row."""
    constant = goals.constant_loss(goal.loss, labels, goal.scale.most)
    if constant is None:
        return []
    poc, form = found.everything.loss[0].mean, f",.{goal.scale.digits}f"
    if len(set(labels) - {None}) == 1:
        return ["warning: all labels are the same, so nothing shows how the models tell the others"]
    if poc < constant:
        target = (
            "" if goal.poc_target is not None else "; --target judges the POC by the mean loss that it was to reach"
        )
        return [f"for comparison, the best answer that is the same for every row has {constant:{form}}{target}"]
    doubt = "are the label column, the classes and the columns of the inputs the right ones"
    doubt += ", and its probabilities calibrated?" if goal.loss == "brier" else "?"
    return [f"warning: the POC is no better than an answer that is the same for every row ({constant:{form}}): {doubt}"]


def _between(found: Interval, digits: int) -> str:
    if found.low is None or found.high is None:
        return ", on too few days for an interval"
    return f", between {found.low:+,.{digits}f} and {found.high:+,.{digits}f} with 95 % confidence"


def asked(proposals: list[Goal], ask: Ask) -> list[Goal]:
    """The goals, with the margin of the first one as a person answers."""
    if not proposals or proposals[0].keys is None:
        return proposals
    first = proposals[0]
    assert first.keys is not None
    default = scalar(first.keys["margin"])
    margin = number(ask(f"margin: how much worse the candidate's {first.keys['loss']} may be", default), "margin")
    return [Goal({**first.keys, "margin": margin}, first.why), *proposals[1:]]


def number(text: str, what: str) -> float:
    """A positive number that a person typed.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigurationError(f"the {what} is a number above 0, not {text!r}")
    return value


def card_of(model: Model, data: Data, attempts: Sequence[Attempt], own: Sequence[int | str] = ()) -> Card:
    """The card of a bare file: what its graph says, and what was found in the data.

    Args:
        own: the classes, if they are written on the card; classes that were guessed are in the rollout file otherwise.
    """
    card, sample = model.card, data.sample
    columns = loading.inputs_of(card, {field.name: place for place, field in enumerate(data.fields)})
    inputs, predictions = profiles_of(card, columns, sample.rows, sample.at, attempts)
    found = judged(card.name, card, list(attempts), sample.labels).losses if data.labelled else {}
    first, last = ("", "") if sample.at is None else (day_of(sample.at[0]), day_of(sample.at[-1]))
    metrics = {loss: float(f"{np.nanmean(values):.6g}") for loss, values in found.items()}
    rows = sum(label is not None for label in sample.labels) or len(sample.rows)
    places = {field.name: place for place, field in enumerate(data.fields)}
    changes: dict[str, object] = {
        "inputs": _with_shapes(inputs, sample.rows, places),
        "predictions": predictions,
        "measured": Measured(data=data.name, start=first, end=last, rows=rows, metrics=metrics),
    }
    if model.guessed and not own:
        usual = len(card.classes) == 2 and card.positive == card.classes[1]
        changes |= {"classes": [], "positive": None if usual else card.positive}
    return model.names.graph_card(card.model_copy(update=changes))


def _with_shapes(inputs: Sequence[InputSpec], rows: Sequence[Row], places: Mapping[str, int]) -> list[InputSpec]:
    """Inputs whose sizes vary, with the shapes of some real rows: the service is warmed up and checked with them."""
    varying = [spec.name for spec in inputs if None in spec.row_shape]
    shapes: dict[tuple[tuple[int, ...], ...], None] = {}
    for row in rows if varying else ():
        shapes[tuple(np.shape(np.asarray(row[places[name]], dtype=object)) for name in varying)] = None
        if len(shapes) == SHAPES_MAX:
            break
    tried = {name: [list(each[i]) for each in shapes] for i, name in enumerate(varying)}
    return [spec.model_copy(update={"tried": tried[spec.name]}) if spec.name in tried else spec for spec in inputs]


def _mean(model: Judged, loss: str, most: float) -> float | None:
    """A model's mean loss, cut at its largest value; None for a loss of two models."""
    values = model.losses.get(loss)
    return None if values is None or np.isnan(values).all() else float(np.nanmean(np.minimum(values, most)))
