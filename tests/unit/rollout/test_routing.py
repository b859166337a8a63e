"""The router is exact in proportion, monotone, and the same everywhere."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from understudy.domain import SHARE_ONE, Phase, Plan, Variant
from understudy.rollout import routing

KEYS = [f"N{i}" for i in range(20_000)]


def plan(weight: int, salt: int = 7, shadow: int = SHARE_ONE) -> Plan:
    return Plan(Phase.CANARY, weight, shadow, salt)


def canary(weight: int, salt: int = 7) -> set[str]:
    return {key for key in KEYS if routing.variant(plan(weight, salt), key) is Variant.CANDIDATE}


def test_share_is_within_four_standard_errors() -> None:
    """25 % of 20,000 distinct keys, and 0.01 % as well."""
    for weight in (1, 500, 2_500, 5_000, 9_999):
        p = weight / SHARE_ONE
        assert abs(len(canary(weight)) - len(KEYS) * p) <= 4 * math.sqrt(len(KEYS) * p * (1 - p)) + 1


def test_raising_the_weight_moves_no_key_back() -> None:
    """Who is on the canary stays on it, from 5 to 25 to 50 to 100 %."""
    shares = [canary(weight) for weight in (0, 500, 2_500, 5_000, SHARE_ONE)]

    assert all(smaller < larger for smaller, larger in itertools.pairwise(shares))
    assert shares[0] == set()
    assert shares[-1] == set(KEYS)


def test_two_rollouts_pick_different_callers() -> None:
    """At 25 % two salts share about a quarter of their picks."""
    both = canary(2_500, 7) & canary(2_500, 8)

    assert 0.2 < len(both) / len(canary(2_500, 7)) < 0.3


def test_nobody_is_on_the_canary_outside_it() -> None:
    """In shadow, after an abort and with no candidate the weight is not looked at."""
    for phase in (Phase.SHADOW, Phase.SERVING, Phase.ABORTED):
        assert routing.variant(Plan(phase, SHARE_ONE, 0, 7), "N1") is Variant.PRIMARY


def test_rehearsals_are_sampled_independently_of_the_canary() -> None:
    """At 50 % weight and 50 % shadow, half of the canary rehearses."""
    half = plan(5_000, shadow=5_000)
    on_canary = [key for key in KEYS if routing.variant(half, key) is Variant.CANDIDATE]
    share = sum(routing.rehearses(half, key) for key in on_canary) / len(on_canary)

    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / len(on_canary))
    assert routing.rehearses(plan(0), "any")
    assert not routing.rehearses(plan(0, shadow=0), "any")


@given(st.integers(0, 2**64 - 1), st.integers(0, SHARE_ONE), st.integers(0, SHARE_ONE))
def test_below_is_monotone_and_exact_at_the_ends(point: int, a: int, b: int) -> None:
    """A point below a share is below every larger one."""
    low, high = sorted((a, b))

    assert not (routing.below(point, low) and not routing.below(point, high))
    assert not routing.below(point, 0)
    assert routing.below(point, SHARE_ONE)
