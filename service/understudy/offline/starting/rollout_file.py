"""The rollout file that `understudy init` writes: YAML with a comment on each guess. Pure."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from understudy.domain import Variant
from understudy.errors import ConfigurationError
from understudy.inference.names import yaml_name
from understudy.offline.starting.goals import milliseconds
from understudy.rollout.feasibility import Subject, feasibility
from understudy.rollout.loss_table import DISAGREEMENT
from understudy.rollout.policy import AGREEMENT, MULTILABEL, parse

COMMENT_MAX_CHARS = 120
LINE_MAX_CHARS = 140
"""A line with a longer comment has it in lines of its own."""
WAIT_WHY = "a guess: a label counts if it comes within this time after its prediction"
ERRORS_WHY = "a guess: the candidate may fail on this share of requests more than the primary"
TEMPLATE = """\
# Written by `understudy init`. Guesses are marked as such: set them to what your launch needs, then run `understudy check`.
{head}model: {model}
task: {task}
primary: {primary}
candidate: {candidate}
device: auto
{classes}{keys}goals:
  error_budget: 0.05 # chance of any wrong verdict in this rollout, half for a wrong promotion and half for a wrong rollback
{quality}\
{errors}\
{latency}\
{labels}\
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
class Goal:
    """A quality goal.

    Attributes:
        keys: of `goals.quality`; None for no such goal.
        why: a comment.
    """

    keys: Mapping[str, str | float] | None
    why: str

    @property
    def labelled(self) -> bool:
        """Whether it needs labels."""
        return self.keys is not None and self.keys["loss"] != DISAGREEMENT


@dataclass(frozen=True, slots=True)
class Starter:
    """The content of the file.

    Attributes:
        quality: the quality goal.
        names: the class names.
        p99_ms, deadline_ms: the latency goals.
        latency_why: a comment on them.
        head: comments on the data, one paragraph each.
        keys: further lines at the top level, each with a comment.
        errors_margin, errors_why: the goal for failures, and a comment.
        wait, wait_why: how long labels are waited for, and a comment.
        amount: of labels (or requests) that the first step waits for.
    """

    model: str
    task: str
    primary: str
    candidate: str
    quality: Goal
    names: Names
    p99_ms: float
    deadline_ms: float
    latency_why: str
    head: Sequence[str] = ()
    keys: Sequence[tuple[str, str]] = ()
    errors_margin: float = 0.002
    errors_why: str = ERRORS_WHY
    wait: str = "72h"
    wait_why: str = WAIT_WHY
    amount: int = 500

    def text(self) -> str:
        """The YAML text."""
        quality = _comment(self.quality.why, 2)
        if self.quality.keys is not None:
            keys = ", ".join(f"{name}: {scalar(value)}" for name, value in self.quality.keys.items())
            quality += f"  quality: {{{keys}}}\n"
        latency = f"{_comment(self.latency_why, 2)}  latency: {{p99_ms: {self.p99_ms:g}, deadline_ms: {self.deadline_ms:g}}}\n"
        classes = ""
        if self.names.classes:
            listed = ", ".join(scalar(name) if isinstance(name, str) else str(name) for name in self.names.classes)
            classes = _with_comment(f"classes: [{listed}]", self.names.guess, 0)
        return TEMPLATE.format(
            head="".join(_comment(line, 0) for line in self.head),
            classes=classes,
            keys="".join(_with_comment(line, why, 0) for line, why in self.keys),
            model=scalar(self.model),
            task=self.task,
            primary=scalar(self.primary),
            candidate=scalar(self.candidate),
            quality=quality,
            errors=_with_comment(f"errors: {{margin: {self.errors_margin:g}}}", self.errors_why, 2),
            latency=latency,
            labels=_with_comment(f"labels: {{wait: {self.wait}, count: settled}}", self.wait_why, 0),
            amount=f"{'labels' if self.quality.labelled else 'requests'}: {self.amount}",
        )


