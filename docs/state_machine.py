"""Writes docs/reference/state-machine.md from the table of phases: `make docs`. A test compares the two."""

from pathlib import Path

from understudy.rollout import phases

HERE = Path(__file__).parent


def page() -> str:
    """The diagram, and the table that it is drawn from."""
    lines = [
        "# Where a rollout may go",
        "",
        (
            "Written by `python docs/state_machine.py` from the table in `service/understudy/rollout/phases.py`. What has no arrow "
            "is refused, with the list of what is allowed."
        ),
        "",
        "```mermaid",
        phases.diagram(),
        "```",
        "",
        (
            "`advance`, `finish`, `wait` and `rollback` come from the judge, the others from people. An arrow into `canary` ends "
            "in `shadow` where there is no weight: `resume` of a rehearsal, and a step of the rollout file that is another "
            "rehearsal; `promote` past the last step ends in `promoted`."
        ),
        "",
        "| phase | what is allowed |",
        "|---|---|",
    ]
    for phase, row in phases.TABLE.items():
        allowed = ", ".join(f"`{order.value}`" for order in row) or "nothing: there is no candidate"
        lines.append(f"| `{phase.value}` | {allowed} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "reference" / "state-machine.md").write_text(page(), encoding="utf-8")
