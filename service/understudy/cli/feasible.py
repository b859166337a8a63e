"""Shows whether a rollout can finish: a table of what it needs, and warnings with lines of the rollout file."""

from rich.console import Console
from rich.table import Table

from understudy.loading.preflight import Preflight
from understudy.rollout.feasibility import Need, said

ASSUMED = (
    "Labels and requests are estimates for the longest step and two equal models. A better candidate needs fewer; one near the "
    "margin needs many more."
)


def show(out: Console, preflight: Preflight) -> None:
    """Print the table and the problems."""
    if preflight.feasibility.needs:
        table = Table(title="What the rollout needs to finish", title_justify="left", show_lines=False)
        for name in ("goal or step", "needs", "from"):
            table.add_column(name, overflow="fold")
        for name in ("labels", "requests"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("can finish")
        for need in preflight.feasibility.needs:
            table.add_row(
                need.subject,
                need.needs,
                need.source,
                *_numbers(need),
                "yes" if preflight.feasibility.finishes(need) else "no",
            )
        out.print(table)
        out.print(ASSUMED, soft_wrap=True)
    for problem in preflight.feasibility.warnings:
        out.print(f"warning: {said(problem, preflight.lines)}", style="yellow", markup=False, soft_wrap=True)


def _numbers(need: Need) -> tuple[str, str]:
    """Labels and requests as text; empty if none are needed."""
    return f"{need.labels:,}" if need.labels else "", f"{need.requests:,}" if need.requests else ""
