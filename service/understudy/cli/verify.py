"""The command that folds the stored evidence again, and says which rollout of the store it is that it looks at."""

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from understudy.cli.common import File, Json, app, out, said
from understudy.errors import ConfigurationError

NOT_CHECKABLE = 3
"""The exit code when nothing is wrong but some decisions rest on rows that are gone."""
KEPT_BY_OLDER = "what it was judged by was not kept: an older version served it"


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A rollout of the store, the policy to check it by, and how the rollout file's policy differs from that."""

    record: Any
    policy: Any
    models: Mapping[Any, Any]
    differs: Sequence[str] = ()


@app.command()
def verify(
    file: File = Path("rollout.yaml"),
    store: Annotated[
        str, typer.Option(help="the store's SQLAlchemy URL; UNDERSTUDY_STORE_URL or the state folder's file")
    ] = "",
    rollout: Annotated[
        str, typer.Option(help="the rollout of the store with this key, judged as it was; its first characters will do")
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="show the rollouts that the store holds, and stop")] = False,
    as_json: Json = False,
) -> None:
    """Fold the stored evidence again, offline, and see whether every decision is reached again at the same row.

    Exit code 0: all are. 1: one is not, or the rollout file is not what was judged by. 3: rows that retention took keep
    some from being checked, and the others are reached again.
    """
    from understudy.loading import store as stores
    from understudy.settings import read_settings

    with said():
        settings = read_settings(rollout_file=file, **({"store_url": store} if store else {}))
        records = stores.stored_rollouts(settings)
        if listed:
            _list(records, as_json=as_json)
            return
        chosen = _by_key(records, rollout) if rollout else _by_file(settings, records)
        if chosen.differs and not as_json:
            out.print(f"{file} is not what {chosen.record.rollout} was judged by:", markup=False, soft_wrap=True)
            for line in chosen.differs:
                out.print(Text(f"  {line}", style="bold red"), soft_wrap=True)
        found = stores.open_rollout(settings, chosen.record.rollout)
        try:
            checks, changed = _check(found, chosen)
        finally:
            found.close()
        code = _code(checks, changed, chosen)
        if as_json:
            print(json.dumps(_as_json(checks, changed, chosen), indent=1))
        else:
            _show(checks, changed, chosen)
        if code:
            raise typer.Exit(code)


def _by_key(records: Sequence[Any], key: str) -> _Chosen:
    from understudy.rollout.identity import models_of, policy_of

    matching = [record for record in records if record.rollout.startswith(key)]
    if len(matching) != 1:
        there = ", ".join(record.rollout for record in records) or "none"
        raise ConfigurationError(f"{len(matching)} rollouts of the store begin with {key!r}; it holds {there}")
    (record,) = matching
    if record.identity is None:
        raise ConfigurationError(f"{record.rollout}: {KEPT_BY_OLDER}. Leave --rollout out, and name its rollout file")
    return _Chosen(record, policy_of(record.identity), models_of(record.identity))


def _by_file(settings: Any, records: Sequence[Any]) -> _Chosen:
    """The rollout that the file names; else the only one of its model, and what differs from it.

    Raises:
        ConfigurationError: naming what differs from each, when there are several; or that there is none.
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
    known = [r for r in records if r.identity is not None and r.identity["policy"]["model"] == policy.model]
    if not known:
        there = ", ".join(_name(record) for record in records) or "nothing"
        raise ConfigurationError(
            f"{where} holds no rollout of {policy.model} under these goals and models ({key}). It holds {there}"
        )
    told = [(record, differences(record.identity, now)) for record in known]
    if len(told) == 1:
        ((record, differs),) = told
        return _Chosen(record, policy_of(record.identity), models_of(record.identity), differs)
    lines = [f"{settings.rollout_file} is none of the {len(told)} rollouts of {policy.model} in {where}:"]
    for record, differs in told:
        lines += [f"  {record.rollout} ({_since(record)}):", *(f"    {line}" for line in differs)]
    lines.append(f"To check one as it was judged: understudy verify --rollout {told[-1][0].rollout}")
    raise ConfigurationError("\n".join(lines))


def _check(store: Any, chosen: _Chosen) -> tuple[Sequence[Any], str | None]:
    from understudy.rollout.controller import STATE, decided_at
    from understudy.rollout.verify import verify as check

    state = store.load_state(STATE)
    if state is None:
        raise ConfigurationError(f"{chosen.record.rollout} is in the store, but nothing of it was judged yet")
    pruned = chosen.record.pruned
    return check(
        chosen.policy,
        chosen.models,
        _all_events(store),
        state,
        _rows(store),
        pruned_to=pruned.up_to if pruned else 0,
        kept=lambda revision: store.load_state(decided_at(revision)),
    )


def _code(checks: Sequence[Any], changed: str | None, chosen: _Chosen) -> int:
    if changed or chosen.differs or any(c.checkable and not c.agrees for c in checks):
        return 1
    return 0 if all(c.agrees for c in checks) else NOT_CHECKABLE


def _as_json(checks: Sequence[Any], changed: str | None, chosen: _Chosen) -> dict[str, Any]:
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


def _show(checks: Sequence[Any], changed: str | None, chosen: _Chosen) -> None:
    if pruned := _pruned(chosen.record):
        out.print(Text(pruned, style="yellow"), soft_wrap=True)
    for c in checks:
        mark = (
            ("agrees  ", "green") if c.agrees else ("DIFFERS ", "bold red") if c.checkable else ("unknown ", "yellow")
        )
        told = f"event {c.event.id}, {c.event.kind} at revision {c.event.revision}: {c.says}"
        out.print(Text(mark[0], style=mark[1]), Text(told), sep="", soft_wrap=True)
    if changed:
        out.print(Text(changed, style="bold red"))
    reached, gone = sum(c.agrees for c in checks), sum(not c.checkable for c in checks)
    if changed or reached + gone < len(checks):
        out.print(Text("the stored evidence does not support what was decided", style="bold red"))
    elif gone:
        out.print(
            Text(
                f"{reached} of {len(checks)} decisions reached again; {gone} cannot be checked any more", style="yellow"
            )
        )
    else:
        out.print(Text(f"{len(checks)} decisions, all reached again", style="green"))


def _pruned(record: Any) -> str | None:
    if record.pruned is None:
        return None
    p = record.pruned
    return (
        f"{p.rows:,} rows up to {p.up_to:,} were pruned by retention, ages counted to {_day(p.at)}; what was decided among them "
        "cannot be folded again, and what follows is checked from the evidence kept with the first decision behind them"
    )


def _list(records: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        found = [
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
        print(json.dumps(found, indent=1))
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


def _name(record: Any) -> str:
    model = record.identity["policy"]["model"] if record.identity else KEPT_BY_OLDER
    return f"{record.rollout} ({model})"


def _since(record: Any) -> str:
    return "not started" if record.started_at is None else f"since {_day(record.started_at)}"


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _all_events(store: Any) -> list[Any]:
    events: list[Any] = []
    while page := store.events(after=events[-1].id if events else 0, limit=500):
        events += page
    return events


def _rows(store: Any) -> Callable[[int, int, int], Iterable[Any]]:
    def rows(after: int, upto: int, known_by: int) -> Iterator[Any]:
        while after < upto:
            page = store.outcomes(after=after, limit=2_000, known_by=known_by)
            if not page:
                return
            yield from (row for row in page if row[0] <= upto)
            after = page[-1][0]

    return rows
