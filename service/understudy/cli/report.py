"""The command that writes the report for those who decide."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.common import File, Token, app, out, said
from understudy.errors import ConfigurationError
from understudy.offline.client import Client


@app.command()
def report(
    file: File = Path("rollout.yaml"),
    output: Annotated[Path, typer.Option("--output", "-o", help="the HTML file to write")] = Path("report.html"),
    traffic: Annotated[
        float | None,
        typer.Option(
            help="predictions a second over a month, for its cost; the throughput goal if left out", min=0.001
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="what `understudy evaluate --json` wrote of these models; the months of their cards, if left out"
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="ask the service there; otherwise the store is read, offline")] = "",
    store: Annotated[
        str, typer.Option(help="the store's SQLAlchemy URL; UNDERSTUDY_STORE_URL or the state folder's file")
    ] = "",
    token: Token = None,
) -> None:
    """Write one HTML file for the people who decide: goals, evaluation, the rollout, costs, risks, who decided, what is left.

    It holds its styles and pictures, fetches nothing, and prints well.
    """
    from understudy.offline.report import render

    with said():
        documents = _from_service(url, token) if url else _from_store(file, store)
        if evaluation is not None:
            documents = dataclasses.replace(documents, evaluation=_evaluated(evaluation, documents.state))
        text = render(documents, now=time.time(), traffic_rps=traffic)
        output.write_text(text, encoding="utf-8")
        out.print(f"{output}: {len(text.encode()) / 1024:.0f} KB; open it in a browser, or print it", markup=False)


def _evaluated(path: Path, state: Any) -> Any:
    """An evaluation of the models that the report is about.

    Raises:
        ConfigurationError: it is none, or it is of other models.
    """
    from understudy.offline.evaluate.judge import Evaluation
    from understudy.offline.report.offline import mismatch

    try:
        found = Evaluation.from_dict(json.loads(path.read_text(encoding="utf-8"))).as_dict()
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not what `understudy evaluate --json` writes: {error}; make it with `understudy evaluate --json > {path}`"
        ) from None
    if why := mismatch(found, state):
        raise ConfigurationError(
            f"{path} is of other models: {why}; `understudy evaluate --json` evaluates those of rollout.yaml"
        )
    return found


def _from_service(url: str, token: str | None) -> Any:
    from understudy.offline.report import Documents

    with Client(url, token) as client:
        events: list[Any] = []
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


def _from_store(file: Path, store_url: str) -> Any:
    from understudy.offline.past import look_back
    from understudy.offline.report import Documents
    from understudy.settings import read_settings

    settings = read_settings(rollout_file=file, **({"store_url": store_url} if store_url else {}))
    past = look_back(settings)
    if past is None:
        raise ConfigurationError(
            f"{settings.resolved_store_url()} holds no rollout of {file} with these models and goals; "
            "`understudy verify --list` shows what it holds, --url asks a running service"
        )
    return Documents(
        past["state"],
        past["policy"],
        past["evidence"],
        past["events"],
        f"the store of rollout {past['rollout']}",
        past["drift"],
    )
