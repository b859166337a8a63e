"""The funnel on the terminal: where rows and labels are, or why they were lost."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Stage = Mapping[str, Any]


def compact(state: Mapping[str, Any]) -> Iterator[str]:
    """Rows by stage in one line, then what was lost between the stages, without zeros; for `status`."""
    for title, stages in _both(state):
        yield f"{title:<11}" + " → ".join(f"{stage['count']:,} {stage['stage']}" for stage in stages)
        lost = Counter[str]()  # one reason may be at two stages
        for stage in stages:
            lost.update({each["reason"]: each["count"] for each in stage["lost"]})
        if lost:
            yield " " * 11 + "not counted: " + ", ".join(f"{n:,} {reason}" for reason, n in lost.most_common())


def full(state: Mapping[str, Any]) -> Iterator[str]:
    """Every stage with every reason and its hint; for `explain`."""
    for title, stages in _both(state):
        yield f"Where the {title} are:"
        for stage in stages:
            yield f"  {stage['count']:>12,} {stage['stage']}"
            for lost in stage["lost"]:
                yield f"  {lost['count']:>12,}   not counted: {lost['reason']}. {lost['hint']}"
    oldest = state["labels"].get("oldest_waiting_s")
    if oldest:
        yield f"The oldest label that waits for its prediction came {oldest:,.0f} seconds ago."


def _both(state: Mapping[str, Any]) -> list[tuple[str, Sequence[Stage]]]:
    both = (("rows", state.get("funnel")), ("labels", state["labels"].get("funnel")))
    return [(title, stages) for title, stages in both if stages and stages[0]["count"]]
