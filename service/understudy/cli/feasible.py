"""How `check` shows whether a rollout can finish: a table, then what is wrong, each with its line of the rollout file."""

from rich.console import Console
from rich.table import Table

from understudy.loading import Preflight
from understudy.rollout.feasibility import Need, said

ASSUMED = (
    "Labels and requests are for the step that takes most, about, for two equal models; a better candidate takes fewer, and one "
    "near the margin many more."
)


def show(out: Console, found: Preflight) -> None:
    """Print the table and the problems."""
    if found.feasibility.needs:
        table = Table(title="What the rollout needs to finish", title_justify="left", show_lines=False)
        for name in ("goal or step", "needs", "from"):
            table.add_column(name, overflow="fold")
        for name in ("labels", "requests"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("can finish")
        for need in found.feasibility.needs:
            table.add_row(
                need.subject,
                need.needs,
                need.source,
                *_numbers(need),
                "yes" if found.feasibility.finishes(need) else "no",
            )
        out.print(table)
        out.print(ASSUMED, soft_wrap=True)
    for problem in found.feasibility.warnings:
        out.print(f"warning: {said(problem, found.lines)}", style="yellow", markup=False, soft_wrap=True)


def _numbers(need: Need) -> tuple[str, str]:
    """Labels and requests as text; empty where none are needed."""
    return f"{need.labels:,}" if need.labels else "", f"{need.requests:,}" if need.requests else ""
