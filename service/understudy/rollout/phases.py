"""Where a rollout may go from where it is: a table of phase × event → phase. Pure.

Theory of operation
-------------------
A rollout rehearses (SHADOW), answers a growing share (CANARY), and ends PROMOTED or ABORTED. It may be PAUSED by a person at any
time, which keeps the weight as it is, or WAIT for a person's approval before a step that requires it. What the table does
not list is not allowed, and is refused with the list of what is. PROMOTED is left only by `undo` and by harm, ABORTED only by
`retry`; neither resets the evidence, which is kept by the models' digests. SERVING is a service without a candidate: its
row is empty.

The weight and the step travel in the plan, not here: the table says *whether*, `understudy.rollout.controller` says *how far*.
"""

import enum
from collections.abc import Mapping

from understudy.domain import Phase
from understudy.errors import NotAllowedNow


class Order(enum.StrEnum):
    """What can happen to a rollout. The first five come from the judge, the others from people."""

    ADVANCE = "advance"  # to a canary step
    FINISH = "finish"  # past the last step
    WAIT = "wait"  # the next step requires a person
    ROLL_BACK = "rollback"
    RELEASE = "release"  # a promotion has baked: the old primary is let go
    PROMOTE = "promote"  # a person advances one step
    PROMOTE_FULL = "promote_full"
    WEIGHT = "weight"
    SHADOW = "shadow"  # a weight of nothing: rehearse only
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    RETRY = "retry"
    UNDO = "undo"


PEOPLE = (
    Order.PROMOTE,
    Order.PROMOTE_FULL,
    Order.WEIGHT,
    Order.PAUSE,
    Order.RESUME,
    Order.ABORT,
    Order.RETRY,
    Order.UNDO,
)
"""The orders that a person gives; a weight of nothing is `SHADOW`."""

_RUNNING: dict[Order, Phase] = {
    Order.ADVANCE: Phase.CANARY,
    Order.FINISH: Phase.PROMOTED,
    Order.WAIT: Phase.WAITING,
    Order.ROLL_BACK: Phase.ABORTED,
    Order.PROMOTE: Phase.CANARY,
    Order.PROMOTE_FULL: Phase.PROMOTED,
    Order.WEIGHT: Phase.CANARY,
    Order.SHADOW: Phase.SHADOW,
    Order.PAUSE: Phase.PAUSED,
    Order.ABORT: Phase.ABORTED,
}

TABLE: Mapping[Phase, Mapping[Order, Phase]] = {
    Phase.SERVING: {},
    Phase.SHADOW: _RUNNING,
    Phase.CANARY: _RUNNING,
    # A person decides here; harm still rolls back.
    Phase.WAITING: {
        order: phase for order, phase in _RUNNING.items() if order not in {Order.ADVANCE, Order.FINISH, Order.WAIT}
    },
    Phase.PAUSED: {
        Order.RESUME: Phase.CANARY,
        Order.ROLL_BACK: Phase.ABORTED,
        Order.ABORT: Phase.ABORTED,
        Order.WEIGHT: Phase.CANARY,
        Order.SHADOW: Phase.SHADOW,
        Order.PROMOTE_FULL: Phase.PROMOTED,
    },
    Phase.PROMOTED: {Order.RELEASE: Phase.PROMOTED, Order.UNDO: Phase.ABORTED, Order.ROLL_BACK: Phase.ABORTED},
    Phase.ABORTED: {Order.RETRY: Phase.SHADOW},
}


def after(phase: Phase, order: Order) -> Phase:
    """The phase that `order` leads to.

    Raises:
        NotAllowedNow: when the table does not list it; nothing changes then.
    """
    row = TABLE[phase]
    if order not in row:
        allowed = ", ".join(sorted(o.value for o in row)) or "nothing: there is no candidate"
        raise NotAllowedNow(f"{order.value} is not allowed while the rollout is {phase.value}; allowed: {allowed}")
    return row[order]


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> shadow"]
    for phase, row in TABLE.items():
        arrows: dict[Phase, list[str]] = {}
        for order, target in row.items():
            arrows.setdefault(target, []).append(order.value)
        lines += [f"    {phase.value} --> {target.value}: {', '.join(orders)}" for target, orders in arrows.items()]
    return "\n".join(lines)
