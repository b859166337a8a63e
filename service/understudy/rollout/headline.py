"""The headline and the current verdict, from the plan in force, its decision and the last verdict. Pure."""

from understudy.domain import SHARE_ONE, Event, Phase, Plan
from understudy.rollout.documents import ShownState, VerdictDocument

JUDGE = "judge"
REASON_MAX_CHARS = 90
"""A longer reason of an operator is left out of the headline; the verdict has it."""
_WAITS = {
    "loadtest": "waits for a load test",
    "approval": "waits for approval by an operator",
    "operator": "waits for an operator",
    "labels": "waits for labels",
    "requests": "waits for requests",
    "time": "waits until its time is over",
}
_DONE = {
    "started": "started",
    "advance": "advanced",
    "finish": "promoted",
    "wait": "stopped for approval",
    "rollback": "rolled back",
    "release": "released the old primary",
    "promote": "advanced by hand",
    "promote_full": "promoted by hand",
    "weight": "set by hand",
    "shadow": "sent back to shadow",
    "pause": "paused",
    "resume": "resumed",
    "abort": "aborted",
    "retry": "started again",
    "undo": "promotion taken back",
}


def headline(plan: Plan, verdict: VerdictDocument, decision: Event | None, primary: str, candidate: str | None) -> str:
    """One sentence: where the rollout stands and what it waits for.

    Args:
        plan: the plan in force.
        verdict: the result of `current`.
        decision: the event that put the plan in force.
        primary: name of the primary.
        candidate: name of the candidate; None if there is none.
    """
    at = f"{plan.weight * 100 / SHARE_ONE:g} %"
    who = decision.actor if decision else "an operator"
    kind = decision.kind if decision else ""
    taken = "The promotion was taken back" if kind == "undo" else "Aborted"
    standing = {
        Phase.SERVING: f"{primary} answers every request; there is no candidate",
        Phase.PROMOTED: f"Promoted: {candidate} answers every request",
        Phase.ABORTED: f"{taken} by {who}{_because(decision)}",
        Phase.PAUSED: f"Paused by {who} with {candidate} at {at}{_because(decision)}",
        Phase.WAITING: f"{candidate} at {at}: {_WAITS['approval']}",
    }
    if plan.phase is Phase.ABORTED and kind == "rollback":
        return f"Rolled back: {primary} answers every request"
    if plan.phase in standing:
        return standing[plan.phase]
    where = f"{candidate} rehearses" if plan.phase is Phase.SHADOW else f"{candidate} answers {at}"
    what = {"advance": "ready to advance", "rollback": "harm was found"}.get(verdict["answer"])
    waits = [_WAITS[each] for each in verdict.get("waits_for", ()) if each in _WAITS]
    return f"{where}: {what or (waits[0] if waits else 'not decided yet')}"


def _because(decision: Event | None) -> str:
    reason = decision.reason.strip() if decision else ""
    return f": {reason}" if reason and len(reason) <= REASON_MAX_CHARS else ""


def current(plan: Plan, kept: ShownState | None, decision: Event | None) -> VerdictDocument:
    """The verdict for the plan in force. After a decision changed the plan, the verdict says so before the judge looks again.

    Args:
        plan: the plan in force.
        kept: what the judge kept last; None if it never looked.
        decision: the event that put the plan in force.
    """
    fresh = kept is not None and kept.get("revision", plan.revision) == plan.revision
    last = kept["verdict"] if kept else None
    if last is not None and fresh and plan.phase in {Phase.SHADOW, Phase.CANARY, Phase.WAITING}:
        return last
    hold: VerdictDocument = {
        "answer": "hold",
        "reason": "nothing has been judged yet: no pair has been recorded",
        "labels_left": None,
        "requests_left": None,
        "seconds_left": None,
        "waits_for": [],
    }
    if kept is None and (decision is None or decision.kind == "started"):
        return hold
    done = _done(plan, decision)
    if plan.phase is Phase.PAUSED:
        reason, waits_for = f"{done}; `resume` continues", ["operator"]
    elif plan.phase is Phase.PROMOTED:
        promoted = f"{done}; the old primary {'was released' if plan.released else 'keeps rehearsing'}"
        reason, waits_for = last["reason"] if last is not None and fresh and not plan.released else promoted, []
    elif plan.phase is Phase.ABORTED:
        reason, waits_for = done, []
    elif plan.phase is Phase.WAITING:
        reason, waits_for = "the evidence is sufficient; the next step waits for approval by an operator", ["approval"]
    else:
        reason, waits_for = f"{done}: nothing has been judged since", []
    if last is not None and fresh and last["answer"] == "rollback":
        return last
    hold["reason"], hold["waits_for"] = reason, waits_for
    return hold if last is None else last | hold


def _done(plan: Plan, decision: Event | None) -> str:
    if decision is None:
        return plan.phase.value
    what = _DONE.get(decision.kind, decision.kind)
    who = "the judge" if decision.actor == JUDGE else decision.actor
    return f"{what} by {who}" + (f": {decision.reason.strip()}" if decision.reason.strip() else "")
