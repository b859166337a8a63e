"""Writes docs/reference.md from the code: `make docs`. A test holds the file against what this would write."""

from pathlib import Path

import click
import typer

from service import openapi
from service.cli import app
from service.metrics import TABLE
from service.settings import Settings

HERE = Path(__file__).parent


def reference() -> str:
    """The page: calls, commands, settings, metrics."""
    lines = [
        "# Reference",
        "",
        "Written by `make docs` from the code.",
        "",
        "## Calls",
        "",
        "| call | what it does |",
        "|---|---|",
    ]
    for path, item in openapi.paths().items():
        for method, call in item.items():
            more = f". {call['description']}" if call.get("description") else ""
            lines.append(f"| `{method.upper()} {path}` | {call['summary']}{more} |")
    lines += [
        "| `GET /metrics` | Prometheus metrics of all workers |",
        "| `GET /docs.json` · `GET /` | the OpenAPI document · BentoML's page for it |",
        "",
        "Errors are `application/problem+json` (RFC 9457); bad input is listed in `errors: [{row, field, problem}]`.",
        "",
        "## Commands",
        "",
        "| command | what it does | options |",
        "|---|---|---|",
    ]
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    for name, command in sorted(group.commands.items()):
        options = [p.opts[0] if p.param_type_name == "option" else (p.name or "").upper() for p in command.params]
        said = (command.help or "").splitlines()[0]
        lines.append(f"| `understudy {name}` | {said} | {', '.join(f'`{o}`' for o in options)} |")
    lines += [
        "",
        "## Settings",
        "",
        "Environment variables of the service's processes.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        lines.append(f"| `UNDERSTUDY_{name.upper()}` | {default} | {field.description} |")
    lines += [
        "",
        "## Metrics",
        "",
        "Seconds and bytes; `variant` is `primary` or `candidate`, `mode` is `live`, `shadow` or `pinned`.",
        "",
    ]
    lines += ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [f"| `{s.name}` | {s.kind} | {', '.join(f'`{n}`' for n in s.labels)} | {s.help} |" for s in TABLE]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "reference.md").write_text(reference(), encoding="utf-8")
