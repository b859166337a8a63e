"""`understudy init`: writes a rollout file for two models, and cards for bare files if there are held-out data."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.common import app, errors_reported, out, roles_of
from understudy.cli.evaluate import progress
from understudy.errors import ConfigurationError

if TYPE_CHECKING:
    from understudy.offline.starting.run import Started

EXAMPLE_MAX_CHARS = 400
"""A longer row is not printed as an example."""


@app.command()
def init(
    poc: Annotated[Path, typer.Argument(help="the proof of concept: an .onnx file or a model folder")],
    candidate: Annotated[Path, typer.Argument(help="the model to launch: an .onnx file or a model folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the rollout file to write")] = Path("rollout.yaml"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="held-out rows with labels, to work the rollout out from: CSV, one JSON object per line, or Parquet"
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="the column of --data with the label")] = None,
    at: Annotated[
        str | None,
        typer.Option(help="the column with the time, as Unix seconds or ISO 8601; needed for months, days and drift"),
    ] = None,
    label_at: Annotated[
        str | None, typer.Option(help="the column of --data with the time at which the label became known")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="the column of --data that keeps a caller on one model, such as a customer's id")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="the mean loss that the proof of concept was to reach, to be judged by")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="class names as in your labels, in the order of the probabilities, if the models have none: cat,dog or 0,1"
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="ask about each guess, with the guess as default")
    ] = False,
    force: Annotated[bool, typer.Option(help="overwrite an existing file")] = False,
) -> None:
    """Read both models' signatures, and held-out data if there are some, and write a rollout file to start from."""
    from understudy.inference.cards import write_card
    from understudy.offline.starting.rollout_file import names
    from understudy.offline.starting.run import StartRequest, start

    with errors_reported():
        if output.exists() and not force:
            raise ConfigurationError(f"{output} exists; use --force to overwrite it")
        if interactive and not at_a_terminal():
            raise ConfigurationError(
                "--interactive asks questions, and there is no terminal to ask them on: leave it out"
            )
        roles = roles_of(data, label, at, key, label_at)
        request = StartRequest((poc, candidate), names(classes), data, roles, target, force)
        with progress(show=data is not None and not interactive) as step:
            started = start(request, step, _ask) if interactive else start(request, step)
        for card_file, card in started.cards.items():
            write_card(card_file, card)
        output.write_text(started.text, encoding="utf-8")
        _show(started, output)


def at_a_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def _ask(question: str, default: str) -> str:
    answer: str = typer.prompt(question, default=default)
    return answer


def _show(started: "Started", output: Path) -> None:
    """What was found, which files were written, and what to do next."""
    from understudy.inference.names import shown

    lines = list(started.lines)
    lines += [f"{card} exists and is kept; --force writes a new one" for card in started.kept]
    if started.cards:
        lines.append(
            f"written to {', '.join(map(str, started.cards))}: what the data say about each model's inputs and answers"
        )
    row = ", ".join(f"{shown(field.name)} ({field.describe()})" for field in started.fields)
    lines.append(f"written to {output}; each row of a request has {row}")
    body = json.dumps({"rows": [started.example]})
    if started.example and len(body) <= EXAMPLE_MAX_CHARS:
        lines.append(
            f"once it is served: curl localhost:3000/predict -H 'Content-Type: application/json' -d {shlex.quote(body)}"
        )
    lines.append("Next: read the guesses in its comments, then run `understudy check` and `understudy serve`")
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
