"""The rollout file that `understudy init` writes: as YAML, with a comment on each guess."""

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
# Written by `understudy init`. Each line that is a guess says so: set it to what your launch needs, then run `understudy check`.
model: {model}
task: {task}
primary: {primary}
candidate: {candidate}
device: auto
{classes}goals:
  error_budget: 0.05 # chance of any wrong verdict in this rollout, half for a wrong promotion and half for a wrong rollback
{quality}\
  errors: {{margin: 0.002}} # a guess: the candidate may fail on so many more requests, as a share
{latency}\
labels: {{wait: 72h, count: settled}} # a guess: how long after a prediction its label may come and still count
# Each step lasts at least a day, since requests may differ between day and night; where they do not, leave `duration` out.
# Time is the requests' own, so a day of history that is replayed in a minute is a day.
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
    """What the classes are called, where the models do not say it.

    Attributes:
        classes: in the order of the probabilities; empty where the models name them, or have none.
        guess: a comment, where nobody has said it.
    """

    classes: tuple[int | str, ...] = ()
    guess: str = ""


@dataclass(frozen=True, slots=True)
class Starter:
    """What goes into the file.

    Attributes:
        quality: the keys of `goals.quality`; None for none. why: a comment on it. names: what the classes are called.
        p99_ms: and `deadline_ms`: in whole milliseconds. measured: what one row takes in the slower model, in milliseconds.
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
        """The file."""
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


def names(given: str | None) -> Names:
    """Class names as a user gives them: whole numbers where all of them are.

    >>> names("0,1").classes, names("cat, dog").classes, names(None).classes
    ((0, 1), ('cat', 'dog'), ())
    """
    parts = [part.strip() for part in (given or "").split(",") if part.strip()]
    whole = all(part.removeprefix("-").isdecimal() for part in parts)
    return Names(tuple(int(part) for part in parts) if whole else tuple(parts))


def opened(sources: tuple[Path, Path], named: Names) -> tuple[list[Card], list[float], Names]:
    """Both models' cards, what one row takes in each, and what their classes are called.

    Where nothing names the classes of one model, they are taken to be those of the other, or the numbers from 0: the file says that
    this is a guess.

    Raises:
        ConfigurationError: when a model cannot be read, or has another number of classes.
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
        "a guess: only one of the models names its classes, and the other is taken to have the same, in the same order"
    )
    if known is None:
        known = list(range(unnamed))
        guess = "a guess: nothing names the classes. Write them as your labels do, in the order of the probabilities"
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
    """The text of a rollout file that can finish with these models: the first of the goals that fit the task.

    Args:
        comparable: whether the two models' answers can be equal; see `understudy.records.pairs.incomparable`.

    Raises:
        ConfigurationError: when none of them can ever be judged, naming what is in the way.
    """
    slower = max(each.seconds or 0.0 for each in models.values())
    p99_ms, deadline_ms = milliseconds(slower)
    refused = ""
    # Failures and latency come last: they need no meaning of an answer.
    for quality, why in (
        *_goals(task, comparable=comparable),
        (None, "No `quality` goal, so only failures and latency are judged: "),
    ):
        reason = why if quality is not None else why + (refused or "nothing says what the outputs mean.")
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
    """Goals for a task, the best first, each with a comment."""
    if task == "regression":
        why = "A guess: of 100 rows, the candidate may be farther from the truth on five more than it is nearer."
        yield {"loss": "win_rate", "margin": 0.05}, why
    elif task == MULTILABEL:
        why = "A guess: the mean Brier score of a class, from 0 (sure and right) to 1 (sure and wrong), may be so much worse."
        yield {"loss": "brier", "margin": 0.01}, why
        why = "A guess: the share of wrong classes may be so much larger. (These models give no probabilities.)"
        yield {"loss": "hamming", "margin": 0.01}, why
    elif task in {"binary-classification", "multiclass-classification"}:
        why = "A guess: the mean Brier score, from 0 (sure and right) to 1 (sure and wrong), may be so much worse."
        yield {"loss": "brier", "margin": 0.01}, why
        why = "A guess: the share of wrong answers may be so much larger. (These models give no probabilities with class names.)"
        yield {"loss": "zero_one", "margin": 0.01}, why
    if comparable:
        why = "The two models' answers are compared with each other, without labels, since nothing says what the outputs mean. A"
        yield (
            {"loss": DISAGREEMENT, "margin": 0.01},
            f"{why} guess: they may differ on 1 of 100 rows (`compare` says by how much).",
        )


def _model_name(name: str) -> str:
    """A name that the rollout file takes."""
    kept = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in name)[:64]
    return kept if kept[:1].isalnum() else f"m{kept}"[:64]


def milliseconds(seconds: float) -> tuple[int, int]:
    """A p99 limit and a deadline, in milliseconds, with room for a model that takes so long for one row.

    >>> milliseconds(0.0002), milliseconds(0.180)
    ((50, 250), (720, 3600))
    """
    p99 = max(50, -(-int(seconds * 4000) // 10) * 10)
    return p99, max(250, 5 * p99)


def _scalar(value: str | float) -> str:
    """A scalar that YAML reads as what it is; a JSON string is a YAML string."""
    if not isinstance(value, str):
        return f"{value:g}"
    plain = value.replace("/", "a").replace("_", "a").replace("-", "a").replace(".", "a")
    return value if plain.isalpha() and value[0].isalpha() and value.lower() not in _WORDS else json.dumps(value)


_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""What YAML reads as something else than a string."""
