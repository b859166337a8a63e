"""What the commands share: the application, common options, and error reporting."""

import contextlib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from understudy.errors import ConfigurationError, UnderstudyError

if TYPE_CHECKING:
    from understudy.offline.starting.survey import Roles

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="Take a proof-of-concept model to production: shadow, canary, and a verdict you can replay.",
)
Result = TypeVar("Result")
out, err = Console(highlight=False, emoji=False), Console(stderr=True, highlight=False, emoji=False)

File = Annotated[Path, typer.Argument(help="the rollout file")]
Url = Annotated[str, typer.Option(help="URL of the service")]
Token = Annotated[
    str | None, typer.Option(help="access token, if the service needs one [env: UNDERSTUDY_TOKEN]", show_default=False)
]
SourceName = Annotated[
    str, typer.Option("--source", help="data source of the history: a registered name, or module:object")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Revision = Annotated[int | None, typer.Option(help="fail if the rollout is no longer at this revision")]
Reason = Annotated[str, typer.Option(help="the reason, for the audit log")]


@contextlib.contextmanager
def errors_reported() -> Iterator[None]:
    """Print an expected error as one line on stderr; exit code 1."""
    try:
        yield
    except UnderstudyError as error:
        err.print(f"understudy: {error.detail}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:  # a file that cannot be read or written
        err.print(f"understudy: {error}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def interruptible(job: Coroutine[object, object, Result]) -> Result:
    """Run a coroutine. Ctrl-C cancels it, and it may still clean up."""
    import asyncio

    try:
        return asyncio.run(job)
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


def roles_of(
    data: Path | None, label: str | None, at: str | None, key: str | None, label_at: str | None
) -> "Roles | None":
    """The columns of a table that are no inputs; None without a table.

    Raises:
        ConfigurationError: options that need each other are not all there.
    """
    from understudy.offline.starting.survey import Roles

    if data is None:
        options = (("--label", label), ("--at", at), ("--key", key), ("--label-at", label_at))
        if named := [option for option, value in options if value]:
            raise ConfigurationError(f"{named[0]} names a column of --data: give the file too")
        return None
    if label is None:
        raise ConfigurationError(
            "--data and --label belong together: --label names the column of --data with the label"
        )
    if label_at is not None and at is None:
        raise ConfigurationError("--label-at needs --at, the column with the time of the request")
    return Roles(label, at, key, label_at)
