"""The state machine of a rollout: a table of phase × order → phase. Pure.

Theory of operation
-------------------
A rollout rehearses (SHADOW), answers a growing share (CANARY), and ends PROMOTED or ABORTED. An operator may pause it at any time
(PAUSED), which keeps the weight. Before a step that requires approval it waits for an operator (WAITING). An order that the table
does not list is rejected with the list of allowed ones. PROMOTED is left only by `undo` and after harm, ABORTED only by `retry`;
neither resets the evidence. SERVING is a service without a candidate: its row is empty.

The table only says whether an order is allowed. Weight and step are in the plan, which `understudy.rollout.controller` computes.
"""

import enum
from collections.abc import Mapping

from understudy.domain import Phase
from understudy.errors import NotAllowedNow


class Order(enum.StrEnum):
    """An order to a rollout. The first five come from the judge, the others from operators."""

    ADVANCE = "advance"  # to a canary step
    FINISH = "finish"  # past the last step
    WAIT = "wait"  # the next step requires approval
    ROLL_BACK = "rollback"
    RELEASE = "release"  # the bake after a promotion is over: the old primary is released
    PROMOTE = "promote"  # an operator advances one step
    PROMOTE_FULL = "promote_full"
    WEIGHT = "weight"
    SHADOW = "shadow"  # a weight of 0: rehearse only
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
"""The orders of operators. A weight of 0 is `SHADOW`."""

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
    # An operator decides here; harm still rolls back.
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
        NotAllowedNow: if the table does not list it.
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
