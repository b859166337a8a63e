"""What the store's counters come to: requests, latencies and mean losses of a variant; labels. Pure.

Counters are sums, so what they grew by between two looks reads the same way (`understudy.observability.timeline`).
"""

from collections.abc import Mapping
from typing import Any

from understudy.domain import Variant
from understudy.observability.metrics import LATENCY_BUCKETS
from understudy.rollout import losses
from understudy.rollout.comparison import quantile_of


def figures(counters: Mapping[str, float], variant: Variant) -> dict[str, Any]:
    """What the store's counters say of one variant: requests answered, latency, and mean losses where labels have come.

    `asked` are the requests on which it was run or owed an answer, rehearsals included; `failed` those where it gave none.
    Latencies are interpolated in the histogram's buckets, as PromQL's `histogram_quantile` does it.
    """
    live = sum(v for k, v in counters.items() if k.startswith(f"requests/{variant}/live/"))
    asked = {
        k: v
        for k, v in counters.items()
        if k.startswith((f"requests/{variant}/live/", f"requests/{variant}/shadow/"))
        and not k.endswith("/429")  # what was dropped was never asked
    }
    failed = sum(v for k, v in asked.items() if not k.endswith("/200"))
    tried = sum(asked.values())
    if variant is Variant.CANDIDATE:
        fallbacks = sum(v for k, v in counters.items() if k.startswith("fallbacks/") and k != "fallbacks/starting")
        failed, tried = failed + fallbacks, tried + fallbacks
    found: dict[str, Any] = {"requests": int(live), "asked": int(tried), "failed": int(failed)}
    buckets = [counters.get(f"latency/{variant}/{i}", 0.0) for i in range(len(LATENCY_BUCKETS) + 1)]
    for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        seconds = quantile_of(buckets, LATENCY_BUCKETS, quantile)
        found[f"latency_{name}_ms"] = None if seconds is None else round(seconds * 1000, 3)
    prefix = f"loss_count/{variant}/"
    for key, count in counters.items():
        if key.startswith(prefix) and count:
            name = key.removeprefix(prefix)
            mean = counters[f"loss_sum/{variant}/{name}"] / count
            found["labelled"] = int(count)
            found["accuracy" if name == "zero_one" else name] = 1 - mean if name == "zero_one" else mean
    return found


def label_figures(counters: Mapping[str, float]) -> dict[str, Any]:
    """Labels joined, their share of all recorded rows, and the median delay in seconds (interpolated)."""
    rows = sum(v for k, v in counters.items() if k.startswith("rows/") and k != "rows/load")
    matched = counters.get("labels/matched", 0.0)
    buckets = [counters.get(f"label_delay/{i}", 0.0) for i in range(len(losses.DELAY_BUCKETS) + 1)]
    return {
        "matched": int(matched),
        "coverage": matched / rows if rows else None,
        "delay_p50_s": quantile_of(buckets, losses.DELAY_BUCKETS, 0.5),
    }


def part_of(counters: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The counters whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in counters.items() if name.startswith(prefix)}
