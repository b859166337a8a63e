"""The router: a pure function of (key, salt, weight).

A key is hashed to a point in [0, 2^64); the candidate answers when the point lies below the weight's part of that range.
Hence it is exact in proportion (over keys), monotone (raising the weight moves no key back), and equal on every worker,
replica and restart with no shared store. The hash is XXH64 (a stable specification) seeded with the plan's salt.
"""

import xxhash

from understudy.domain import SHARE_ONE, Phase, Plan, Variant

_SHADOW_SEED = 0x5AD0_5AD0_5AD0_5AD0  # rehearsals are sampled independently of who is on the canary
_BELOW = 2**64
_ANSWERS = frozenset({Phase.CANARY, Phase.WAITING, Phase.PAUSED, Phase.PROMOTED})  # the candidate has its weight here


def bucket(key: str, salt: int) -> int:
    """The point in [0, 2^64) that `key` falls on under `salt`."""
    return xxhash.xxh64_intdigest(key.encode(), salt)


def below(point: int, share: int) -> bool:
    """Whether `point` lies in the first `share` hundredths of a percent of the range.

    >>> below(0, 0), below(2**64 - 1, 10_000), below(2**63 - 1, 5_000), below(2**63, 5_000)
    (False, True, True, False)
    """
    return point * SHARE_ONE < share * _BELOW


def variant(plan: Plan, key: str) -> Variant:
    """Who answers the request with this key."""
    weight = plan.weight
    if not weight or plan.phase not in _ANSWERS:
        return Variant.PRIMARY
    return Variant.CANDIDATE if below(bucket(key, plan.salt), weight) else Variant.PRIMARY


def rehearses(plan: Plan, request_id: str) -> bool:
    """Whether the model that does not answer this request rehearses on it."""
    if not plan.shadow:
        return False
    return plan.shadow == SHARE_ONE or below(bucket(request_id, plan.salt ^ _SHADOW_SEED), plan.shadow)
