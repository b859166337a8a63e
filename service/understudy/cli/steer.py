"""Commands that look at a running rollout and steer it."""

import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from understudy.cli.common import Json, Reason, Revision, Token, Url, app, err, out, said
from understudy.cli.compared import told
from understudy.cli.funnel import compact, full
from understudy.offline.client import DEFAULT_URL, Client

Force = Annotated[bool, typer.Option("--force", help="start a step without what it requires; needs a --reason")]
_VERBS = {"advance": "advance", "hold": "hold", "rollback": "roll back"}
_DETAILS = ("from", "from_weight", "to", "phase", "weight", "verdict", "alarm", "variant", "feature")
"""What `history` shows of an event's details; `--json` has them all."""


@app.command()
def status(url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False) -> None:
    """Show where the rollout stands."""
    with said(), Client(url, token) as client:
        state = client.get("/rollout")
        if as_json:
            print(json.dumps(state, indent=1))
            return
        _show(state)


_JUDGED = {"shadow", "canary", "waiting"}
"""Phases in which a verdict moves the rollout; in the others the reason says who ended or stopped it."""


@app.command()
def explain(url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Say in sentences why the verdict is what it is."""
    with said(), Client(url, token) as client:
        state = client.get("/rollout")
        verdict = state["verdict"]
        out.print(
            f"{state['model']} is in phase {state['phase']}; the candidate answers {state['weight']:g} % of the requests."
        )
        out.print(f"{state['headline']}.", markup=False)
        judged = state["phase"] in _JUDGED or verdict["answer"] == "rollback"
        lead = f"The verdict is to {_VERBS[verdict['answer']]}" if judged else "Why"
        out.print(f"{lead}: {verdict['reason']}.", markup=False)
        for metric in state["metrics"]:
            out.print(f"  {metric['metric']}: {metric['reason']}.", markup=False)
        for line in _coverage(state.get("progress") or {}):
            out.print(f"{line}.", markup=False)
        for line in full(state):
            out.print(line, markup=False)
        for alarm in state["drift"]["alarms"]:
            out.print(f"Drift since {_day(alarm['since'])}: {alarm['reason']}.", markup=False)
        if budget := verdict.get("error_budget"):
            out.print(
                f"The chance of any wrong rollback in this trial stays below {budget['harm']:.2%}, that of any wrong advance "
                f"below {budget['advance']:.2%}, however often one looks."
            )


def _coverage(progress: Mapping[str, Any]) -> Iterator[str]:
    """Whether labels come alike on both sides of a disagreement, and what is wrong with the split."""
    for side, name in (("only_candidate", "candidate"), ("only_primary", "primary")):
        if pairs := progress.get(side):
            share = progress[f"{side}_labelled"] / pairs
            yield f"Of {pairs:,} pairs where only the {name} says the positive class, {share:.1%} have their label"
    if (trial := progress.get("trial", 1)) > 1:
        yield (
            f"This is trial {trial}: with the last retry the evidence for harm began anew, on half of the budget before "
            "it; the evidence for advancing went on"
        )
    if incidents := progress.get("incidents"):
        yield (
            f"{incidents:,} incidents of the candidate in this trial count once each for harm; {progress['away']:,} requests "
            "found its process away"
        )
    for doubt in progress.get("doubts", ()):
        yield f"What was served is no evidence: {doubt}"


@app.command()
def audit(url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False) -> None:
    """List the predictions whose label an audit waits for, one a line: `labels.audit` in the rollout file draws them."""
    with said(), Client(url, token) as client:
        found = client.get("/rollout/audit")
        if as_json:
            print(json.dumps(found, indent=1))
        elif found["share"] is None:
            err.print("there is no audit: `labels: {audit: 10}` in the rollout file draws a tenth of the predictions")
        else:
            for name in found["wanted"]:
                print(name)
            hours = found["wait_s"] / 3600
            err.print(f"{len(found['wanted']):,} wait, the oldest first; each within {hours:g} hours of its prediction")


@app.command()
def history(
    url: Url = DEFAULT_URL,
    token: Token = None,
    limit: Annotated[int, typer.Option(help="at most so many events, from the first one on", min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """Show the audit log: who did what, when and why."""
    with said(), Client(url, token) as client:
        events = client.get("/rollout/events", limit=limit)["events"]
        if as_json:
            print(json.dumps(events, indent=1))
            return
        table = Table("at", "event", "who", "why", "revision", "details", box=None)
        for event in events:
            at = datetime.datetime.fromtimestamp(event["at"], datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
            details = ", ".join(f"{k} {v}" for k, v in event["details"].items() if k in _DETAILS)
            cells = (event["kind"], event["actor"], event["reason"], str(event["revision"]), details)
            table.add_row(at, *(escape(cell) for cell in cells))
        out.print(table)


@app.command("set-weight")
def set_weight(
    weight: Annotated[
        float, typer.Argument(help="percent of live answers that the candidate gives, 0 to 100", min=0, max=100)
    ],
    reason: Reason = "",
    force: Force = False,
    revision: Annotated[
        int | None, typer.Option(help="refuse when the rollout has moved on from this revision")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Set the candidate's share of live answers by hand."""
    with said(), Client(url, token) as client:
        state = client.post(
            "/rollout/weight",
            {"weight": weight, "reason": reason} | ({"force": True} if force else {}),
            revision=revision,
        )
        if as_json:
            print(json.dumps(state, indent=1))
        else:
            out.print(f"{state['phase']}, candidate at {state['weight']:g} %, revision {state['revision']}")


def _order(
    name: str, url: str, token: str | None, reason: str, revision: int | None, as_json: bool, **body: Any
) -> None:
    with said(), Client(url, token) as client:
        state = client.post(f"/rollout/{name}", {"reason": reason, **body}, revision=revision)
        if as_json:
            print(json.dumps(state, indent=1))
        else:
            out.print(f"{state['phase']}, candidate at {state['weight']:g} %, revision {state['revision']}")


@app.command()
def promote(
    full: Annotated[bool, typer.Option("--full", help="skip the steps that are left")] = False,
    force: Force = False,
    reason: Reason = "",
    revision: Revision = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Go to the next step without waiting for the judge; with --full, all the way."""
    _order(
        "promote",
        url,
        token,
        reason,
        revision,
        as_json,
        **({"full": True} if full else {}),
        **({"force": True} if force else {}),
    )


@app.command()
def pause(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Keep the weight as it is; harm still takes the candidate off."""
    _order("pause", url, token, reason, revision, as_json)


@app.command()
def resume(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Go on after a pause."""
    _order("resume", url, token, reason, revision, as_json)


@app.command()
def abort(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Take the candidate off at once."""
    _order("abort", url, token, reason, revision, as_json)


@app.command()
def retry(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Begin again after an abort or a rollback. The evidence of the same models stays."""
    _order("retry", url, token, reason, revision, as_json)


@app.command()
def undo(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Take a promotion back: the old primary answers again."""
    _order("undo", url, token, reason, revision, as_json)


def _show(state: Mapping[str, Any]) -> None:
    primary, candidate = state["primary"], state["candidate"]
    out.print(
        f"{state['model']}: {state['phase']}, candidate at {state['weight']:g} %, revision {state['revision']}",
        style="bold",
    )
    out.print(f"primary    {primary['name']} {primary['version']}  {primary['digest'][:19]}…")
    if candidate:
        up = (
            "up"
            if candidate["up"]
            else f"down, and being probed: {candidate.get('reason') or 'it has not answered yet'}"
        )
        out.print(f"candidate  {candidate['name']} {candidate['version']}  {candidate['digest'][:19]}…  {up}")
    for file in state.get("files", []):
        out.print(f"file       {file['file']}: {file['problem']}", style="yellow", markup=False)
    out.print(f"stands     {state['headline']}", markup=False)
    out.print(f"verdict    {state['verdict']['answer']}: {state['verdict']['reason']}", markup=False)
    table = Table("", *state["variants"], box=None)
    names = dict.fromkeys(name for figures in state["variants"].values() for name in figures)
    for name in names:
        values = [figures.get(name) for figures in state["variants"].values()]
        table.add_row(
            name.replace("_", " "),
            *("-" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.4f}" for v in values),
        )
    out.print(table)
    labels = state["labels"]
    coverage = "" if labels["coverage"] is None else f", {labels['coverage']:.1%} of the rows"
    delay = (
        ""
        if labels["delay_p50_s"] is None
        else f", half of them within {datetime.timedelta(seconds=round(labels['delay_p50_s']))}"
    )
    out.print(f"labels     {labels['matched']:,} matched{coverage}{delay}")
    for line in compact(state):
        out.print(line, markup=False)
    for line in told(state.get("comparison", {})):
        out.print(f"compared   {line}", markup=False)
    for alarm in state["drift"]["alarms"]:
        out.print(f"drift      since {_day(alarm['since'])}: {alarm['reason']}", style="yellow", markup=False)
    out.print("rehearsals " + ", ".join(f"{count:,} {name}" for name, count in state["shadow"].items()))


def _day(at: float) -> str:
    """A moment of the requests' own time."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
