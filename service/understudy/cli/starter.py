"""The rollout file that `understudy init` writes: YAML with a comment on each guess."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from understudy.domain import Variant
from understudy.errors import ConfigurationError
from understudy.inference.cards import Card
from understudy.rollout.feasibility import Subject, feasibility
from understudy.rollout.loss_table import DISAGREEMENT
from understudy.rollout.policy import AGREEMENT, MULTILABEL, parse

COMMENT_MAX_CHARS = 120
TEMPLATE = """\
# Written by `understudy init`. Guesses are marked as such: set them to what your launch needs, then run `understudy check`.
model: {model}
task: {task}
primary: {primary}
candidate: {candidate}
device: auto
{classes}goals:
  error_budget: 0.05 # chance of any wrong verdict in this rollout, half for a wrong promotion and half for a wrong rollback
{quality}\
  errors: {{margin: 0.002}} # a guess: the candidate may fail on this share of requests more than the primary
{latency}\
labels: {{wait: 72h, count: settled}} # a guess: a label counts if it comes within this time after its prediction
# Each step lasts at least a day, because requests may differ between day and night; if they do not, remove `duration`.
# Time is the requests' own, so a day of history that is replayed in a minute counts as a day.
steps:
  - shadow: 100 # the candidate rehearses on every request, and answers none
    until: {{{amount}, duration: 24h}}
  - canary: 5 # it answers 5 % of the callers
    until: {{duration: 24h}}
  - canary: 25
    until: {{duration: 24h}}
  - canary: 50
    until: {{duration: 24h}}
  - promote
"""


@dataclass(frozen=True, slots=True)
class Names:
    """Class names for models without them.

    Attributes:
        classes: in the order of the probabilities; empty if the models name them or have no classes.
        guess: a comment for the rollout file if the names are a guess.
    """

    classes: tuple[int | str, ...] = ()
    guess: str = ""


@dataclass(frozen=True, slots=True)
class Starter:
    """The content of the file.

    Attributes:
        quality: the keys of `goals.quality`; None for no such goal.
        why: a comment on `quality`.
        names: the class names.
        p99_ms, deadline_ms: the latency goals.
        measured: milliseconds that the slower model takes for one row.
    """

    model: str
    task: str
    primary: str
    candidate: str
    quality: Mapping[str, str | float] | None
    why: str
    names: Names
    p99_ms: int
    deadline_ms: int
    measured: float

    @property
    def _labelled(self) -> bool:
        return self.quality is not None and self.quality["loss"] != DISAGREEMENT

    def text(self) -> str:
        """The YAML text."""
        quality = "".join(f"  # {line}\n" for line in textwrap.wrap(self.why, COMMENT_MAX_CHARS))
        if self.quality is not None:
            keys = ", ".join(f"{name}: {_scalar(value)}" for name, value in self.quality.items())
            quality += f"  quality: {{{keys}}}\n"
        latency = f"  # A guess: one row takes {self.measured:.3g} ms here in the slower of the two models.\n"
        latency += f"  latency: {{p99_ms: {self.p99_ms}, deadline_ms: {self.deadline_ms}}}\n"
        classes = ""
        if self.names.classes:
            listed = ", ".join(_scalar(name) if isinstance(name, str) else str(name) for name in self.names.classes)
            classes = f"classes: [{listed}]" + (f" # {self.names.guess}\n" if self.names.guess else "\n")
        return TEMPLATE.format(
            classes=classes,
            model=_scalar(self.model),
            task=self.task,
            primary=_scalar(self.primary),
            candidate=_scalar(self.candidate),
            quality=quality,
            latency=latency,
            amount="labels: 500" if self._labelled else "requests: 500",
        )


def names(text: str | None) -> Names:
    """Parse class names; if all of them are whole numbers, they are numbers.

    >>> names("0,1").classes, names("cat, dog").classes, names(None).classes
    ((0, 1), ('cat', 'dog'), ())
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    whole = all(part.removeprefix("-").isdecimal() for part in parts)
    return Names(tuple(int(part) for part in parts) if whole else tuple(parts))


