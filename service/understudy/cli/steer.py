"""Commands that show and control a running rollout."""

import datetime
import json
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from understudy.cli.common import Json, Reason, Revision, Token, Url, app, err, errors_reported, out
from understudy.cli.compared import comparison_lines
from understudy.cli.funnel import compact, full
from understudy.domain import JsonObject
from understudy.offline.client import DEFAULT_URL, Client

Force = Annotated[bool, typer.Option("--force", help="start a step whose requirements are not met; needs a --reason")]
_VERBS = {"advance": "advance", "hold": "hold", "rollback": "roll back"}
_DETAILS = ("from", "from_weight", "to", "phase", "weight", "verdict", "alarm", "variant", "feature")
"""The details of an event that `history` shows; `--json` has all of them."""


@app.command()
def status(url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False) -> None:
    """Show the state of the rollout."""
    with errors_reported(), Client(url, token) as client:
        state = client.get("/rollout")
        if as_json:
            print(json.dumps(state, indent=1))
            return
        _show(state)


_JUDGED = {"shadow", "canary", "waiting"}
"""Phases in which verdicts move the rollout. In the others, the reason says who ended or stopped it."""


@app.command()
def explain(url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Explain the verdict in sentences."""
    with errors_reported(), Client(url, token) as client:
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
                f"below {budget['advance']:.2%}, no matter how often the evidence is judged."
            )


def _coverage(progress: JsonObject) -> Iterator[str]:
    """How many labels came on each side of a disagreement, the trial, incidents, and problems with the split."""
    for side, name in (("only_candidate", "candidate"), ("only_primary", "primary")):
        if pairs := progress.get(side):
            share = progress[f"{side}_labelled"] / pairs
            yield f"Of {pairs:,} pairs where only the {name} predicts the positive class, {share:.1%} have a label"
    if (trial := progress.get("trial", 1)) > 1:
        yield (
            f"This is trial {trial}: after the last retry the evidence of harm started again, with half of the previous budget; "
            "the evidence for advancing continued"
        )
    if incidents := progress.get("incidents"):
        yield (
            f"{incidents:,} incidents of the candidate in this trial count once each as harm; for {progress['away']:,} requests "
            "its process was unavailable"
        )
    for doubt in progress.get("doubts", ()):
        yield f"Served requests are no evidence: {doubt}"


@app.command()
def audit(url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False) -> None:
    """List the predictions that need a label for the audit, one per line. `labels.audit` in the rollout file draws them."""
    with errors_reported(), Client(url, token) as client:
        document = client.get("/rollout/audit")
        if as_json:
            print(json.dumps(document, indent=1))
        elif document["share"] is None:
            err.print(
                "the rollout has no audit; `labels: {audit: 10}` in the rollout file draws 10 % of the predictions"
            )
        else:
            for name in document["wanted"]:
                print(name)
            hours = document["wait_s"] / 3600
            err.print(
                f"{len(document['wanted']):,} predictions need a label, oldest first, within {hours:g} hours after the prediction"
            )


@app.command()
def history(
    url: Url = DEFAULT_URL,
    token: Token = None,
    limit: Annotated[
        int, typer.Option(help="the largest number of events, from the first one on", min=1, max=1000)
    ] = 50,
    as_json: Json = False,
) -> None:
    """Show the audit log: who did what, when and why."""
    with errors_reported(), Client(url, token) as client:
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
        float, typer.Argument(help="the candidate's share of live answers in percent, 0 to 100", min=0, max=100)
    ],
    reason: Reason = "",
    force: Force = False,
    revision: Annotated[int | None, typer.Option(help="fail if the rollout is no longer at this revision")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Set the candidate's share of live answers by hand."""
    with errors_reported(), Client(url, token) as client:
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
    name: str, url: str, token: str | None, reason: str, revision: int | None, as_json: bool, **body: bool
) -> None:
    with errors_reported(), Client(url, token) as client:
        state = client.post(f"/rollout/{name}", {"reason": reason, **body}, revision=revision)
        if as_json:
            print(json.dumps(state, indent=1))
        else:
            out.print(f"{state['phase']}, candidate at {state['weight']:g} %, revision {state['revision']}")


@app.command()
def promote(
    full: Annotated[bool, typer.Option("--full", help="skip all remaining steps")] = False,
    force: Force = False,
    reason: Reason = "",
    revision: Revision = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Go to the next step without waiting for the judge; with --full, to the promotion."""
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
    """Stop advancing and keep the weight. A rollback is still possible."""
    _order("pause", url, token, reason, revision, as_json)


@app.command()
def resume(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Continue after a pause."""
    _order("resume", url, token, reason, revision, as_json)


@app.command()
def abort(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Take the candidate off immediately."""
    _order("abort", url, token, reason, revision, as_json)


@app.command()
def retry(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Start again after an abort or a rollback. The evidence of the same models is kept."""
    _order("retry", url, token, reason, revision, as_json)


@app.command()
def undo(
    reason: Reason = "", revision: Revision = None, url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False
) -> None:
    """Take back a promotion: the old primary answers again."""
    _order("undo", url, token, reason, revision, as_json)


def _show(state: JsonObject) -> None:
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
            else f"unavailable, and probed until it answers: {candidate.get('reason') or 'it has not answered yet'}"
        )
        out.print(f"candidate  {candidate['name']} {candidate['version']}  {candidate['digest'][:19]}…  {up}")
    for file in state.get("files", []):
        out.print(f"file       {file['file']}: {file['problem']}", style="yellow", markup=False)
    out.print(f"state      {state['headline']}", markup=False)
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
    for line in comparison_lines(state.get("comparison", {})):
        out.print(f"compared   {line}", markup=False)
    for alarm in state["drift"]["alarms"]:
        out.print(f"drift      since {_day(alarm['since'])}: {alarm['reason']}", style="yellow", markup=False)
    out.print("rehearsals " + ", ".join(f"{count:,} {name}" for name, count in state["shadow"].items()))


def _day(at: float) -> str:
    """A time of requests, in UTC."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
