"""`python -m models`: build the three example models, check them, or measure what README.md says of them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from models import build
from understudy.errors import UnderstudyError


def main(
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Build all three, even those that are there and intact.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Build nothing; exit with 1 when a folder is missing, changed or out of date."),
    ] = False,
    study: Annotated[
        bool,
        typer.Option("--study", help="Build what is missing, then print the tables of models/README.md (Markdown)."),
    ] = False,
    output: Annotated[
        Path, typer.Option(help="The folder in which the three model folders lie.", show_default="models")
    ] = build.HERE,
) -> None:
    """Make flight_poc, flight_candidate and flight_broken from the real flights of 2013 (some ten seconds).

    What is there and intact is left alone: model.onnx is the file its card speaks of, made from the data, the code and
    the libraries that are here now. Each folder appears whole or not at all.
    """
    console = Console(stderr=True)
    try:
        if check:
            _check(console, output)
        else:
            _build(console, output, force=force)
        if study:
            from models.study import tables

            print(tables(output))
    except UnderstudyError as error:
        console.print(f"[bold red]✗[/] {escape(error.detail)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _build(console: Console, output: Path, *, force: bool) -> None:
    columns = (SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        doing: list[TaskID] = []

        def say(what: str) -> None:
            finish()
            doing.append(progress.add_task(what, total=1))

        def finish() -> None:
            for task in doing:
                progress.update(task, completed=1)

        built = build.build(output, force=force, say=say)
        finish()
    names = ", ".join(example.name for example in build.EXAMPLES)
    console.print(f"built {', '.join(built)}" if built else f"{names}: there and intact", highlight=False)


def _check(console: Console, output: Path) -> None:
    found = build.problems(output)
    for example in build.EXAMPLES:
        problem = found.get(example.name)
        sign = "[bold red]✗[/]" if problem else "[green]✓[/]"
        state = escape(problem or "intact")
        console.print(f"{sign} {example.name} {example.version}: {state}", highlight=False, soft_wrap=True)
    if found:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
