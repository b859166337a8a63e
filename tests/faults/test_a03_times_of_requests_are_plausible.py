"""A single `X-Rollout-At` in milliseconds ended waits, steps and a bake at once.

Times that are far from the clock are refused with a hint, and no time base moves on by one request's word for it.
"""

import time
from types import SimpleNamespace

import pytest

from tests.unit.rollout.world import START, folded, policy, row
from understudy.errors import MalformedRequest
from understudy.rollout.timebase import GAP_S, ElapsedTime
from understudy.testing import pipeline
from understudy.times import TimeLimits

NOW = 1_795_806_504.0
DAY = 86_400.0


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (NOW * 1e3, "looks like milliseconds: divide by 1000"),
        (NOW * 1e6, "looks like microseconds"),
        (NOW * 1e9, "looks like nanoseconds"),
        (4e9, "far ahead of"),
        (1e300, "far ahead of"),
        (float("nan"), "finite"),
        (float("-inf"), "finite"),
        (-1.0, "before 2000"),
        (NOW / 1000, "multiply by 1000"),
        (NOW + 7200, "2.0 hours ahead of this service's clock (2026-11-27T19:08:24Z); is a time zone missing?"),
        (NOW + 301, "do both machines' clocks agree?"),
    ],
)
def test_a_time_far_from_the_clock_is_refused_with_the_likely_mistake(at, says):
    assert says in TimeLimits().problem(at, NOW)


@pytest.mark.parametrize("at", [NOW, NOW + 299, NOW - 13 * 365 * DAY, 946_684_800.0])
def test_the_past_is_allowed_for_history(at):
    assert TimeLimits().problem(at, NOW) is None


def _path():
    """A pipeline, for the part of it that reads a request's time."""
    nothing = SimpleNamespace()
    clock = SimpleNamespace(now=lambda: NOW, perf=time.perf_counter)
    return pipeline(nothing, None, None, nothing, clock=clock)


@pytest.mark.parametrize("said", ["1795806504000", "1e300", "inf", "nan", "-5", "soon", ""])
def test_the_request_path_refuses_it(said):
    with pytest.raises(MalformedRequest, match="X-Rollout-At"):
        _path()._at({"headers": [], "client": ("127.0.0.1", 1)}, said, None)


def test_a_replay_has_a_name_and_goes_with_a_time():
    scope = {"headers": [], "client": ("127.0.0.1", 1)}
    assert _path()._at(scope, "1372680000", "july-1") == (1_372_680_000.0, "july-1")
    assert _path()._at(scope, "1372680000", None) == (1_372_680_000.0, "")
    for at, name in ((None, "july"), ("1372680000", "a b"), ("1372680000", "x" * 65)):
        with pytest.raises(MalformedRequest, match="X-Rollout-Replay"):
            _path()._at(scope, at, name)


def test_one_request_with_a_wrong_time_ends_no_step_and_no_wait():
    """In the store from before, say: 57,000 years count for a day, and only once."""
    rows = [row(i, label=None) for i in range(1, 50)]
    wrong = [row(50, at=(START + 50) * 1000), *(row(i, label=None) for i in range(51, 60))]
    evidence = folded(policy(labels={"wait": 72 * 3600}), [*rows, *wrong])

    assert evidence.settled == 0
    assert evidence.standing(evidence.tail([])).step_s <= GAP_S + 60


def test_clocks_that_jump_to_and_fro_do_not_run():
    """Two replicas whose clocks differ by a year, one request from each in turn, for an hour."""
    clock = ElapsedTime(GAP_S)
    for second in range(3600):
        clock.move(NOW + second + (365 * DAY if second % 2 else 0.0))
    assert clock.total <= GAP_S + 3600
