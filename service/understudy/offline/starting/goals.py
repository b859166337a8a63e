"""Goals that fit the errors of two models on data, and the traffic that there is. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from understudy.domain import Label
from understudy.offline.evaluate.by_row import Judged, proposed_clip
from understudy.rollout.feasibility import needs
from understudy.rollout.goals import Errors, Quality
from understudy.rollout.policy import Policy, ShadowStep

STEP_DAYS = 7.0
"""The time in which a step should be decided, where the data say how many rows come a day."""
STEPS_OF_TEN = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""Margins are round numbers."""
MARGIN_MIN_SHARE = 0.01
"""A margin below this share of the proof of concept's loss is finer than anybody asks for."""
MARGIN_MAX_SHARE = 0.2
"""A margin is at most this share of the largest loss, even if so little traffic cannot decide it."""
HEAVY_TAIL = 50.0
"""Where the clip is so many times the median error, a few rows would decide the mean, so rows are counted instead."""
ERROR_MARGINS = (0.002, 0.005, 0.01, 0.02, 0.05)
LABELS_MIN, LABELS_MAX = 50, 500
"""The first step waits for at least so many labels."""
WAIT_QUANTILE, WAIT_ROOM = 0.995, 1.5
WAIT_DEFAULT_S = 72 * 3600.0

EVERY = ShadowStep(shadow=100)
"""A step in which both models answer every request; rehearsals go on in the others."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many rows count as evidence in a step.

    Attributes:
        rows: with a label, in one step.
        a_day: rows a day; None without times.
        says: where the number comes from, for a comment.
    """

    rows: int
    a_day: float | None
    says: str


def traffic(source: str, counted: int, rows: int, days: float | None, what: str) -> Traffic:
    """The traffic that data promise.

    Args:
        source: the file's name.
        counted: rows that count as evidence.
        rows: all rows.
        days: that they cover; None without times.
        what: of what the rows are counted: "rows with a label".
    """
    if days is None:
        return Traffic(counted, None, f"the {counted:,} {what} of {source}, as if one step had so many")
    a_day = counted / days
    step = max(1, round(a_day * STEP_DAYS))
    return Traffic(step, rows / days, f"{step:,} {what} in {STEP_DAYS:g} days, as {source} has {a_day:,.0f} a day")


def loss_of(models: Sequence[Judged]) -> tuple[str, float | None, str]:
    """A loss for the models, its clip, and why: the first that all have, best first."""
    losses = set.intersection(*(set(model.losses) for model in models))
    if "brier" in losses:
        return "brier", None, "the mean Brier score, from 0 (certain and right) to 1 (certain and wrong)"
    if "absolute_error" in losses:
        return _of_errors(models)
    return "zero_one", None, "the share of wrong answers, since these models give no probabilities with class names"


def _of_errors(models: Sequence[Judged]) -> tuple[str, float | None, str]:
    clip = proposed_clip(models)
    known = [model.errors[~np.isnan(model.errors)] for model in models]
    middle = max((float(np.median(errors)) for errors in known if errors.size), default=0.0)
    nearer = "how much more often the candidate is farther from the truth than nearer, compared with the POC"
    if clip is None:
        return "win_rate", None, f"{nearer} (all errors on the data are 0, so there is no unit to measure them in)"
    if clip > HEAVY_TAIL * middle:
        times = f"{clip / middle:,.0f} times " if middle else "far larger than "
        why = f"{nearer}, because a few errors are {times}the median one and would decide a mean by themselves"
        return "win_rate", None, why
    why = f"the mean absolute error in label units, where an error of more than {clip:,.6g} counts as that: of each model's errors"
    return "absolute_error", clip, f"{why} on the data at least 99.5 % are smaller"


def constant_loss(loss: str, labels: Sequence[Label | None], most: float) -> float | None:
    """The mean loss of the best answer that is the same for every row; None for a loss of two models.

    Args:
        most: the largest loss.

    >>> constant_loss("zero_one", ["a", "a", "b", None], 1.0), constant_loss("absolute_error", [1.0, 2.0, 9.0], 5.0)
    (0.3333333333333333, 2.0)
    """
    known = [label for label in labels if label is not None]
    if loss == "absolute_error":
        numbers = np.array([label for label in known if isinstance(label, int | float)], dtype=np.float64)
        return float(np.minimum(np.abs(numbers - np.median(numbers)), most).mean()) if numbers.size else None
    shares = np.array(list(Counter(known).values()), dtype=np.float64) / max(len(known), 1)
    if not shares.size or loss not in {"brier", "zero_one"}:
        return None
    return float((1.0 - (shares**2).sum()) / 2.0 if loss == "brier" else 1.0 - shares.max())


