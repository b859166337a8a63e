"""`understudy report`: writes the report for the people who decide."""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.common import File, Token, app, errors_reported, out
from understudy.domain import JsonObject
from understudy.errors import ConfigurationError
from understudy.offline.client import Client

if TYPE_CHECKING:
    from understudy.offline.report import Documents


@app.command()
def report(
    file: File = Path("rollout.yaml"),
    output: Annotated[Path, typer.Option("--output", "-o", help="the HTML file to write")] = Path("report.html"),
    traffic: Annotated[
        float | None,
        typer.Option(help="predictions per second, for the cost of a month; default: the throughput goal", min=0.001),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="output of `understudy evaluate --json` for these models; default: the metrics on their cards"
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="URL of a running service; default: read the store, offline")] = "",
    store: Annotated[
        str,
        typer.Option(help="the store's SQLAlchemy URL; default: UNDERSTUDY_STORE_URL, or the file in the state folder"),
    ] = "",
    token: Token = None,
) -> None:
    """Write one HTML file for the people who decide: goals, evaluation, rollout, costs, risks, decisions and open points.

    The file is self-contained and can be printed.
    """
    from understudy.offline.report import render

    with errors_reported():
        documents = _from_service(url, token) if url else _from_store(file, store)
        if evaluation is not None:
            documents = dataclasses.replace(documents, evaluation=_evaluated(evaluation, documents.state))
        text = render(documents, now=time.time(), traffic_rps=traffic)
        output.write_text(text, encoding="utf-8")
        out.print(f"{output}: {len(text.encode()) / 1024:.0f} KB; open or print it in a browser", markup=False)


def _evaluated(path: Path, state: JsonObject) -> JsonObject:
    """Read an evaluation of the models in the report.

    Raises:
        ConfigurationError: the file is no evaluation, or one of other models.
    """
    from understudy.offline.evaluate.judge import Evaluation
    from understudy.offline.report.offline import mismatch

    try:
        evaluation = Evaluation.from_dict(json.loads(path.read_text(encoding="utf-8"))).as_dict()
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not the output of `understudy evaluate --json`: {error}; make it with `understudy evaluate --json > {path}`"
        ) from None
    if why := mismatch(evaluation, state):
        raise ConfigurationError(
            f"{path} is about other models: {why}; `understudy evaluate --json` evaluates those of rollout.yaml"
        )
    return evaluation


def _from_service(url: str, token: str | None) -> "Documents":
    from understudy.offline.report import Documents

    with Client(url, token) as client:
        events: list[JsonObject] = []
        while page := client.get("/rollout/events", after=events[-1]["id"] if events else 0, limit=1000)["events"]:
            events += page
        return Documents(
            client.get("/rollout"),
            client.get("/rollout/policy"),
            client.get("/rollout/evidence"),
            events,
            url,
            client.get("/rollout/drift"),
        )


def _from_store(file: Path, store_url: str) -> "Documents":
    from understudy.offline.past import look_back
    from understudy.offline.report import Documents
    from understudy.settings import read_settings

    settings = read_settings(rollout_file=file, **({"store_url": store_url} if store_url else {}))
    past = look_back(settings)
    if past is None:
        raise ConfigurationError(
            f"{settings.resolved_store_url()} holds no rollout of {file} with these models and goals; "
            "`understudy verify --list` shows its rollouts, and --url asks a running service"
        )
    return Documents(
        past["state"],
        past["policy"],
        past["evidence"],
        past["events"],
        f"the store of rollout {past['rollout']}",
        past["drift"],
    )
