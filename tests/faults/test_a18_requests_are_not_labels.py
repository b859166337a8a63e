"""An errors goal that was short of evidence asked for "more labels". It waits for requests, and the sentence says so."""

from tests.unit.rollout.world import policy
from understudy.domain import Phase
from understudy.rollout.judge import judge
from understudy.rollout.reading import MetricReading, Standing

STANDING = Standing(elapsed_s=1_000.0, labels=1_000, step_labels=1_000, step_requests=1_000)


def reading(metric, advance, **changes):
    fields = {
        "estimate": 0.0,
        "low": -0.01,
        "high": 0.01,
        "n": 1_000,
        "pending": 0,
        "line": 0.02,
        "log_e_harm": 0.0,
        "gap": 0.02,
        "variance": 0.1,
    }
    return MetricReading(metric=metric, log_e_advance=advance, **fields | changes)


def judged(*readings):
    return judge(policy([{"shadow": 100}, {"canary": 5}]), Phase.SHADOW, 0, readings, STANDING)


def test_failures_and_latency_wait_for_requests():
    for metric in ("errors", "latency", "latency_p99"):
        verdict = judged(reading("zero_one", 9.0), reading(metric, 0.5))
        assert verdict.waits_for == ("requests",)
        assert (verdict.left.labels, verdict.left.requests > 0) == (0, True)
        assert f"about {verdict.left.requests:,} more requests, " in verdict.reason
        assert "more labels" not in verdict.reason
        assert verdict.as_dict()["requests_left"] == verdict.left.requests


def test_losses_wait_for_labels():
    verdict = judged(reading("zero_one", 0.5), reading("errors", 9.0))
    assert (verdict.waits_for, verdict.left.requests) == (("labels",), 0)
    assert f"about {verdict.left.labels:,} more labels, " in verdict.reason


def test_both_are_named_where_both_are_missing():
    verdict = judged(reading("zero_one", 0.5), reading("errors", 0.6))
    assert verdict.waits_for == ("labels", "requests")
    assert f"about {verdict.left.labels:,} more labels and {verdict.left.requests:,} more requests" in verdict.reason


def test_before_anything_has_counted_nothing_is_forecast():
    verdict = judged(reading("zero_one", 9.0), reading("errors", 0.0, n=0))
    assert verdict.reason.endswith("not decided yet; no requests have counted yet")