def margins(least: float, most: float) -> list[float]:
    """Round numbers from `least` to `most`, ascending.

    >>> margins(0.004, 0.03)
    [0.005, 0.007, 0.01, 0.015, 0.02, 0.03]
    """
    found = []
    for power in range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 1):
        found += [float(f"{step * 10.0**power:.3g}") for step in STEPS_OF_TEN]
    return [each for each in found if least * 0.999 <= each <= most * 1.001]


@dataclass(frozen=True, slots=True)
class Margin:
    """A margin: its value, the labels that a step then needs, and whether the traffic has so many."""

    value: float
    labels: int
    enough: bool


def smallest_margin(policy: Policy, quality: Quality, rows: int, poc_loss: float | None) -> Margin:
    """The smallest margin that so many labels can decide, by the numbers that `understudy check` shows.

    Args:
        policy: a rollout; its quality goal is replaced.
        quality: the loss with any margin.
        rows: labels in one step.
        poc_loss: mean loss of the proof of concept, in raw units; None for a loss that compares two models.
    """
    most = quality.scale.most
    least = max(0.001 * most, MARGIN_MIN_SHARE * (poc_loss or 0.0))
    last = Margin(MARGIN_MAX_SHARE * most, 0, enough=False)
    for value in margins(min(least, MARGIN_MAX_SHARE * most), MARGIN_MAX_SHARE * most):
        goal = quality.model_copy(update={"margin": value})
        amount = needs.quality(
            policy.model_copy(update={"goals": policy.goals.model_copy(update={"quality": goal})}), EVERY
        )
        if amount.requests is None:
            continue
        last = Margin(value, amount.requests, enough=amount.requests <= rows)
        if last.enough:
            return last
    return last


def error_margin(policy: Policy, rows: int) -> tuple[float, int]:
    """The smallest of some margins for failures that so many requests can decide, and the requests that it takes."""
    found = (ERROR_MARGINS[-1], 0)
    for value in ERROR_MARGINS:
        goals = policy.goals.model_copy(update={"errors": Errors(margin=value)})
        amount = needs.errors(policy.model_copy(update={"goals": goals}), EVERY)
        if amount.requests is not None:
            found = (value, amount.requests)
            if amount.requests <= rows:
                break
    return found


def first_labels(rows: int) -> int:
    """How many labels the first step waits for at least: half of what a step has, between 50 and 500.

    >>> first_labels(10_000), first_labels(300), first_labels(20)
    (500, 150, 50)
    """
    return max(LABELS_MIN, min(LABELS_MAX, rows // 2))


def wait_for(delays: Sequence[float]) -> tuple[float, str]:
    """How long labels are waited for, in seconds, and why."""
    if not delays:
        return WAIT_DEFAULT_S, "a guess: a label counts if it comes within this time after its prediction"
    late = float(np.quantile(np.array(delays), WAIT_QUANTILE))
    seconds = max(60.0, late * WAIT_ROOM)
    unit = 86_400.0 if seconds > 4 * 86_400 else 3_600.0 if seconds > 2 * 3_600 else 60.0
    why = f"{WAIT_QUANTILE:.1%} of the labels came within {duration(late)}, and one counts if it comes within this time"
    return math.ceil(seconds / unit) * unit, why


def duration(seconds: float) -> str:
    """A duration as the rollout file has it.

    >>> duration(259_200), duration(5_400), duration(40)
    ('72h', '90m', '40s')
    """
    for unit, size in (("h", 3_600.0), ("m", 60.0)):
        if seconds >= size and (seconds / size).is_integer():
            return f"{seconds / size:g}{unit}"
    return f"{seconds / 3600:.3g}h" if seconds >= 7_200 else f"{round(seconds)}s"


def milliseconds(seconds: float) -> tuple[int, int]:
    """A p99 goal and a deadline in milliseconds, with room for a model that takes `seconds` for one row.

    >>> milliseconds(0.0002), milliseconds(0.180)
    ((50, 250), (720, 3600))
    """
    p99 = max(50, -(-int(seconds * 4000) // 10) * 10)
    return p99, max(250, 5 * p99)
