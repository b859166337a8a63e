"""Wrong verdicts of whole rollouts: labels that come late, bad news later than good, some never; looked at again and again.

Through `Evidence` and `judge`, as the controller uses them: the settled prefix, its tail, the wait, and every gate. Counts are
held to a binomial bound as in `test_statistics_rollouts`: a true rate of exactly its budget fails with chance below 1e-6.
Beside them stand rollouts that must be decided, and a way to count that must be seen to be wrong on the same streams.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from tests.unit.rollout.world import MODELS, START, pair, policy
from understudy.domain import LabelReport, Phase
from understudy.rollout.evidence import Evidence
from understudy.rollout.judge import judge
from understudy.rollout.sequential import MeanEvidence, RateEvidence

BUDGET = 0.05
MARGIN = 0.1
DIFFER = 0.3
MISSING = 0.03
WAIT = 90  # pairs, one a second
KINDS = np.array(["worse", "better", "same"])


@dataclass(frozen=True)
class Size:
    rollouts: int
    pairs: int
    every: int  # pairs between two looks


SMALL = Size(70, 420, 60)
FULL = Size(2_000, 2_000, 50)


@pytest.fixture(autouse=True)
def _no_bands(monkeypatch):
    """The bands decide nothing and cost half of the time."""
    for kind in (MeanEvidence, RateEvidence):
        monkeypatch.setattr(kind, "band", lambda self, alpha: (0.0, 0.0))


def rollout(rng, size, difference, own, slow):
    """One rollout: which verdicts were ever reached. `slow` is how many pairs the label of a kind of pair takes on average."""
    worse = (DIFFER + difference) / 2
    kinds = KINDS[rng.choice(3, size.pairs, p=[worse, DIFFER - worse, 1 - DIFFER])]
    delays = rng.exponential([slow.get(kind, 5.0) for kind in kinds])
    delays[rng.random(size.pairs) < MISSING] = np.inf
    observations = [pair(i, str(kind)) for i, kind in enumerate(kinds, 1)]
    reports = [LabelReport(o.prediction_id, 1, o.at + delay) for o, delay in zip(observations, delays, strict=True)]
    evidence = Evidence(own, MODELS)
    for latency in evidence.attempts.latency.parts(in_step=True):
        latency.update(False, times=100_000)  # so that quality alone decides
    reached = set()
    for now in range(size.every, size.pairs + 1, size.every):
        known = [
            (i + 1, observations[i], reports[i] if reports[i].at <= START + now else None)
            for i in range(evidence.settled, now)
        ]
        evidence.see(known[evidence.seen - evidence.settled :])
        known = known[evidence.settle(known) :]
        tail = evidence.tail(known)
        reached.add(judge(own, Phase.SHADOW, 0, evidence.readings(tail), evidence.standing(tail)).answer)
    return reached


def reached(seed, size, difference, *, slow=None, loss="zero_one", count="settled", harm="margin", n=None):
    """How many rollouts ever advanced, and how many ever rolled back. The scale of a Brier difference here is 0.6."""
    scale = 0.6 if loss == "brier" else 1.0
    line = harm if harm == "margin" else harm * scale
    own = policy(
        [{"shadow": 100}, {"canary": 5}],
        {"wait": WAIT, "count": count},
        error_budget=BUDGET,
        quality={"loss": loss, "margin": MARGIN * scale, "harm": line},
    )
    rng = np.random.default_rng(seed)
    found = Counter()
    for _ in range(n or size.rollouts):
        found.update(rollout(rng, size, difference, own, slow or {}))
    return found


def within_budget(count, n):
    return count <= stats.binom.isf(1e-6, n, BUDGET / 2)


BAD_NEWS_LATE = {"worse": 60.0}
GOOD_NEWS_LATE = {"better": 60.0}


def check_a_candidate_at_the_margin(size, seed, loss):
    """Half of its bad news comes so late that nothing else would wait for it; some of it not at all."""
    found = reached(seed, size, MARGIN, slow=BAD_NEWS_LATE, loss=loss)
    assert within_budget(found["advance"], size.rollouts)
    assert within_budget(found["rollback"], size.rollouts)


def check_no_difference(size, seed, harm):
    """Its good news comes late: on arrival it would look worse than it is."""
    found = reached(seed, size, 0.0 if harm == "margin" else harm, slow=GOOD_NEWS_LATE, harm=harm)
    assert within_budget(found["rollback"], size.rollouts)


@pytest.mark.parametrize("loss", ["zero_one", "brier"])
def test_a_candidate_at_the_margin_is_rarely_advanced_and_rarely_rolled_back(loss):
    check_a_candidate_at_the_margin(SMALL, 1, loss)


@pytest.mark.parametrize("harm", ["margin", 0.0])
def test_a_candidate_without_a_difference_is_rarely_rolled_back(harm):
    check_no_difference(SMALL, 2, harm)


def test_the_same_streams_counted_on_arrival_are_promoted_and_rolled_back_wrongly():
    """Where delay speaks of the outcome: so the streams above are hard, and a check that cannot fail is none."""
    n = 60
    wrong = reached(1, SMALL, MARGIN, slow={"worse": 120.0}, count="on_arrival", n=n)
    assert not within_budget(wrong["advance"], n)
    wrong = reached(2, SMALL, 0.0, slow={"better": 120.0}, count="on_arrival", harm=0.0, n=n)
    assert not within_budget(wrong["rollback"], n)


def test_a_true_difference_is_found_in_spite_of_late_and_missing_labels():
    n = 40
    good = reached(3, SMALL, -0.1, slow=BAD_NEWS_LATE, n=n)
    bad = reached(4, SMALL, 0.25, slow=BAD_NEWS_LATE, harm=0.0, n=n)
    assert good["advance"] > 0.8 * n
    assert good["rollback"] == 0
    assert bad["rollback"] > 0.5 * n
    assert bad["advance"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["zero_one", "brier"])
def test_a_candidate_at_the_margin_full_size(loss):
    check_a_candidate_at_the_margin(FULL, 5, loss)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["margin", 0.0])
def test_a_candidate_without_a_difference_full_size(harm):
    check_no_difference(FULL, 6, harm)
