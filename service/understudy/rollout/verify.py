"""Verifies decisions offline: folds the stored rows as the controller did, and compares each verdict.

Every decision of the judge is an event with its cursors: how many rows were seen, how far the settled prefix reached, where
the tail ended, which labels were known, and how many steps had begun. The state that the controller kept says where each
step began, and which rows were settled without a label: a label that was stored later is ignored here as well. Everything else
is computed again from the first row.

After retention has removed old rows, decisions among these rows cannot be verified, and the result says so. The first decision
after them is verified from the snapshot that was stored with it, and the later ones from there.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from understudy.domain import Event, Phase, Variant
from understudy.rollout.controller import judge_at
from understudy.rollout.documents import DecisionDetails
from understudy.rollout.evidence import Evidence, EvidenceRow
from understudy.rollout.evidence_state import VERSION, EvidenceState, StoredEvidence
from understudy.rollout.judge import Verdict
from understudy.rollout.loadtest import LOADTEST, Record, shortcoming
from understudy.rollout.policy import Policy
from understudy.rollout.scoring import Model

RowReader: TypeAlias = Callable[[int, int, int], Iterable[EvidenceRow]]
"""Reads rows after a sequence number and up to another, with the labels of the first so many batches of labels."""
SnapshotReader: TypeAlias = Callable[[int], EvidenceState | None]
"""Reads the evidence that was stored with the decision of a revision; None if there is none."""
TOLERANCE = 1e-6
"""Largest difference of log e-values that counts as equal."""


@dataclass(frozen=True, slots=True)
class Check:
    """One decision, and whether the stored rows still lead to it. It is not checkable if they are pruned."""

    event: Event
    agrees: bool
    says: str
    checkable: bool = True


def verify(
    policy: Policy,
    models: Mapping[Variant, Model],
    events: Sequence[Event],
    state: StoredEvidence,
    rows: RowReader,
    *,
    pruned_to: int = 0,
    kept: SnapshotReader = lambda revision: None,
) -> tuple[list[Check], str | None]:
    """Verify every decision of the judge.

    Args:
        policy: the policy that the rollout was judged by.
        models: what scoring needs of the models.
        events: all events of the rollout.
        state: the evidence as the controller kept it last.
        rows: reads the stored rows.
        pruned_to: retention removed rows up to this sequence number; 0 if none.
        kept: reads the snapshots from which to continue after pruned rows.

    Returns:
        The decisions, and a sentence that names a block of changed rows, or None.
    """
    decisions = [event for event in events if event.actor == "judge"]
    marks, rows = state["evidence"]["marks"], _as_settled(rows, state["evidence"]["missing"])
    evidence = Evidence(policy, models)
    checks = []
    for event in decisions:
        details = cast("DecisionDetails", event.details)
        if (version := details.get("evidence", 1)) != VERSION:
            result = f"{event.kind} cannot be checked: it was decided with version {version} of the evidence, this is {VERSION}"
            checks.append(Check(event, False, result, False))
            continue
        if evidence.settled < pruned_to:  # the next rows are pruned
            snapshot = kept(event.revision) if min(details["settled"], details["seen"]) >= pruned_to else None
            if snapshot is None:
                checks.append(Check(event, False, f"{event.kind} cannot be checked: its rows were pruned", False))
                continue
            evidence.take(snapshot)
        for step, revision, seen, settled, trial in marks[len(evidence.marks) : details["marks"]]:
            _fold(evidence, rows, seen, settled, details["known_by"])
            evidence.begin_step(step, revision, trial)
        _fold(evidence, rows, details["seen"], details["settled"], details["known_by"])
        tail = evidence.tail(rows(evidence.settled, details["tail_to"], details["known_by"]))
        followed = policy.following(details["followed"]) if "followed" in details else policy
        met = details.get("met", {})
        verdict = judge_at(followed, evidence, tail, Phase(details["from"]), details["judged_step"], frozenset(met))
        unfounded = _unfounded(events, event, met[LOADTEST]) if LOADTEST in met else None
        checks.append(Check(event, False, unfounded) if unfounded else _compare(event, verdict, evidence.chain.digest))
    return checks, changed_block(evidence, state["evidence"]["chain"]["blocks"])


def changed_block(evidence: Evidence, blocks: Sequence[tuple[int, str]]) -> str | None:
    """A sentence that says where the chain of row digests first differs from the stored one; None if it does not."""
    before = 0
    for (seq, digest), (kept_seq, kept) in zip(evidence.chain.blocks, blocks, strict=False):
        if (seq, digest) != (kept_seq, kept):
            return f"a row between {before + 1} and {kept_seq} has changed since it was judged"
        before = seq
    return None


def _unfounded(events: Sequence[Event], decision: Event, record: int) -> str | None:
    """Why the load test that a decision names does not justify it; None if it does."""
    test_event = next((e for e in events if e.id == record and e.kind == LOADTEST and e.id < decision.id), None)
    if test_event is None:
        return f"it names event {record} as its load test, but no load test was recorded there before the decision"
    try:
        test = Record.model_validate(dict(test_event.details))
    except ValueError:
        return f"the load test in event {record} cannot be read"
    # By its own goals: a goal that was changed later does not change the decision.
    why = shortcoming(test, test.setup, test.goals)
    started = next((dict(e.details) for e in events if e.kind == "started"), {})
    digests = {name: started.get(name, getattr(test.setup, name)) for name in ("primary", "candidate")}
    if any(getattr(test.setup, name) != digest for name, digest in digests.items()):
        why = "it tested other models"
    return f"the load test in event {record} does not count: {why}" if why else None


def _as_settled(rows: RowReader, missing: Sequence[tuple[int, int]]) -> RowReader:
    """Remove labels that came too late. `missing` has the first and last sequence number of rows settled without a label."""
    firsts = [first for first, _ in missing]

    def read(after: int, upto: int, known_by: int) -> Iterator[EvidenceRow]:
        for seq, observation, report in rows(after, upto, known_by):
            at = bisect_right(firsts, seq) - 1
            yield seq, observation, None if at >= 0 and seq <= missing[at][1] else report

    return read


def _fold(evidence: Evidence, rows: RowReader, seen: int, settled: int, known_by: int) -> None:
    evidence.see(rows(evidence.seen, seen, known_by))
    evidence.settle(rows(evidence.settled, settled, known_by))


def _compare(event: Event, verdict: Verdict, chain: str) -> Check:
    details = cast("DecisionDetails", event.details)
    kept, now = details["verdict"], verdict.as_dict()
    pairs = [
        ("log_e_harm", kept["log_e_harm"], now["log_e_harm"]),
        ("log_e_advance", kept["log_e_advance"], now["log_e_advance"]),
    ]
    for was, metric in zip(details["metrics"], verdict.metrics, strict=False):
        new = metric.as_dict()
        pairs += [
            (f"estimate of {metric.metric}", was["estimate"], new["estimate"]),
            (f"log_e_advance of {metric.metric}", was["log_e_advance"], new["log_e_advance"]),
            (f"log_e_harm of {metric.metric}", was["log_e_harm"], new["log_e_harm"]),
        ]
    for name, before, after in pairs:
        if abs((before or 0.0) - (after or 0.0)) > TOLERANCE:
            return Check(event, False, f"{name} was {before}, from the rows it is now {after}")
    if kept["answer"] != verdict.answer:
        return Check(event, False, f"the verdict was {kept['answer']}, from the rows it is now {verdict.answer}")
    if details["chain"] != chain:
        return Check(event, False, f"the verdict is the same, but a row up to {details['settled']:,} has changed since")
    return Check(event, True, f"{verdict.answer}, from {details['seen']:,} rows")
