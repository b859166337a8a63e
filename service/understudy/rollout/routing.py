"""The router: a pure function of key, salt and weight.

A key is hashed to a point in [0, 2^64). The candidate answers if the point is below the weight's share of that range. So the
proportion of keys is exact, raising the weight moves no key back, and all workers and replicas decide alike without shared
state, also after a restart. The hash is XXH64 (a stable specification), seeded with the plan's salt.
"""

import xxhash

from understudy.domain import SHARE_ONE, Phase, Plan, Variant

_SHADOW_SEED = 0x5AD0_5AD0_5AD0_5AD0  # rehearsals are sampled independently of the routing
_BELOW = 2**64
_ANSWERS = frozenset({Phase.CANARY, Phase.WAITING, Phase.PAUSED, Phase.PROMOTED})  # phases in which the weight applies


def bucket(key: str, salt: int) -> int:
    """The point in [0, 2^64) of `key` under `salt`."""
    return xxhash.xxh64_intdigest(key.encode(), salt)


def below(point: int, share: int) -> bool:
    """Whether `point` is in the first `share` hundredths of a percent of the range.

    >>> below(0, 0), below(2**64 - 1, 10_000), below(2**63 - 1, 5_000), below(2**63, 5_000)
    (False, True, True, False)
    """
    return point * SHARE_ONE < share * _BELOW


def variant(plan: Plan, key: str) -> Variant:
    """The variant that answers the request with this key."""
    weight = plan.weight
    if not weight or plan.phase not in _ANSWERS:
        return Variant.PRIMARY
    return Variant.CANDIDATE if below(bucket(key, plan.salt), weight) else Variant.PRIMARY


def rehearses(plan: Plan, request_id: str) -> bool:
    """Whether the model that does not answer this request rehearses on it."""
    if not plan.shadow:
        return False
    return plan.shadow == SHARE_ONE or below(bucket(request_id, plan.salt ^ _SHADOW_SEED), plan.shadow)