def opened(sources: tuple[Path, Path], named: Names) -> tuple[list[Card], list[float], Names]:
    """Open both models: their cards, the seconds that each takes for one row, and their class names.

    A model without class names gets those of the other model, or numbers from 0, which the file marks as a guess.

    Raises:
        ConfigurationError: a model cannot be read, or has another number of classes.
    """
    from understudy.inference.onnx import OnnxEngine

    cards, seconds, unnamed = [], [], 0
    for source in sources:
        engine = OnnxEngine(source, device="cpu", warm_max_rows=1, classes=named.classes)
        cards.append(engine.card)
        seconds.append(engine.seconds(1))
        unnamed = max(unnamed, engine.unnamed)
        engine.close()
    if not unnamed or named.classes:
        return cards, seconds, named
    known = next((card.classes for card in cards if len(card.classes) == unnamed), None)
    guess = (
        "a guess: only one of the models names its classes; the other is assumed to have the same, in the same order"
    )
    if known is None:
        known = list(range(unnamed))
        guess = "a guess: the models do not name the classes. Write them as in your labels, in the order of the probabilities"
    return opened(sources, Names(tuple(known), guess))


def write(
    model: str,
    task: str,
    sources: tuple[str, str],
    models: Mapping[Variant, Subject],
    named: Names = Names(),
    *,
    comparable: bool = True,
) -> str:
    """The text of a rollout file that can finish with these models, with the first goal that fits the task.

    Args:
        comparable: whether the two models' answers can be equal; see `understudy.records.pairs.incomparable`.

    Raises:
        ConfigurationError: no goal can be judged; the message says why.
    """
    slower = max(each.seconds or 0.0 for each in models.values())
    p99_ms, deadline_ms = milliseconds(slower)
    refused = ""
    # Only failures and latency come last: they can be judged whatever the outputs mean.
    for quality, why in (
        *_goals(task, comparable=comparable),
        (None, "No `quality` goal, so only failures and latency are judged: "),
    ):
        reason = why if quality is not None else why + (refused or "the meaning of the outputs is unknown.")
        does = AGREEMENT if task == "other" and quality is not None else task
        starter = Starter(
            _model_name(model), does, *sources, quality, reason, named, p99_ms, deadline_ms, slower * 1000
        )
        text = starter.text()
        found = feasibility(parse(text, "the rollout file that init would write"), models)
        if not found.refusals:
            return text
        refused = refused or found.refusals[0].says
    raise ConfigurationError(f"no rollout of these two models can finish: {refused}")


def _goals(task: str, *, comparable: bool) -> Iterator[tuple[Mapping[str, str | float], str]]:
    """Goals for a task, best first, each with a comment."""
    if task == "regression":
        why = "A guess: in 100 rows, the candidate may be worse on five more rows than it is better."
        yield {"loss": "win_rate", "margin": 0.05}, why
    elif task == MULTILABEL:
        why = "A guess: the mean Brier score per class, 0 (certain and right) to 1 (certain and wrong), may be this much worse."
        yield {"loss": "brier", "margin": 0.01}, why
        why = "A guess: the share of wrong classes may be this much larger. (These models give no probabilities.)"
        yield {"loss": "hamming", "margin": 0.01}, why
    elif task in {"binary-classification", "multiclass-classification"}:
        why = "A guess: the mean Brier score, from 0 (certain and right) to 1 (certain and wrong), may be this much worse."
        yield {"loss": "brier", "margin": 0.01}, why
        why = "A guess: the share of wrong answers may be this much larger. (These models give no probabilities with class names.)"
        yield {"loss": "zero_one", "margin": 0.01}, why
    if comparable:
        why = "The two models' answers are compared without labels, because the meaning of the outputs is unknown. A"
        yield (
            {"loss": DISAGREEMENT, "margin": 0.01},
            f"{why} guess: they may differ on 1 of 100 rows (`compare` sets the tolerance).",
        )


def _model_name(name: str) -> str:
    """A name that is valid in the rollout file."""
    kept = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in name)[:64]
    return kept if kept[:1].isalnum() else f"m{kept}"[:64]


def milliseconds(seconds: float) -> tuple[int, int]:
    """A p99 goal and a deadline in milliseconds, with room for a model that takes `seconds` for one row.

    >>> milliseconds(0.0002), milliseconds(0.180)
    ((50, 250), (720, 3600))
    """
    p99 = max(50, -(-int(seconds * 4000) // 10) * 10)
    return p99, max(250, 5 * p99)


def _scalar(value: str | float) -> str:
    """A scalar as YAML. A JSON string is a YAML string."""
    if not isinstance(value, str):
        return f"{value:g}"
    plain = value.replace("/", "a").replace("_", "a").replace("-", "a").replace(".", "a")
    return value if plain.isalpha() and value[0].isalpha() and value.lower() not in _WORDS else json.dumps(value)


_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""Words that YAML does not read as strings."""
