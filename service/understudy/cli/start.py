"""Commands that prepare and start a service: check, serve, serve-candidate, migrate, token, webhook-secret."""

import base64
import errno
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.common import File, app, errors_reported, out
from understudy.cli.compared import comparison_lines, comparison_progress
from understudy.errors import ConfigurationError
from understudy.http import auth
from understudy.runtime import programs

if TYPE_CHECKING:
    from understudy.offline.budget import Budget
    from understudy.offline.check import RowsSource
    from understudy.settings import Settings


@app.command()
def check(
    file: File = Path("rollout.yaml"),
    rows: Annotated[
        Path | None,
        typer.Option(help="compare the models on these rows: one JSON object per line, as in `rows` of POST /predict"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="compare the models on the rows of a table: CSV, one JSON object per line, or Parquet"),
    ] = None,
    label: Annotated[str | None, typer.Option(help="the column of --data with the label")] = None,
    budget: Annotated[
        float, typer.Option(help="seconds for the command: so many rows are compared as fit", min=0)
    ] = 20.0,
    memory: Annotated[int, typer.Option(help="MiB of memory for comparing rows", min=1)] = 1_024,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON Schema of rollout files and exit")] = False,
    card_schema: Annotated[
        bool, typer.Option("--card-schema", help="print the JSON Schema of model cards and exit")
    ] = False,
) -> None:
    """Dry run: load, warm up and compare the models, and report problems."""
    from understudy.cli import feasible
    from understudy.inference.card_schema import card_schema as schema_of_cards
    from understudy.loading.preflight import examine
    from understudy.offline.budget import Budget
    from understudy.offline.check import WARM_ROWS_MAX, RowsSource
    from understudy.rollout.policy import json_schema
    from understudy.settings import read_settings

    if schema or card_schema:
        print(json.dumps(json_schema() if schema else schema_of_cards(), indent=1))
        return
    with errors_reported():
        if rows is not None and data is not None:
            raise ConfigurationError("--rows and --data both name the rows to compare the models on: give one of them")
        if label is not None and data is None:
            raise ConfigurationError("--label names a column of --data: give the file too")
        settings = read_settings(rollout_file=file)
        limits = Budget(budget, memory)
        # What a row takes is known from small batches; the larger ones of the service would take time and memory.
        few = min(settings.batch_max_rows, WARM_ROWS_MAX)
        preflight = examine(settings.model_copy(update={"batch_max_rows": few}))
        for line in preflight.messages:
            out.print(line, markup=False, soft_wrap=True)
        feasible.show(out, preflight)
        preflight.refuse()
        for line in _comparison(settings, RowsSource(rows, data, label), limits):
            out.print(line, markup=False, soft_wrap=True)
        out.print("ready to serve", style="green")


def _comparison(settings: "Settings", rows_from: "RowsSource", budget: "Budget") -> Iterator[str]:
    from understudy.offline import check as comparing

    with comparison_progress() as progress:
        result = comparing.run(settings, rows_from, budget, progress)
    yield f"compared on {result.rows:,} rows ({result.source}):"
    floor = ", ".join(f"{name} {value:.3g}" for name, value in result.floor.items()) or "could not be measured"
    yield f"  noise floor (the primary's own differences across batch sizes and threads): {floor}; saved in {result.floor_file}"
    if result.left_out:
        yield f"  {result.left_out}"
    for line in (*result.signature, *comparison_lines(result.comparison or {}, made_up=result.made_up)):
        yield f"  {line}"


@app.command()
def serve(
    file: File = Path("rollout.yaml"),
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port to listen on", envvar="PORT")] = 3000,
    workers: Annotated[
        int | None, typer.Option(help="worker processes; default: `workers` of the rollout file")
    ] = None,
) -> None:
    """Serve a rollout until Ctrl-C."""
    with errors_reported():
        if not file.is_file():
            raise ConfigurationError(f"{file} does not exist; `understudy init POC.onnx CANDIDATE.onnx` writes one")
        if not os.environ.get("UNDERSTUDY_TOKENS_FILE") and host != "localhost" and not auth.is_loopback(host):
            raise ConfigurationError(
                f"without tokens the service listens on loopback only, not on {host}; make a token with `understudy token`"
            )
        _become("Understudy", file, host, port, {} if workers is None else {"UNDERSTUDY_WORKERS": str(workers)})


def _become(service: str, file: Path, host: str, port: int, env: dict[str, str]) -> None:
    """Replace this process by BentoML's server, so that it receives the signals.

    Raises:
        ConfigurationError: the port is in use.
    """
    if in_use(host, port):
        raise ConfigurationError(
            f"port {port} of {host} is in use: stop the process that listens there, or choose another port with --port"
        )
    env = os.environ | {"UNDERSTUDY_ROLLOUT_FILE": str(file), "BENTOML_DO_NOT_TRACK": "True"} | env
    command = programs.server(service, "--host", host, "--port", str(port))
    os.execve(sys.executable, command, env)  # noqa: S606 - no shell is wanted


def in_use(host: str, port: int) -> bool:
    """Whether another process listens at this address. The server reports all other problems."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


@app.command("webhook-secret")
def webhook_secret(
    file: Annotated[Path, typer.Argument(help="the file to write; older secrets in it stay valid")],
) -> None:
    """Make a secret for signing webhooks, and print it for the receiver."""
    with errors_reported():
        new = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text(f"{new}\n{before}", encoding="utf-8")
        print(new)


@app.command("serve-candidate")
def serve_candidate(
    file: File = Path("rollout.yaml"),
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port to listen on")] = 3001,
) -> None:
    """Serve the candidate alone, for services with UNDERSTUDY_CANDIDATE_URL. The port has no access control."""
    with errors_reported():
        if not file.is_file():
            raise ConfigurationError(
                f"{file} does not exist; give the rollout file of the services that use this candidate"
            )
        _become("Candidate", file, host, port, {})


@app.command()
def migrate() -> None:
    """Create or migrate the tables of the store (UNDERSTUDY_STORE_URL), as a service does when it starts."""
    from understudy.settings import read_settings
    from understudy.store import migrate as migrations

    with errors_reported():
        before = migrations.migrate(read_settings().resolved_store_url())
        out.print(f"the tables are up to date; they were at revision {before}" if before else "the tables were created")


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="the owner's name, for the audit log")],
    role: Annotated[str, typer.Option(help="viewer or operator")] = "viewer",
    file: Annotated[Path, typer.Option(help="the tokens file to append to", envvar="UNDERSTUDY_TOKENS_FILE")] = Path(
        "tokens"
    ),
) -> None:
    """Make a token, print it once, and append its hash to the tokens file."""
    with errors_reported():
        if role not in ("viewer", "operator"):
            raise ConfigurationError(f"unknown role {role!r}; use viewer or operator")
        new = auth.new_token()
        line = auth.line_for(name, role, new)  # type: ignore[arg-type]  # checked above
        with file.open("a+", encoding="utf-8") as lines:
            lines.seek(0)
            ends = lines.read()[-1:] in {"", "\n"}
            lines.write(("" if ends else "\n") + line + "\n")
        file.chmod(0o600)
        print(new)
