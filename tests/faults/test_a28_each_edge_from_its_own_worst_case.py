"""With labels missing, both edges of the shown band came from the worst case, so it excluded the truth in 36 of 40 runs.

Each edge comes from its own worst case, and the estimate from the pairs whose value is known.
"""

import random

import pytest

from tests.unit.rollout.world import START, folded, pair, policy, row

BRIER = policy(quality={"loss": "brier", "margin": 0.02})
WAIT = 3600.0
RUNS, PAIRS, MISSING = 40, 400, 0.2


def reading(seed: int, worse: float = 0.0) -> tuple[float, float, float, float]:
    """Low edge, estimate, high edge and true mean difference of one rollout with labels missing at random."""
    chance = random.Random(seed)
    rows, truth = [], 0.0
    for number in range(1, PAIRS + 1):
        label = int(chance.random() < 0.5)
        primary, candidate = (min(0.99, max(0.01, chance.gauss(0.7, 0.2))) for _ in range(2))
        candidate = min(0.99, max(0.01, candidate - worse))
        if not label:
            primary, candidate = 1.0 - primary, 1.0 - candidate
        truth += (candidate - label) ** 2 - (primary - label) ** 2
        shown = None if chance.random() < MISSING else label
        rows.append(row(number, label=shown, primary=primary, candidate=candidate))
    rows.append((PAIRS + 1, pair(PAIRS + 1, at=START + 3 * WAIT), None))
    evidence = folded(BRIER, rows)
    assert evidence.settled == PAIRS
    found = next(r for r in evidence.readings(evidence.tail([])) if r.metric == "brier")
    return found.low, found.estimate, found.high, truth / PAIRS


@pytest.mark.parametrize("worse", [0.0, 0.15])
def test_the_band_holds_the_truth_when_labels_are_missing(worse: float) -> None:
    """At 2.5 % on each side at most two in forty may miss; the worst cases make it rarer still."""
    runs = [reading(seed, worse) for seed in range(RUNS)]
    assert sum(low <= truth <= high for low, _, high, truth in runs) >= RUNS - 2
    assert all(low <= estimate <= high for low, estimate, high, _ in runs)
    mean_error = sum(estimate - truth for _, estimate, _, truth in runs) / RUNS
    assert mean_error == pytest.approx(0.0, abs=0.01)
