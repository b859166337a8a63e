"""`understudy drift`: compares the last day of requests with each model's training data."""

import datetime
import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from understudy.cli.common import Json, Token, Url, app, errors_reported, out
from understudy.domain import JsonObject
from understudy.offline.client import DEFAULT_URL, Client

BAR_CHARS = 20


@app.command()
def drift(
    url: Url = DEFAULT_URL,
    token: Token = None,
    every: Annotated[
        bool, typer.Option("--all", help="show every feature, not only the five nearest to their threshold")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the distance of the last day of requests from each model's training data, and the threshold for drift."""
    with errors_reported(), Client(url, token) as client:
        document = client.get("/rollout/drift")
        if as_json:
            print(json.dumps(document, indent=1))
            return
        if document["window"] is None:
            out.print("no requests have been compared yet", markup=False)
        else:
            _show(document, every=every)
        for note in document["notes"]:
            out.print(note, style="dim", markup=False)


def _show(document: JsonObject, *, every: bool) -> None:
    window = document["window"]
    incomplete = f"; {window['not_whole']}" if window["not_whole"] else ""
    out.print(
        f"{window['rows']:,} rows, {_time(window['from'])} to {_time(window['to'])} UTC{incomplete}",
        style="bold",
        markup=False,
    )
    for variant in dict.fromkeys(each["variant"] for each in document["features"]):
        mine = [each for each in document["features"] if each["variant"] == variant]
        mine.sort(key=lambda each: each["psi"] / each["line"], reverse=True)
        table = Table(variant, "distance", "threshold", "", "missing", "outside", "since", box=None)
        for each in mine if every else [e for i, e in enumerate(mine) if i < 5 or e["since"]]:
            table.add_row(
                Text(each["feature"], style="bold yellow" if each["since"] else ""),
                f"{each['psi']:.2f}",
                f"{each['line']:.2f}",
                _bar(each["psi"] / each["line"]),
                f"{each['missing']:.1%}",
                f"{each['outside']:.1%}",
                _time(each["since"]) if each["since"] else "",
            )
        out.print(table)
        if estimate := document["estimates"].get(variant):
            out.print(
                f"  estimated from its own probabilities, without labels: accuracy {estimate['accuracy']:.4f}, "
                f"Brier {estimate['brier']:.4f}",
                style="dim",
            )
    for alarm in document["alarms"]:
        out.print(f"since {_time(alarm['since'])} UTC: {alarm['reason']}", style="yellow", markup=False)


def _bar(share: float) -> Text:
    """A distance as a share of its threshold; a full bar is drift."""
    full = min(round(share * BAR_CHARS), BAR_CHARS)
    return Text("█" * full + "·" * (BAR_CHARS - full), style="yellow" if share > 1 else "")


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
