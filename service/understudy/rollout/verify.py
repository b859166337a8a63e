"""The decisions again, offline: fold the stored evidence as the controller did, and reach the same verdicts at the same rows.

Every decision of the judge is an event with what was looked at: how many rows were seen, how far the settled prefix reached, where
the tail ended, by when labels were known, and how many steps had begun. The state that the controller kept says where each
step began, and which rows were settled without their label: one that was stored later, when the row's wait was over, is not
looked at here either. All of that is followed from the first row on, with nothing taken over but the cursors.

Retention takes old rows, and then nobody can fold from the first one on. What was decided among the rows that are gone cannot be
checked, and that is said. The first decision behind them is checked from the evidence that was kept with it, and what follows is
folded from there.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.domain import Event, Phase
from understudy.rollout.controller import judge_at
from understudy.rollout.evidence import VERSION, Evidence, Row
from understudy.rollout.judge import Verdict
from understudy.rollout.loadtest import LOADTEST, Record, shortcoming
from understudy.rollout.policy import Policy
from understudy.rollout.scoring import Model

Rows = Callable[[int, int, int], Iterable[Row]]
"""Rows after a sequence number, up to another, with the labels that were known by a receipt."""
Kept = Callable[[int], Mapping[str, Any] | None]
"""The evidence that was kept with the decision of a revision, or None where none was."""
TOLERANCE = 1e-6
"""Log e-values are compared to this: they were rounded to nothing, but pass through JSON."""


@dataclass(frozen=True, slots=True)
class Check:
    """One decision, and whether the rows still say so; they cannot say anything where they are gone."""

    event: Event
    agrees: bool
    says: str
    checkable: bool = True


def verify(
    policy: Policy,
    models: Mapping[Any, Model],
    events: Sequence[Event],
    state: Mapping[str, Any],
    rows: Rows,
    *,
    pruned_to: int = 0,
    kept: Kept = lambda revision: None,
) -> tuple[list[Check], str | None]:
    """Every decision of the judge, checked; and the block of rows that was changed, if one was.

    Args:
        pruned_to: retention took rows up to this sequence number; 0 where it took none.
        kept: where to go on behind those.
    """
    decisions = [event for event in events if event.actor == "judge"]
    marks, rows = state["evidence"]["marks"], _as_settled(rows, state["evidence"]["missing"])
    evidence = Evidence(policy, models)
    checks = []
    for event in decisions:
        looked = event.details
        if looked.get("evidence", 1) != VERSION:
            version = looked.get("evidence", 1)
            said = f"{event.kind} cannot be checked: it was decided by version {version} of the evidence, and this is {VERSION}"
            checks.append(Check(event, False, said, False))
            continue
        if evidence.settled < pruned_to:  # the rows to fold next are gone
            found = kept(event.revision) if min(looked["settled"], looked["seen"]) >= pruned_to else None
            if found is None:
                checks.append(Check(event, False, f"{event.kind} cannot be checked: its rows were pruned", False))
                continue
            evidence.take(found)
        for step, revision, seen, settled, trial in marks[len(evidence.marks) : looked["marks"]]:
            _fold(evidence, rows, seen, settled, looked["known_by"])
            evidence.begin_step(step, revision, trial)
        _fold(evidence, rows, looked["seen"], looked["settled"], looked["known_by"])
        tail = evidence.tail(rows(evidence.settled, looked["tail_to"], looked["known_by"]))
        followed = policy.following(looked["followed"]) if "followed" in looked else policy
        met = looked.get("met", {})
        verdict = judge_at(followed, evidence, tail, Phase(looked["from"]), looked["judged_step"], frozenset(met))
        unfounded = _unfounded(events, event, met[LOADTEST]) if LOADTEST in met else None
        checks.append(Check(event, False, unfounded) if unfounded else _compare(event, verdict, evidence.chain.digest))
    return checks, changed_block(evidence, state["evidence"]["chain"]["blocks"])


def changed_block(evidence: Evidence, blocks: Sequence[Sequence[Any]]) -> str | None:
    """Where the chain of row digests first differs from the one that was kept, in words."""
    before = 0
    for (seq, digest), (kept_seq, kept) in zip(evidence.chain.blocks, blocks, strict=False):
        if (seq, digest) != (kept_seq, kept):
            return f"a row between {before + 1} and {kept_seq} is not what it was when it was judged"
        before = seq
    return None


def _unfounded(events: Sequence[Event], decision: Event, record: int) -> str | None:
    """Why the load test that a decision names does not bear it, in words."""
    found = next((e for e in events if e.id == record and e.kind == LOADTEST and e.id < decision.id), None)
    if found is None:
        return f"it names event {record} as its load test, and there is no such record before it"
    try:
        test = Record.model_validate(dict(found.details))
    except ValueError:
        return f"the load test in event {record} is not a record"
    # By the goals of then: a goal that was raised later changes nothing about what was decided.
    why = shortcoming(test, test.setup, test.goals)
    began = next((dict(e.details) for e in events if e.kind == "started"), {})
    digests = {name: began.get(name, getattr(test.setup, name)) for name in ("primary", "candidate")}
    if any(getattr(test.setup, name) != digest for name, digest in digests.items()):
        why = "it was taken of other models"
    return f"the load test in event {record} does not count: {why}" if why else None


def _as_settled(rows: Rows, missing: Sequence[Sequence[int]]) -> Rows:
    """The rows without the labels that came too late: `missing` are the first and last of those settled without."""
    firsts = [first for first, _ in missing]

    def found(after: int, upto: int, known_by: int) -> Iterator[Row]:
        for seq, observation, report in rows(after, upto, known_by):
            at = bisect_right(firsts, seq) - 1
            yield seq, observation, None if at >= 0 and seq <= missing[at][1] else report

    return found


def _fold(evidence: Evidence, rows: Rows, seen: int, settled: int, known_by: int) -> None:
    evidence.see(rows(evidence.seen, seen, known_by))
    evidence.settle(rows(evidence.settled, settled, known_by))


def _compare(event: Event, verdict: Verdict, chain: str) -> Check:
    kept = event.details["verdict"]
    now = verdict.as_dict()
    for name in ("log_e_harm", "log_e_advance"):
        if abs((kept[name] or 0.0) - (now[name] or 0.0)) > TOLERANCE:
            return Check(event, False, f"{name} was {kept[name]}, the rows now say {now[name]}")
    for was, metric in zip(event.details["metrics"], verdict.metrics, strict=False):
        says = metric.as_dict()
        for name in ("estimate", "log_e_advance", "log_e_harm"):
            if abs((was[name] or 0.0) - (says[name] or 0.0)) > TOLERANCE:
                return Check(event, False, f"{name} of {metric.metric} was {was[name]}, the rows now say {says[name]}")
    if kept["answer"] != verdict.answer:
        return Check(event, False, f"the verdict was {kept['answer']}, the rows now say {verdict.answer}")
    if event.details["chain"] != chain:
        settled = event.details["settled"]
        return Check(event, False, f"the verdict is the same, but a row up to {settled:,} is not what it was then")
    return Check(event, True, f"{verdict.answer}, from {event.details['seen']:,} rows")
