"""What the commands share: the application, the options, and how errors are said."""

import contextlib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from understudy.errors import UnderstudyError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="Take a proof-of-concept model to production: shadow, canary, and a verdict you can replay.",
)
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

File = Annotated[Path, typer.Argument(help="the rollout file")]
Url = Annotated[str, typer.Option(help="where the service listens")]
Token = Annotated[
    str | None, typer.Option(help="needed where tokens are configured [env: UNDERSTUDY_TOKEN]", show_default=False)
]
SourceName = Annotated[
    str, typer.Option("--source", help="where the history comes from: a registered data source, or module:object")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Revision = Annotated[int | None, typer.Option(help="refuse when the rollout has moved on from this revision")]
Reason = Annotated[str, typer.Option(help="why: goes into the audit log")]


@contextlib.contextmanager
def said() -> Iterator[None]:
    """Errors of ours are one line on stderr and exit code 1."""
    try:
        yield
    except UnderstudyError as error:
        err.print(f"understudy: {error.detail}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:  # a file that cannot be read or written
        err.print(f"understudy: {error}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def interruptible(job: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine; Ctrl-C cancels it and it finishes what it has begun."""
    import asyncio

    try:
        return asyncio.run(job)
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None
