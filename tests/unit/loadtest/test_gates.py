"""The verdict: pass, fail, invalid, each for its reason; and a percentile only where enough requests lie beyond it."""

from dataclasses import replace
from typing import Any

import pytest

from understudy.loadtest.gates import ServiceUse, latencies, measure, verdict
from understudy.loadtest.histogram import Histogram
from understudy.loadtest.tally import GeneratorUse, Tally, merged
from understudy.rollout.loadtest import LaunchGoals

GOALS = LaunchGoals(
    throughput_rps=100,
    p50_ms=None,
    p95_ms=None,
    p99_ms=50,
    error_rate=0.001,
    fallback_rate=0.01,
    shadow_loss=0.01,
    machine_per_hour=0.1,
    max_per_million=1,
)
CALM = ServiceUse({"understudy": 0.4, "candidate": 0.2}, {}, cores=2, busy=0.8, others=0.0, here=True)
CROWDED = replace(CALM, processes={"understudy": 0.75, "candidate": 0.65})
FULL = replace(CALM, processes={"understudy": 0.97, "candidate": 0.2})
ONE_ROW = replace(CALM, processes={"understudy": 0.76, "records": 0.11})
GENERATOR = {"cpu_share": 0.3, "waited_share": 0.01, "clock_drift_s": 0.0}


def seen(n: int = 3_000, slow: int = 0, *, lag_ms: float = 0.1, failed: int = 0, **generator: Any) -> Tally:
    """30 seconds at 100 a second: `slow` answers took 80 ms, the others 2."""
    tally = Tally(due=n, ok=n - failed, rows=n - failed, generators=[GeneratorUse(**(GENERATOR | generator))])
    for number in range(n - failed):
        tally.answered(number / 100, "primary", 0.08 if number < slow else 0.002)
        tally.lag.add(lag_ms / 1000)
    if failed:
        tally.failed("503: no", failed)
    return tally


def judged(tally: Tally, use: ServiceUse = CALM, seconds: float = 30, **more: Any) -> tuple[str, str]:
    answer, reasons, _ = verdict(
        GOALS, measure(tally, seconds, shadow_loss=0.0, records_loss=0.0, machine_per_hour=0.1), tally, use, **more
    )
    return answer, "; ".join(reasons)


def test_every_goal_met_is_a_pass() -> None:
    """With nothing to say; as many as one in a hundred may be slow."""
    assert judged(seen()) == ("pass", "")
    assert judged(seen(slow=30)) == ("pass", "")


@pytest.mark.parametrize(
    ("tally", "use", "says"),
    [
        (seen(slow=31), CALM, "p99 is 80.0 ms, the goal is 50 ms"),
        (seen(failed=60), CALM, "98.0 requests/s were answered in time, the goal is 100.0"),
        (seen(failed=60), CALM, "most errors: 60 × 503: no"),
        (seen(slow=300), FULL, "`understudy` used 0.97 cores, which is the limit of one process's interpreter"),
        (seen(slow=300, lag_ms=9), FULL, "the service pushed the generator aside"),
        (
            seen(slow=300),
            replace(CALM, processes={"understudy": 0.8, "candidate": 0.75}),
            "used 1.55 of the 1.70 cores",
        ),
        (
            seen(slow=300, lag_ms=9, waited_share=0.29),
            CROWDED,
            "used 1.40 of the 1.70 cores that the generator left it, which waited for one 29% of the time",
        ),
    ],
)
def test_a_missed_goal_is_a_fail_with_what_was_at_its_limit(tally: Tally, use: ServiceUse, says: str) -> None:
    """The goal in numbers; a generator that a full service pushed aside excuses nothing."""
    answer, reasons = judged(tally, use)

    assert answer == "fail"
    assert says in reasons


@pytest.mark.parametrize(
    ("tally", "use", "more", "says"),
    [
        (seen(lag_ms=5.2), CALM, {}, "one request in a hundred was sent 5.2 ms late (5 ms are allowed)"),
        (seen(slow=300, lag_ms=9), CALM, {}, "the generator was the limit"),
        (seen(slow=300, lag_ms=9, waited_share=0.29), CALM, {}, "the generator was the limit"),
        (seen(slow=300, lag_ms=9, waited_share=0.1), CROWDED, {}, "the generator was the limit"),
        (seen(cpu_share=0.95), CALM, {}, "used 95% of a core"),
        (seen(cpu_share=0.95), CALM, {}, "add generators (--processes 2)"),
        (seen(cpu_share=0.87, waited_share=0.147), ONE_ROW, {}, "the generator was the limit"),
        (
            seen(slow=300, cpu_share=0.87, waited_share=0.147),
            ONE_ROW,
            {},
            "it shares the machine with the service: add cores",
        ),
        (seen(lag_ms=30, waited_share=0.6), CALM, {}, "something else used its CPU"),
        (seen(gave_up=True), CALM, {}, "the generator was the limit"),
        (seen(clock_drift_s=-0.2), CALM, {}, "the clock was set or drifted by 200 ms"),
        (seen(), replace(CALM, others=0.4), {}, "other programs used 0.40 of its 2 cores"),
        (seen(), replace(CALM, stolen=0.2), {}, "its hypervisor took 0.20 of its 2 cores"),
        (seen(1_999), CALM, {}, "too short for p99: 1,999 requests, but 2,000 are needed"),
        (
            seen(),
            replace(CALM, changed="workers is 2, not 1"),
            {},
            "the service changed during the test: workers is 2, not 1",
        ),
        (seen(), CALM, {"lost": 1}, "1 of 2 generators were lost"),
        (seen(), CALM, {"candidate": "the candidate took no part"}, "the candidate took no part"),
    ],
)
def test_a_test_that_says_nothing_is_invalid_and_says_why(
    tally: Tally, use: ServiceUse, more: dict[str, Any], says: str
) -> None:
    """Before pass, and before fail: the number is no number of the service's. With what to add or to stop."""
    answer, reasons = judged(tally, use, **more)

    assert answer == "invalid"
    assert says in reasons


def test_a_percentile_takes_enough_requests_beyond_it() -> None:
    """Twenty: p50 from 40 on, p95 from 400, p99 from 2,000, p99.9 from 20,000."""
    for n, expected in ((39, 0), (40, 1), (400, 2), (1_999, 2), (2_000, 3), (20_000, 4)):
        found = latencies(Histogram([0.001] * n))
        assert [found.p50_ms, found.p95_ms, found.p99_ms, found.p999_ms].count(None) == 4 - expected


def test_tallies_add_up() -> None:
    """Two halves are the whole: every count, histogram and interval, whoever saw what, after a journey as JSON."""
    first, second = seen(1_000, slow=10), seen(2_000, failed=5)
    both = merged([first, Tally.of(second.as_json())])

    assert (both.due, both.ok, both.rows) == (3_000, 2_995, 2_995)
    assert both.latency.counts == Histogram.of(first.latency.as_json()).merge(second.latency).counts
    assert both.errors == {"503: no": 5}
    assert sum(h.n for one in both.intervals.values() for h in one.latency.values()) == both.latency.n == 2_995
    assert len(both.generators) == 2
    assert (first.due, second.due) == (1_000, 2_000)
    assert merged([]).due == 0
