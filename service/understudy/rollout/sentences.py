"""Metrics in sentences: a reading, its band, and the reason of a rollback. Pure."""

import math
from collections.abc import Callable, Mapping

from understudy.domain import Variant
from understudy.rollout.incidents import INTERVAL_S
from understudy.rollout.loss_table import DISAGREEMENT, LossScale
from understudy.rollout.reading import CLIPPED_MAX, Clipped, MetricReading

SLOW = "slow"
CAUSES: Mapping[str, tuple[str, str]] = {
    SLOW: ("slower than the limit", "too slow"),
    "timeout": ("timed out", "too often no answer in time"),
    "failed": ("failed", "too often no answer"),
    "invalid": ("not finite or of the wrong shape", "too often an answer that cannot be used"),
    "withheld": ("in a request with a row that is not finite", "too often an answer that cannot be used"),
}
"""Why an answer did not come in time (`slow`, or its status): in a sentence, and as the main cause of a rollback."""


def sentence(r: MetricReading) -> str:
    """A metric in a sentence, without a verdict."""
    if r.metric == "serving_errors":
        return f"the candidate caused {r.estimate:.1%} of {r.n:,} failures that callers saw (it may fail {r.line:g} times as often)"
    if r.metric.startswith("latency_"):
        name = r.metric.removeprefix("latency_")
        if math.isnan(r.estimate):
            return f"neither model has answered yet, so their {name} cannot be compared"
        times = f"{r.estimate:.2f} times the primary's ({r.line:g} times are allowed)"
        return f"after {r.n:,} answers of each model the candidate's {name} is {times}"
    if r.metric == "latency":
        return _in_time(r)
    if r.metric in {"errors", "request_errors"}:
        return _failures(r)
    return _of_loss(r)


def between(low: float, high: float, write: Callable[[float], str], less: str, more: str) -> str:
    """A band in words: the direction is a word, and the numbers have no sign.

    >>> between(0.07, 0.16, "{:.0%}".format, "fewer", "more"), between(-0.16, 0.07, "{:.0%}".format, "fewer", "more")
    ('between 7% and 16% more', 'between 16% fewer and 7% more')
    """
    if high < 0:
        return f"between {write(-high)} and {write(-low)} {less}"
    if low > 0:
        return f"between {write(low)} and {write(high)} {more}"
    return f"between {write(abs(low))} {less} and {write(abs(high))} {more}"


def blame(r: MetricReading, alpha: float) -> str:
    """The reason of a rollback, with the chance that a rollback is wrong."""
    why = "worse than the harm line"
    if r.metric == "latency":
        why = _cause(_main_cause(r))[1]
    elif r.metric.startswith("latency"):
        why = "too slow"
    return f"{sentence(r)}: {why} (chance of any wrong rollback: {alpha:.2%})"


def span(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def saturated(variant: Variant, clipped: Clipped, scale: LossScale) -> str:
    """Too many losses are cut: what it means and what to do."""
    share = (
        f"{clipped.cut[variant]:,} of {clipped.labelled[variant]:,} labelled rows ({clipped.share(variant) or 0.0:.1%}"
    )
    return (
        f"the {variant}'s {scale.loss.words} is above the largest value that counts ({scale.most:,.10g}) on {share}; at most "
        f"{CLIPPED_MAX:.0%} may be): all these rows count the same, so the models cannot be compared. Raise `goals.quality.clip` "
        "(`understudy evaluate --data FILE --label COL` proposes a value); this starts new evidence"
    )


def _of_loss(r: MetricReading) -> str:
    if not r.n and r.metric != DISAGREEMENT:
        what = r.words or r.metric.replace("_", "-")
        return (
            f"no labelled pair yet, so the {what} cannot be compared"
            if r.metric != "win_rate"
            else "no labelled pair yet"
        )
    if r.metric == DISAGREEMENT:
        return (
            f"on {r.n:,} rows the candidate's answer differs from the primary's on {r.estimate:.2%} (between {max(r.low, 0.0):.2%} "
            f"and {max(r.high, 0.0):.2%}; {r.line:.2%} is allowed)"
        )
    if r.metric == "win_rate":
        # The estimate is lower for a better candidate; the sentence says how much more often it is nearer.
        side, band = (
            "less" if r.estimate > 0 else "more",
            between(-r.high, -r.low, lambda x: f"{x:.2%}", "less", "more"),
        )
        return (
            f"after {r.n:,} pairs the candidate is nearer to the truth {abs(r.estimate):.2%} {side} often than the primary "
            f"({band}; {r.line:.2%} less is allowed)"
        )
    what, side = r.words or r.metric.replace("_", "-"), "better" if r.estimate < 0 else "worse"
    band = between(r.low, r.high, lambda x: f"{x:,.{r.digits}f}", "better", "worse")
    return (
        f"after {r.n:,} pairs the candidate's {what} is {abs(r.estimate):,.{r.digits}f} {side} ({band}; {r.line:,.10g} worse is "
        "allowed)"
    )


def _in_time(r: MetricReading) -> str:
    if not r.n:
        return f"the candidate has not answered yet, so the latency limit cannot be checked ({r.line * 100:g} % may be slower)"
    causes = {cause: count for cause, count in r.causes if count}
    after = f"after {r.n:,} requests {r.estimate:.2%} of the candidate's answers"
    if not causes.keys() - {SLOW}:
        return f"{after} are slower than the limit ({r.line * 100:g} % are allowed)"
    ordered = sorted(causes.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{count / r.n:.2%} {_cause(cause)[0]}" for cause, count in ordered)
    return f"{after} did not come in time ({shares}; {r.line * 100:g} % are allowed)"


def _main_cause(r: MetricReading) -> str:
    return max(r.causes, key=lambda item: item[1])[0] if r.causes else SLOW


def _cause(name: str) -> tuple[str, str]:
    return CAUSES.get(name, (name.replace("_", " "), "too often no answer in time"))


def _failures(r: MetricReading) -> str:
    side = "more" if r.estimate >= 0 else "fewer"
    share, allowed = f"{abs(r.estimate):.2%} {side}", f"{r.line:.2%} more are allowed"
    if r.metric == "request_errors" and not r.n:
        return f"failures are compared by intervals of {INTERVAL_S:g} s, and none is over yet ({allowed})"
    if not r.n:
        return f"no request yet, so failures cannot be compared ({allowed})"
    if r.metric == "request_errors":
        return f"in {r.n:,} intervals of {INTERVAL_S:g} s the candidate fails {share} of all requests ({allowed})"
    band = between(r.low, r.high, lambda value: f"{value:.2%}", "fewer", "more")
    which = f" (the first request of each `{r.per}` a day)" if r.per else ""
    return f"after {r.n:,} pairs{which} the candidate fails {share} requests ({band}; {allowed})"
