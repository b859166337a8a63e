"""A6, sibling: rows on which both models raise counted as late answers of the candidate, whose limit is 1 %: it was rolled back.

Right: such a row is charged to both for `errors`, and says nothing about latency. One on which only the candidate fails does.
"""

import pytest

from tests.unit.rollout.world import answer, folded, policy, row
from understudy.domain import Phase, Status
from understudy.rollout.controller import judge_at
from understudy.rollout.tail import Tail

EVERY = 20
"""One row in so many fails."""


@pytest.mark.parametrize(("primary", "verdict"), [(Status.FAILED, "hold"), (Status.OK, "rollback")])
def test_only_rows_that_the_primary_answered_say_something_about_latency(primary: Status, verdict: str) -> None:
    """5 % of the rows fail at the candidate; the primary fails on the same ones, or answers all."""
    own = policy(errors={"margin": 0.3})
    bad = {"primary": answer(primary), "candidate": answer(Status.FAILED)}
    evidence = folded(own, [row(i, **(bad if i % EVERY == 0 else {})) for i in range(1, 2_000)])
    latency = next(r for r in evidence.readings(Tail()) if r.metric == "latency")

    assert latency.estimate == pytest.approx(0.0 if primary is Status.FAILED else 1 / EVERY, abs=0.002)
    assert judge_at(own, evidence, Tail(), Phase.SHADOW, -1).answer == verdict
    errors = next(r for r in evidence.readings(Tail()) if r.metric == "errors")
    assert errors.estimate == pytest.approx(0.0 if primary is Status.FAILED else 1 / EVERY, abs=0.002)