def write(starter: Starter, goals: Sequence[Goal], models: Mapping[Variant, Subject]) -> str:
    """The text of a rollout file that can finish with these models, with the first goal that they can be judged by.

    Only failures and latency come last: they can be judged whatever the outputs mean.

    Args:
        starter: the file; its quality goal is replaced.
        goals: quality goals, best first.

    Raises:
        ConfigurationError: no goal can be judged; the message says why.
    """
    refused = ""
    for each in (*goals, None):
        why = f"No `quality` goal, so only failures and latency are judged: {refused or 'the meaning of the outputs is unknown.'}"
        goal = each or Goal(None, why)
        task = AGREEMENT if starter.task == "other" and goal.keys is not None else starter.task
        text = dataclasses.replace(starter, task=task, quality=goal).text()
        found = feasibility(parse(text, "the rollout file that init would write"), models)
        if not found.refusals:
            return text
        refused = refused or found.refusals[0].says
    raise ConfigurationError(f"no rollout of these two models can finish: {refused}")


def goals_without_data(task: str, *, comparable: bool) -> Iterator[Goal]:
    """Goals for a task, best first, where nothing is known but the task.

    Args:
        comparable: whether the two models' answers can be equal; see `understudy.records.pairs.incomparable`.
    """
    if task == "regression":
        why = "A guess: in 100 rows, the candidate may be worse on five more rows than it is better."
        yield Goal({"loss": "win_rate", "margin": 0.05}, why)
    elif task == MULTILABEL:
        why = "A guess: the mean Brier score per class, 0 (certain and right) to 1 (certain and wrong), may be this much worse."
        yield Goal({"loss": "brier", "margin": 0.01}, why)
        why = "A guess: the share of wrong classes may be this much larger. (These models give no probabilities.)"
        yield Goal({"loss": "hamming", "margin": 0.01}, why)
    elif task in {"binary-classification", "multiclass-classification"}:
        why = "A guess: the mean Brier score, from 0 (certain and right) to 1 (certain and wrong), may be this much worse."
        yield Goal({"loss": "brier", "margin": 0.01}, why)
        why = "A guess: the share of wrong answers may be this much larger. (These models give no probabilities with class names.)"
        yield Goal({"loss": "zero_one", "margin": 0.01}, why)
    if comparable:
        why = "The two models' answers are compared without labels, because the meaning of the outputs is unknown. A"
        yield Goal(
            {"loss": DISAGREEMENT, "margin": 0.01},
            f"{why} guess: they may differ on 1 of 100 rows (`compare` sets the tolerance).",
        )


def latency_of(seconds: float, what: str) -> tuple[int, int, str]:
    """The latency goals of models of which the slower takes `seconds` for `what`, and a comment."""
    return *milliseconds(
        seconds
    ), f"A guess: {what} takes {seconds * 1000:.3g} ms here in the slower of the two models."


def names(text: str | None) -> Names:
    """Parse class names; if all of them are whole numbers, they are numbers.

    >>> names("0,1").classes, names("cat, dog").classes, names(None).classes
    ((0, 1), ('cat', 'dog'), ())
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    whole = all(part.removeprefix("-").isdecimal() for part in parts)
    return Names(tuple(int(part) for part in parts) if whole else tuple(parts))


def model_name(name: str) -> str:
    """A name that is valid in the rollout file."""
    kept = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in name)[:64]
    return kept if kept[:1].isalnum() else f"m{kept}"[:64]


def _comment(text: str, indent: int) -> str:
    """A comment of one or several lines."""
    return "".join(f"{' ' * indent}# {line}\n" for line in textwrap.wrap(" ".join(text.split()), COMMENT_MAX_CHARS))


def _with_comment(line: str, why: str, indent: int) -> str:
    """A line with its comment behind it, or before it if it is long."""
    line = " " * indent + line
    if not why:
        return f"{line}\n"
    if len(line) + len(why) <= LINE_MAX_CHARS:
        return f"{line} # {why}\n"
    return f"{_comment(why[0].upper() + why[1:] + '.', indent)}{line}\n"


def scalar(value: str | float) -> str:
    """A scalar as YAML. A JSON string is a YAML string."""
    if not isinstance(value, str):
        return f"{value:.10g}"
    plain = value.replace("/", "a").replace("_", "a").replace("-", "a").replace(".", "a")
    return value if plain.isalpha() and value[0].isalpha() and value.lower() not in _WORDS else yaml_name(value)


_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""Words that YAML does not read as strings."""
