"""Shows the funnel: rows and labels at each stage, and why the others were not counted."""

from collections import Counter
from collections.abc import Iterator, Sequence

from understudy.domain import JsonObject


def compact(state: JsonObject) -> Iterator[str]:
    """Rows by stage in one line, and the reasons for uncounted ones in another; for `status`."""
    for title, stages in _both(state):
        yield f"{title:<11}" + " → ".join(f"{stage['count']:,} {stage['stage']}" for stage in stages)
        lost = Counter[str]()  # a reason may occur at two stages
        for stage in stages:
            lost.update({each["reason"]: each["count"] for each in stage["lost"]})
        if lost:
            yield " " * 11 + "not counted: " + ", ".join(f"{n:,} {reason}" for reason, n in lost.most_common())


def full(state: JsonObject) -> Iterator[str]:
    """Every stage with every reason and its explanation; for `explain`."""
    for title, stages in _both(state):
        yield f"Where the {title} are:"
        for stage in stages:
            yield f"  {stage['count']:>12,} {stage['stage']}"
            for lost in stage["lost"]:
                yield f"  {lost['count']:>12,}   not counted: {lost['reason']}. {lost['hint']}"
    oldest = state["labels"].get("oldest_waiting_s")
    if oldest:
        yield f"The oldest label that waits for its prediction was received {oldest:,.0f} seconds ago."


def _both(state: JsonObject) -> list[tuple[str, Sequence[JsonObject]]]:
    both = (("rows", state.get("funnel")), ("labels", state["labels"].get("funnel")))
    return [(title, stages) for title, stages in both if stages and stages[0]["count"]]
