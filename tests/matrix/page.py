"""The matrix as a page, and what is wrong with it."""

from collections.abc import Sequence

from scipy.stats import binom

from tests.matrix.cells import LONGER, TRUTHS, Outcome
from tests.matrix.worlds import STYLES

WRONG_SHARE = 0.025
"""Half of the error budget of 5 %: the most that either kind of wrong verdict may come to, per rollout."""
SURE = 0.999
"""The bound on wrong ends is this quantile of what chance gives at `WRONG_SHARE`."""
HEAD = """# Whole rollouts whose truth is known

Written by `python -m tests.matrix` in {minutes:.0f} minutes:
{n} rollouts of {cells} combinations, at most {requests:,} requests each. Where nothing is missing that could hold one, and it is
not decided by then, it is played again with up to {longer:,}.

Each rollout runs through the service's own code: JSON requests, real ONNX models from several exporters, batches, rehearsals,
SQLite, labels and the judge. Rows are drawn from a finite population, so the true difference between the two models is
known. Each combination is played three times: with a candidate that is truly better, with one that is worse by exactly the
margin, and with one that is worse by twice the margin.

- **Wrong** is a rollback of a better candidate, a promotion of one that is not better than the margin allows, and a rollback of
  one that is exactly at the margin. The error budget is 5 %, half of it for each kind of wrong verdict, so chance alone
  explains up to {allowed} of {n}. Seen: **{wrong}**.
- **Held** is right at the margin. It is also right where labels or rehearsals are missing: what is missing counts as the
  worst case.
- A better candidate that fails on 0.5 % of rows may be held, too: with several rows a request, up to 0.9 % of its requests fail,
  and the latency goal allows 1 %. To tell these apart can take more than {longer:,} requests.
- `understudy verify` reached every decision again offline: **{agrees}**.

| model | loss | conditions | candidate | true difference | margin | end | requests | labels | last reason |
|---|---|---|---|---:|---:|---|---:|---:|---|
"""
NEAR_THE_LIMIT = "candidate 0.5 %"
"""Such a candidate fails nearly as often as the latency goal allows."""
ENDS = {"promoted": "promoted", "aborted": "rolled back", "refused": "refused"}


def problems(outcomes: Sequence[Outcome]) -> list[str]:
    """What must not be, one line each."""
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    found = []
    if len(wrong) > allowed(len(outcomes)):
        found.append(f"{len(wrong)} wrong ends, chance explains {allowed(len(outcomes))}:")
        found += [f"  {line(outcome)}" for outcome in wrong]
    found += [f"not reached again offline: {line(outcome)}" for outcome in outcomes if not outcome.agrees]
    # Otherwise holding for ever would pass.
    found += [f"not decided: {line(o)}" for o in outcomes if o.undecided and o.cell.bad != NEAR_THE_LIMIT]
    found += [f"refused: {line(o)}" for o in outcomes if o.phase == "refused"]
    return found


def allowed(n: int) -> int:
    """How many wrong ends chance explains among so many rollouts."""
    return int(binom.ppf(SURE, n, WRONG_SHARE))


def line(o: Outcome) -> str:
    """One rollout in a line."""
    style = STYLES[o.cell.style]
    return (
        f"{style.name} ({style.loss}), {o.cell.describe()}: {o.truth} ({o.difference:+.4g}, margin {o.margin:.4g}): "
        f"{ENDS.get(o.phase, 'held in ' + o.phase)} after {o.requests:,} requests, {o.labels:,} labels: {o.reason[:200]}"
    )


def written(outcomes: Sequence[Outcome], *, requests: int, minutes: float) -> tuple[str, list[str]]:
    """The page, and `problems`."""
    n = len(outcomes)
    head = HEAD.format(
        minutes=minutes,
        n=n,
        cells=len({o.cell for o in outcomes}),
        requests=requests,
        longer=requests * LONGER,
        allowed=allowed(n),
        wrong=sum(o.wrong for o in outcomes),
        agrees="yes" if all(o.agrees for o in outcomes) else "NO",
    )
    rows = []
    for o in outcomes:
        style = STYLES[o.cell.style]
        end = ENDS.get(o.phase, f"held ({o.phase})") + (" **wrong**" if o.wrong else "")
        reason = o.reason.replace("|", "/").replace("\n", " ")
        rows.append(
            f"| {style.name} | {style.loss} | {o.cell.describe()} | {o.truth} | {o.difference:+.4g} | {o.margin:.4g} | {end} "
            f"| {o.requests:,} | {o.labels:,} | {reason[:160]} |"
        )
    assert {o.truth for o in outcomes} <= set(TRUTHS)
    return head + "\n".join(rows) + "\n", problems(outcomes)
