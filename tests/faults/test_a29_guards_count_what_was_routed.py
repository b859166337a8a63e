"""With 30 % of the rehearsals dropped, identical models were held by the split guard, which counted pairs.

The guards count what was routed, whatever became of the rehearsals.
"""

import pytest

from tests.faults.test_a30_drops_are_missing_at_their_worst import canary, own
from tests.unit.rollout.world import folded


@pytest.mark.parametrize("lost", [{"dropped": 0.3}, {"away": 0.3}], ids=["dropped", "away"])
def test_the_split_guards_count_what_was_routed(lost: dict[str, float]) -> None:
    """A quarter was planned and a quarter was routed, whatever became of the rehearsals."""
    evidence = folded(own(), canary(6_000, **lost))  # type: ignore[arg-type]
    assert evidence.settled == 6_000
    assert evidence.served.labelled.n == 6_000
    assert evidence.standing(evidence.tail([])).doubts == ()
