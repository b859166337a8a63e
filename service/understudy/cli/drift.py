"""`understudy drift`: the last day of requests beside each model's training."""

import datetime
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from understudy.cli.common import Json, Token, Url, app, out, said
from understudy.offline.client import DEFAULT_URL, Client

BAR_CHARS = 20


@app.command()
def drift(
    url: Url = DEFAULT_URL,
    token: Token = None,
    every: Annotated[
        bool, typer.Option("--all", help="every feature, not only the five nearest to their line")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how far the last day of requests is from each model's training, beside the line above which it is drift."""
    with said(), Client(url, token) as client:
        found = client.get("/rollout/drift")
        if as_json:
            print(json.dumps(found, indent=1))
            return
        if found["window"] is None:
            out.print("nothing has been looked at yet", markup=False)
        else:
            _show(found, every=every)
        for note in found["notes"]:
            out.print(note, style="dim", markup=False)


def _show(found: Mapping[str, Any], *, every: bool) -> None:
    window = found["window"]
    waits = f"; {window['not_whole']}" if window["not_whole"] else ""
    out.print(
        f"{window['rows']:,} rows, {_time(window['from'])} to {_time(window['to'])} UTC{waits}",
        style="bold",
        markup=False,
    )
    for variant in dict.fromkeys(each["variant"] for each in found["features"]):
        mine = [each for each in found["features"] if each["variant"] == variant]
        mine.sort(key=lambda each: each["psi"] / each["line"], reverse=True)
        table = Table(variant, "distance", "line", "", "missing", "outside", "since", box=None)
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
        if estimate := found["estimates"].get(variant):
            out.print(
                f"  believes of itself: accuracy {estimate['accuracy']:.4f}, Brier {estimate['brier']:.4f}, without labels",
                style="dim",
            )
    for alarm in found["alarms"]:
        out.print(f"since {_time(alarm['since'])} UTC: {alarm['reason']}", style="yellow", markup=False)


def _bar(share: float) -> Text:
    """How much of the way to its line a distance has gone; full is drift."""
    full = min(round(share * BAR_CHARS), BAR_CHARS)
    return Text("█" * full + "·" * (BAR_CHARS - full), style="yellow" if share > 1 else "")


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
