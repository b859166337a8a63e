"""Commands that start things: init, check, serve, token."""

import base64
import errno
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.common import File, app, out, said
from understudy.cli.compared import told
from understudy.errors import ConfigurationError
from understudy.http import auth
from understudy.runtime import programs


@app.command()
def init(
    poc: Annotated[Path, typer.Argument(help="the model in proof of concept: an .onnx file or a model folder")],
    candidate: Annotated[Path, typer.Argument(help="the better one to launch")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the rollout file to write")] = Path("rollout.yaml"),
    classes: Annotated[
        str | None,
        typer.Option(
            help="what the classes are called, as your labels name them and in the order of the probabilities, where the models do "
            "not say it: cat,dog or 0,1"
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="overwrite an existing file")] = False,
) -> None:
    """Read both models' signatures and write a rollout file to start from."""
    from understudy.cli import starter
    from understudy.domain import Variant
    from understudy.inference.tasks import BINARY, MULTICLASS
    from understudy.loading import fields_of, subject
    from understudy.records.pairs import incomparable

    with said():
        if output.exists() and not force:
            raise ConfigurationError(f"{output} exists; --force overwrites it")
        cards, seconds, names = starter.opened((poc, candidate), starter.names(classes))
        subjects = [subject(card, took) for card, took in zip(cards, seconds, strict=True)]
        tasks: list[str] = [card.task for card in cards]
        if set(tasks) == {BINARY, MULTICLASS}:
            tasks = [MULTICLASS, MULTICLASS]  # one of the models knows only two of the classes
        if tasks[0] != tasks[1] and "other" not in tasks:
            raise ConfigurationError(
                f"{poc} is a {tasks[0]} model and {candidate} a {tasks[1]} model: both must do the same task to be compared"
            )
        fields = fields_of(*cards)
        named = poc.stem if poc.suffix else poc.name
        text = starter.write(
            named,
            tasks[0],
            (str(poc), str(candidate)),
            dict(zip(Variant, subjects, strict=True)),
            names,
            comparable=incomparable(*cards) is None,
        )
        output.write_text(text, encoding="utf-8")
        row = ", ".join(f"{f.name} ({f.describe()})" for f in fields)
        out.print(f"{output}: a request row has {row}", markup=False, soft_wrap=True)
        out.print("Set the goals in it: each guess has a comment. Then: understudy check, understudy serve")


@app.command()
def check(
    file: File = Path("rollout.yaml"),
    rows: Annotated[
        Path | None,
        typer.Option(
            help="compare the models on these rows: one JSON object a line, as POST /predict takes them in `rows`"
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON Schema of rollout files and stop")] = False,
) -> None:
    """Dry run: load, warm and compare everything that would be served, and say what is wrong."""
    from understudy import loading
    from understudy.cli import feasible
    from understudy.rollout.policy import json_schema
    from understudy.settings import read_settings

    if schema:
        print(json.dumps(json_schema(), indent=1))
        return
    with said():
        settings = read_settings(rollout_file=file)
        found = loading.examine(settings)
        for line in found.said:
            out.print(line, markup=False, soft_wrap=True)
        feasible.show(out, found)
        found.refuse()
        for line in _side_by_side(settings, rows):
            out.print(line, markup=False, soft_wrap=True)
        out.print("ready to serve", style="green")


def _side_by_side(settings: Any, rows: Path | None) -> Iterator[str]:
    from understudy.offline import check as side_by_side

    found = side_by_side.run(settings, rows)
    yield f"compared on {found.rows:,} rows ({found.source}):"
    floor = ", ".join(f"{name} {value:.3g}" for name, value in found.floor.items()) or "nothing to measure it on"
    yield f"  noise floor, the primary beside itself in other batches and threads: {floor}; kept in {found.floor_file}"
    for line in (*found.signature, *told(found.comparison or {})):
        yield f"  {line}"


@app.command()
def serve(
    file: File = Path("rollout.yaml"),
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port to listen on", envvar="PORT")] = 3000,
    workers: Annotated[
        int | None, typer.Option(help="answering processes; the rollout file's `workers` if left out")
    ] = None,
) -> None:
    """Serve a rollout until Ctrl-C."""
    with said():
        if not file.is_file():
            raise ConfigurationError(f"{file} is missing; `understudy init POC.onnx CANDIDATE.onnx` writes one")
        if not os.environ.get("UNDERSTUDY_TOKENS_FILE") and host != "localhost" and not auth.is_loopback(host):
            raise ConfigurationError(
                f"without tokens the service listens on loopback only, not on {host}: `understudy token`"
            )
        _become("Understudy", file, host, port, {} if workers is None else {"UNDERSTUDY_WORKERS": str(workers)})


def _become(service: str, file: Path, host: str, port: int, env: dict[str, str]) -> None:
    """Replace this process by BentoML's server, so that signals reach it.

    Raises:
        ConfigurationError: somebody listens there already.
    """
    if in_use(host, port):
        raise ConfigurationError(
            f"port {port} of {host} is in use: stop what listens there, or choose another with --port"
        )
    env = os.environ | {"UNDERSTUDY_ROLLOUT_FILE": str(file), "BENTOML_DO_NOT_TRACK": "True"} | env
    command = programs.server(service, "--host", host, "--port", str(port))
    os.execve(sys.executable, command, env)  # noqa: S606 - see above


def in_use(host: str, port: int) -> bool:
    """Whether another process listens at this address. What else keeps one from listening is the server's to tell."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


@app.command("webhook-secret")
def webhook_secret(
    file: Annotated[
        Path, typer.Argument(help="the file to write; an older secret in it stays valid beside the new one")
    ],
) -> None:
    """Make a secret that webhooks are signed with, and print it for the receiver."""
    with said():
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
    """Serve the candidate alone, for services that name it with UNDERSTUDY_CANDIDATE_URL. Open to whoever reaches the port."""
    with said():
        if not file.is_file():
            raise ConfigurationError(
                f"{file} is missing; name the rollout file of the services that ask this candidate"
            )
        _become("Candidate", file, host, port, {})


@app.command()
def migrate() -> None:
    """Make or migrate the store's tables (UNDERSTUDY_STORE_URL), as a service does at its start; others wait meanwhile."""
    from understudy.settings import read_settings
    from understudy.store import migrate as migrations

    with said():
        before = migrations.migrate(read_settings().resolved_store_url())
        out.print(f"migrated; the database was at revision {before}" if before else "made the tables")


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="who gets it: goes into the audit log")],
    role: Annotated[str, typer.Option(help="viewer or operator")] = "viewer",
    file: Annotated[Path, typer.Option(help="the tokens file to append to", envvar="UNDERSTUDY_TOKENS_FILE")] = Path(
        "tokens"
    ),
) -> None:
    """Make a token, print it once, and append its hash to the tokens file."""
    with said():
        if role not in ("viewer", "operator"):
            raise ConfigurationError(f"role {role!r} is not viewer or operator")
        new = auth.new_token()
        line = auth.line_for(name, role, new)  # type: ignore[arg-type]  # checked above
        with file.open("a+", encoding="utf-8") as lines:
            lines.seek(0)
            ends = lines.read()[-1:] in {"", "\n"}
            lines.write(("" if ends else "\n") + line + "\n")
        file.chmod(0o600)
        print(new)
