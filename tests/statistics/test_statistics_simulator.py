"""The simulator in numpy and the classes that decide are one and the same: to 1e-9, step by step."""

import numpy as np
import pytest

from tests.statistics.simulate import (
    AttributionWalk,
    Delays,
    LateWalk,
    MeanWalk,
    delayed,
    in_order_of_arrival,
    settled_crossing,
    shortcut,
)
from understudy.rollout.sequential import AttributionEvidence, IpwDifference, LateHarm, MeanEvidence

LABELS, ROLLOUTS = 1500, 4


def log(e):
    return np.log(e)


@pytest.mark.parametrize("kind", ["ternary", "continuous"])
@pytest.mark.parametrize("line", [0.0, 0.02])
def test_mean_and_late_harm(kind, line):
    rng = np.random.default_rng(1)
    above, below = MeanWalk(ROLLOUTS, 0.05, line, "above"), MeanWalk(ROLLOUTS, 0.05, line, "below")
    late = LateWalk(ROLLOUTS, 0.05, line)
    means, lates = [MeanEvidence() for _ in range(ROLLOUTS)], [LateHarm(line) for _ in range(ROLLOUTS)]
    for _ in range(LABELS):
        if kind == "ternary":
            row = rng.choice(np.array([0, 1, -1], dtype=np.int8), ROLLOUTS, p=[0.8, 0.11, 0.09])
        else:
            row = rng.uniform(-0.9, 1.0, ROLLOUTS)
        for walk in (above, below, late):
            walk.step(row)
        for i, x in enumerate(row):
            means[i].update(float(x))
            lates[i].update(float(x))
        assert log(above.e()) == pytest.approx([e.log_e_above(line) for e in means], abs=1e-9)
        assert log(below.e()) == pytest.approx([e.log_e_below(line) for e in means], abs=1e-9)
        assert log(late.e()) == pytest.approx([e.log_e() for e in lates], abs=1e-9)


def test_ipw_and_attribution_on_a_ramp():
    rng = np.random.default_rng(2)
    walk, late = MeanWalk(1, 0.05, 0.02, "below", bound=20.0), AttributionWalk(1, 0.05, 1.0, "above")
    fewer = AttributionWalk(1, 0.05, 1.5, "below")
    ipw, errors = IpwDifference(0.05), AttributionEvidence()
    losses = 0
    for t in range(LABELS):
        share = (0.05, 0.25, 0.5)[t * 3 // LABELS]
        candidate, failed = rng.random() < share, rng.random() < 0.2
        centre = losses / t if t else 0.5
        value = (failed - centre) / share if candidate else (centre - failed) / (1 - share)
        walk.step(np.array([value]))
        for one in (late, fewer):
            one.see(np.array([failed]), np.array([candidate]), share)
        ipw.update(candidate, float(failed), share)
        if failed:
            errors.update(candidate, share)
        losses += failed
    assert log(walk.e())[0] == pytest.approx(ipw.log_e_below(0.02), abs=1e-9)
    assert log(late.e())[0] == pytest.approx(errors.log_e_above(1.0), abs=1e-9)
    assert log(fewer.e())[0] == pytest.approx(errors.log_e_below(1.5), abs=1e-9)


@pytest.mark.parametrize("ages", [(0,), (40, 120)])
@pytest.mark.parametrize("side", ["above", "below"])
def test_settled_is_pending_as_the_worst(side, ages):
    """Replayed request by request with `assuming`, against the simulator's first crossing."""
    rng, labels = np.random.default_rng(3), 600
    points, line, worst = (-0.08, 0.02, 1.0) if side == "below" else (0.08, 0.0, -1.0)
    drawn, arrival = delayed(rng, labels, 3, points=points, differ=0.1, delays=Delays(60, 30, 30))
    first = settled_crossing(drawn, arrival, labels, m=line, side=side, alpha=0.05, ages=ages)
    for column in range(3):
        crossed = 0
        for t in range(1, labels + 1):
            for age in ages:
                known, pending = MeanEvidence(), 0
                for d, when in zip(drawn[: max(0, t - age), column], arrival[:, column], strict=False):
                    if d == 0 or when <= t:
                        known.update(int(d))
                    else:
                        pending += 1
                known = known.assuming(worst, pending)
                log_e = known.log_e_below(line) if side == "below" else known.log_e_above(line)
                if not crossed and log_e >= np.log(20):
                    crossed = t
            if crossed:
                break
        assert first[column] == crossed
    assert first.any()


def test_orders_of_arrival():
    drawn = np.array([[1], [0], [-1], [0]], dtype=np.int8)
    arrival = np.array([[9.0], [8.0], [3.5], [4.5]])

    assert in_order_of_arrival(drawn, arrival, 3)[:, 0].tolist() == [-1, 0, 0]
    assert shortcut(drawn, arrival, 3)[:, 0].tolist() == [0, -1, 0]
