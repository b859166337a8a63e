"""Summaries of the store's counters: requests, latencies and mean losses of a variant, and labels. Pure.

Counters are sums, so their growth between two moments can be summarised in the same way (`understudy.observability.timeline`).
"""

from collections.abc import Mapping

from understudy.domain import JsonObject, Variant
from understudy.observability.metrics import LATENCY_BUCKETS
from understudy.rollout import losses
from understudy.rollout.comparison import quantile_of


def figures(counters: Mapping[str, float], variant: Variant) -> JsonObject:
    """Answered requests, latency, and mean losses of labelled rows of one variant.

    `asked` are the requests that the variant ran on or should have answered, rehearsals included; `failed` are those without
    an answer. Latencies are interpolated within the histogram's buckets, as by PromQL's `histogram_quantile`.
    """
    live = sum(v for k, v in counters.items() if k.startswith(f"requests/{variant}/live/"))
    asked = {
        k: v
        for k, v in counters.items()
        if k.startswith((f"requests/{variant}/live/", f"requests/{variant}/shadow/"))
        and not k.endswith("/429")  # dropped rehearsals were never run
    }
    failed = sum(v for k, v in asked.items() if not k.endswith("/200"))
    tried = sum(asked.values())
    if variant is Variant.CANDIDATE:
        fallbacks = sum(v for k, v in counters.items() if k.startswith("fallbacks/") and k != "fallbacks/starting")
        failed, tried = failed + fallbacks, tried + fallbacks
    summary: JsonObject = {"requests": int(live), "asked": int(tried), "failed": int(failed)}
    buckets = [counters.get(f"latency/{variant}/{i}", 0.0) for i in range(len(LATENCY_BUCKETS) + 1)]
    for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        seconds = quantile_of(buckets, LATENCY_BUCKETS, quantile)
        summary[f"latency_{name}_ms"] = None if seconds is None else round(seconds * 1000, 3)
    prefix = f"loss_count/{variant}/"
    for key, count in counters.items():
        if key.startswith(prefix) and count:
            name = key.removeprefix(prefix)
            mean = counters[f"loss_sum/{variant}/{name}"] / count
            summary["labelled"] = int(count)
            summary["accuracy" if name == "zero_one" else name] = 1 - mean if name == "zero_one" else mean
    return summary


def label_figures(counters: Mapping[str, float]) -> JsonObject:
    """Joined labels, their share of all recorded rows, and their median delay in seconds (interpolated)."""
    rows = sum(v for k, v in counters.items() if k.startswith("rows/") and k != "rows/load")
    matched = counters.get("labels/matched", 0.0)
    buckets = [counters.get(f"label_delay/{i}", 0.0) for i in range(len(losses.DELAY_BUCKETS) + 1)]
    return {
        "matched": int(matched),
        "coverage": matched / rows if rows else None,
        "delay_p50_s": quantile_of(buckets, losses.DELAY_BUCKETS, 0.5),
    }


def part_of(counters: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The counters with a prefix; their names without it."""
    return {name.removeprefix(prefix): value for name, value in counters.items() if name.startswith(prefix)}
