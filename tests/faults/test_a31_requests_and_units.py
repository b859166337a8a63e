"""With `unit` set, a customer with 60 % of the traffic, all of whose requests failed, read as 0.25 % failures for ever.

The sentence says what counts once, and failures over all requests, interval by interval, still roll back.
"""

import random

import pytest

from tests.unit.rollout.world import answer, folded, pair, policy
from understudy.domain import Attempt, Status
from understudy.rollout.evidence import EvidenceRow
from understudy.rollout.judge import Verdict, judge

OWN = policy(errors={"margin": 0.01}, latency={"p99_ms": 500})
GOOD, FAILED = Attempt(Status.OK, 1, 0.8, None, 0.01), answer(Status.FAILED)


def traffic(seconds: int, failing: float, customers: int = 400, seed: int = 1, both: bool = False) -> list[EvidenceRow]:
    """Four requests a second; one customer sends 60 %, and its requests fail with a chance (of the candidate, or of `both`)."""
    chance, rows = random.Random(seed), []
    for number in range(1, seconds * 4 + 1):
        big = chance.random() < 0.6
        failed = big and chance.random() < failing
        own = pair(
            number,
            at=1e6 + number / 4,
            unit="big" if big else f"u{chance.randrange(customers)}",
            primary=FAILED if failed and both else GOOD,
            candidate=FAILED if failed else GOOD,
        )
        rows.append((number, own, None))
    return rows


def verdict(rows: list[EvidenceRow]) -> Verdict:
    evidence = folded(OWN, rows)
    tail = evidence.tail([])
    return judge(OWN, "shadow", 0, evidence.readings(tail), evidence.standing(tail))  # type: ignore[arg-type]


def test_a_customer_whose_requests_all_fail_rolls_back_though_it_is_one_unit() -> None:
    found = verdict(traffic(900, failing=1.0))
    errors = next(m for m in found.metrics if m.metric == "errors")
    assert errors.estimate < 0.01
    assert "the first request of each `user` a day" in errors.reason
    assert found.answer == "rollback"
    assert "intervals of 10 s the candidate fails" in found.reason
    assert "of all requests" in found.reason


@pytest.mark.parametrize(
    ("failing", "both"), [(0.0, False), (0.01, False), (1.0, True)], ids=["none", "few", "both fail"]
)
def test_within_the_margin_and_where_both_fail_nothing_happens(failing: float, both: bool) -> None:
    """0.6 % of all requests, in bursts of one customer, at a margin of 1 %; and rows that no model can do."""
    for seed in range(5):
        assert verdict(traffic(1_800, failing, seed=seed, both=both)).answer != "rollback"
