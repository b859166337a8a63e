"""`understudy verify`: recomputes the decisions of a stored rollout from its rows."""

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from understudy.cli.common import File, Json, app, errors_reported, out
from understudy.domain import Event, JsonObject, LabelReport, Observation, Variant
from understudy.errors import ConfigurationError

if TYPE_CHECKING:  # loaded by the command
    from understudy.rollout.evidence_state import EvidenceState, StoredEvidence
    from understudy.rollout.identity import IdentityDocument
    from understudy.rollout.policy import Policy
    from understudy.rollout.scoring import Model
    from understudy.rollout.verify import Check
    from understudy.settings import Settings
    from understudy.store import RolloutRecord, Store

NOT_CHECKABLE = 3
"""Exit code if no decision differs but some depend on rows that were removed."""
NO_IDENTITY = "its goals and models were not stored, because an older version served it"


StoredRow: TypeAlias = tuple[int, Observation, LabelReport | None]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A stored rollout, the policy and models to check it with, and how the rollout file differs from that policy."""

    record: "RolloutRecord"
    policy: "Policy"
    models: "Mapping[Variant, Model]"
    differs: Sequence[str] = ()


@app.command()
def verify(
    file: File = Path("rollout.yaml"),
    store: Annotated[
        str,
        typer.Option(help="the store's SQLAlchemy URL; default: UNDERSTUDY_STORE_URL, or the file in the state folder"),
    ] = "",
    rollout: Annotated[
        str,
        typer.Option(help="check the stored rollout with this key (its first characters suffice), with its own goals"),
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="list the rollouts in the store and exit")] = False,
    as_json: Json = False,
) -> None:
    """Recompute every decision from the stored rows, offline, and compare it with the stored decision.

    Exit code 0: all agree. 1: one differs, or the rollout file is not the one that was used. 3: all that can be checked
    agree, but retention has removed the rows of others.
    """
    from understudy.loading import store as stores
    from understudy.settings import read_settings

    with errors_reported():
        settings = read_settings(rollout_file=file, **({"store_url": store} if store else {}))
        records = stores.stored_rollouts(settings)
        if listed:
            _list(records, as_json=as_json)
            return
        chosen = _by_key(records, rollout) if rollout else _by_file(settings, records)
        if chosen.differs and not as_json:
            out.print(
                f"{file} differs from the goals and models that {chosen.record.rollout} was judged with:",
                markup=False,
                soft_wrap=True,
            )
            for line in chosen.differs:
                out.print(Text(f"  {line}", style="bold red"), soft_wrap=True)
        opened = stores.open_rollout(settings, chosen.record.rollout)
        try:
            checks, changed = _check(opened, chosen)
        finally:
            opened.close()
        code = _code(checks, changed, chosen)
        if as_json:
            print(json.dumps(_as_json(checks, changed, chosen), indent=1))
        else:
            _show(checks, changed, chosen)
        if code:
            raise typer.Exit(code)


def _by_key(records: "Sequence[RolloutRecord]", key: str) -> _Chosen:
    from understudy.rollout.identity import models_of, policy_of

    matching = [record for record in records if record.rollout.startswith(key)]
    if len(matching) != 1:
        there = ", ".join(record.rollout for record in records) or "none"
        raise ConfigurationError(f"{len(matching)} rollouts in the store begin with {key!r}; the store has {there}")
    (record,) = matching
    if record.identity is None:
        raise ConfigurationError(
            f"{record.rollout}: {NO_IDENTITY}. Check it with its rollout file instead of --rollout"
        )
    identity = cast("IdentityDocument", record.identity)
    return _Chosen(record, policy_of(identity), models_of(identity))


def _by_file(settings: "Settings", records: "Sequence[RolloutRecord]") -> _Chosen:
    """The rollout of the file's goals and models, otherwise the only one of its model.

    Raises:
        ConfigurationError: there is no rollout of the model, or there are several; the message lists the differences.
    """
    from understudy import loading
    from understudy.rollout.identity import differences, identity, models_of, policy_of

    policy = loading.load_policy(settings)
    cards = loading.read_cards(policy, settings)
    now, key = identity(policy, cards), loading.rollout_key(policy, cards)
    same = [record for record in records if record.rollout == key]
    if same:
        return _Chosen(same[0], policy, models_of(now))
    where = settings.resolved_store_url()
    known = [
        (r, cast("IdentityDocument", r.identity))
        for r in records
        if r.identity is not None and r.identity["policy"]["model"] == policy.model
    ]
    if not known:
        there = ", ".join(_name(record) for record in records) or "nothing"
        raise ConfigurationError(
            f"{where} has no rollout of {policy.model} with these goals and models ({key}). It has {there}"
        )
    compared = [(record, identity_, differences(identity_, now)) for record, identity_ in known]
    if len(compared) == 1:
        ((record, identity_, differs),) = compared
        return _Chosen(record, policy_of(identity_), models_of(identity_), differs)
    lines = [
        f"{settings.rollout_file} matches none of the {len(compared)} rollouts of {policy.model} in {where}. It differs from"
    ]
    for record, _, differs in compared:
        lines += [f"  {record.rollout} ({_since(record)}):", *(f"    {line}" for line in differs)]
    lines.append(f"To check one with its own goals: understudy verify --rollout {compared[-1][0].rollout}")
    raise ConfigurationError("\n".join(lines))


def _check(store: "Store", chosen: _Chosen) -> "tuple[Sequence[Check], str | None]":
    from understudy.rollout.controller import STATE, decided_at
    from understudy.rollout.verify import verify as check

    state = store.load_state(STATE)
    if state is None:
        raise ConfigurationError(f"{chosen.record.rollout} is in the store, but it has not been judged yet")
    pruned = chosen.record.pruned
    return check(
        chosen.policy,
        chosen.models,
        _all_events(store),
        cast("StoredEvidence", state),
        _rows(store),
        pruned_to=pruned.up_to if pruned else 0,
        kept=lambda revision: cast("EvidenceState | None", store.load_state(decided_at(revision))),
    )


def _code(checks: "Sequence[Check]", changed: str | None, chosen: _Chosen) -> int:
    if changed or chosen.differs or any(c.checkable and not c.agrees for c in checks):
        return 1
    return 0 if all(c.agrees for c in checks) else NOT_CHECKABLE


def _as_json(checks: "Sequence[Check]", changed: str | None, chosen: _Chosen) -> JsonObject:
    decisions = [
        {"event": c.event.kind, "id": c.event.id, "agrees": c.agrees, "checkable": c.checkable, "says": c.says}
        for c in checks
    ]
    agrees = changed is None and not chosen.differs and all(c.agrees for c in checks)
    return {
        "rollout": chosen.record.rollout,
        "agrees": agrees,
        "policy_differs": list(chosen.differs),
        "changed": changed,
        "pruned": _pruned(chosen.record),
        "decisions": decisions,
    }


def _show(checks: "Sequence[Check]", changed: str | None, chosen: _Chosen) -> None:
    if pruned := _pruned(chosen.record):
        out.print(Text(pruned, style="yellow"), soft_wrap=True)
    for c in checks:
        mark = (
            ("agrees  ", "green") if c.agrees else ("DIFFERS ", "bold red") if c.checkable else ("unknown ", "yellow")
        )
        line = f"event {c.event.id}, {c.event.kind} at revision {c.event.revision}: {c.says}"
        out.print(Text(mark[0], style=mark[1]), Text(line), sep="", soft_wrap=True)
    if changed:
        out.print(Text(changed, style="bold red"))
    reached, gone = sum(c.agrees for c in checks), sum(not c.checkable for c in checks)
    if changed or reached + gone < len(checks):
        out.print(Text("the stored evidence does not support the decisions", style="bold red"))
    elif gone:
        out.print(
            Text(f"{reached} of {len(checks)} decisions agree; {gone} cannot be checked any more", style="yellow")
        )
    else:
        out.print(Text(f"{len(checks)} decisions, all agree", style="green"))


def _pruned(record: "RolloutRecord") -> str | None:
    if record.pruned is None:
        return None
    p = record.pruned
    return (
        f"retention has removed {p.rows:,} rows up to number {p.up_to:,}, last at {_day(p.at)}. Decisions among them cannot be "
        "checked; later ones are checked from the evidence that was stored with the first decision after them"
    )


def _list(records: "Sequence[RolloutRecord]", *, as_json: bool) -> None:
    if as_json:
        listed = [
            {
                "rollout": r.rollout,
                "started_at": r.started_at,
                "phase": r.plan.phase.value if r.plan else None,
                "revision": r.plan.revision if r.plan else 0,
                "pruned": _pruned(r),
                "identity": r.identity,
            }
            for r in records
        ]
        print(json.dumps(listed, indent=1))
        return
    table = Table("rollout", "model", "primary", "candidate", "started", "phase", "revision", box=None)
    for r in records:
        models = r.identity["models"] if r.identity else {}
        names = [
            f"{models[v]['name']} {models[v]['version']}" if v in models else "-" for v in ("primary", "candidate")
        ]
        model = r.identity["policy"]["model"] if r.identity else "-"
        plan = (r.plan.phase.value, str(r.plan.revision)) if r.plan else ("-", "-")
        table.add_row(r.rollout, *(escape(cell) for cell in (model, *names, _since(r), *plan)))
    out.print(table)


def _name(record: "RolloutRecord") -> str:
    model = record.identity["policy"]["model"] if record.identity else NO_IDENTITY
    return f"{record.rollout} ({model})"


def _since(record: "RolloutRecord") -> str:
    return "not started" if record.started_at is None else f"since {_day(record.started_at)}"


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _all_events(store: "Store") -> list[Event]:
    events: list[Event] = []
    while page := store.events(after=events[-1].id if events else 0, limit=500):
        events += page
    return events


def _rows(store: "Store") -> Callable[[int, int, int], Iterable[StoredRow]]:
    def rows(after: int, upto: int, known_by: int) -> Iterator[StoredRow]:
        while after < upto:
            page = store.outcomes(after=after, limit=2_000, known_by=known_by)
            if not page:
                return
            yield from (row for row in page if row[0] <= upto)
            after = page[-1][0]

    return rows
