"""The evaluation on held-out data for the report: from `understudy evaluate --json`, or the months on the cards. Pure."""

from collections.abc import Sequence

from understudy.domain import JsonObject
from understudy.offline.report.words import METRICS

Risk = tuple[str, list[str]]

VARIANTS = ("primary", "candidate")
SEGMENTS_SHOWN = 8
LISTED = 6
"""Lines of a list that are shown: the others are counted."""


def mismatch(evaluation: JsonObject, state: JsonObject) -> str | None:
    """Why an evaluation is not of this rollout's models, in words; None if it is."""
    have = [(model["name"], model["digest"]) for model in evaluation["models"]]
    want = [(state[v]["name"], state[v]["digest"]) for v in VARIANTS if state[v]]
    for variant, (name, digest), (other, found) in zip(VARIANTS, want, have, strict=False):
        if digest != found:
            return f"its {variant} is {other} ({found[:19]}…), the rollout's is {name} ({digest[:19]}…)"
    if len(have) < len(want):
        return f"it does not have the candidate {want[1][0]}"
    return None


def view(evaluation: JsonObject) -> JsonObject:
    """What the page shows of an evaluation: each part with the loss of both models and their difference."""
    two = len(evaluation["models"]) > 1
    parts = [(by, part) for by, segments in evaluation["segments"].items() for part in segments]
    worst = sorted(parts, key=_worse_by, reverse=True) if two else []
    counted = {
        "worse": sum(_certain(part, +1) for _, part in parts),
        "better": sum(_certain(part, -1) for _, part in parts),
        "all": len(parts),
    }
    return {
        "source": evaluation["source"],
        "labelled": evaluation["labelled"],
        "method": evaluation["method"],
        "two": two,
        "loss": METRICS.get(evaluation["loss"], evaluation["loss"]),
        "answers": evaluation["answers"],
        "parts": [evaluation["everything"], *evaluation["months"]],
        "by": ", ".join(evaluation["segments"]),
        "segments": worst[:SEGMENTS_SHOWN],
        "counted": counted,
        "models": [
            {"name": model["name"], "failed": model["failed"], "calibration_error": error, "auc": auc}
            for model, error, auc in zip(
                evaluation["models"], evaluation["calibration_errors"], evaluation["auc"], strict=True
            )
        ],
        "drawn": [
            {"month": part["name"]} | {v: {"loss": x["mean"]} for v, x in zip(VARIANTS, part["loss"], strict=False)}
            for part in evaluation["months"]
            if all(x["mean"] is not None for x in part["loss"])
        ],
    }


def months(policy: JsonObject) -> list[JsonObject]:
    """The held-out months of both models' cards side by side; empty where the cards have none."""
    cards = policy.get("models", {})
    of = {v: {m["month"]: m for m in (cards.get(v) or {}).get("held_out", [])} for v in VARIANTS}
    every = sorted(of["primary"].keys() | of["candidate"].keys())
    return [
        {"month": month, "primary": of["primary"].get(month), "candidate": of["candidate"].get(month)}
        for month in every
    ]


def risks(policy: JsonObject, evaluation: JsonObject | None) -> list[Risk]:
    """Where the candidate is worse on held-out data, and problems of the data."""
    if evaluation is None:
        return _months_of_cards(policy)
    loss = METRICS.get(evaluation["loss"], evaluation["loss"])
    found: list[Risk] = []
    worse = [part for part in evaluation["months"] if _worse_by(("", part)) > 0]
    if worse:
        text = f"On held-out data the candidate's {loss} was higher than the primary's in {_named(worse)}."
        found.append(("Months in which the candidate is worse", [text]))
    for by, segments in evaluation["segments"].items():
        surely = [part for part in segments if _certain(part, +1)]
        maybe = [part for part in segments if _worse_by((by, part)) > 0 and not _certain(part, +1)]
        texts = [f"By {by}: certainly in {_named(surely)}."] if surely else []
        texts += [f"By {by}: perhaps in {_named(maybe)}; the interval holds zero."] if maybe else []
        if texts:
            found.append((f"Segments in which the candidate is worse, by {by}", texts))
    for title, name in (("Problems in the held-out data", "problems"), ("Training and serving differ", "skew")):
        if lines := evaluation[name]:
            found.append((title, in_part(lines)))
    return found


def in_part(lines: Sequence[str]) -> list[str]:
    """The first of many lines, and how many more there are."""
    return [*lines[:LISTED], *([f"And {len(lines) - LISTED} more."] if len(lines) > LISTED else [])]


def _worse_by(named: tuple[str, JsonObject]) -> float:
    difference = named[1]["difference"]
    return float("-inf") if difference is None or difference["mean"] is None else float(difference["mean"])


def _certain(part: JsonObject, sign: int) -> bool:
    """Whether the whole interval of the difference is on one side: the candidate worse (1) or better (-1)."""
    difference = part["difference"]
    if difference is None or difference["low"] is None:
        return False
    return bool(difference["low"] > 0 if sign > 0 else difference["high"] < 0)


def _named(parts: Sequence[JsonObject]) -> str:
    by_size = sorted(parts, key=lambda part: -_worse_by(("", part)))
    said = [f"{part['name']} ({part['difference']['mean']:+.4f})" for part in by_size[:LISTED]]
    return ", ".join(said) + (f" and {len(parts) - LISTED} more" if len(parts) > LISTED else "")


def _months_of_cards(policy: JsonObject) -> list[Risk]:
    worse = [
        f"{row['month']} ({row['candidate']['brier'] - row['primary']['brier']:+.4f})"
        for row in months(policy)
        if row["primary"] and row["candidate"] and row["candidate"]["brier"] > row["primary"]["brier"]
    ]
    if not worse:
        return []
    text = f"On data that neither had seen, the candidate's Brier score was higher than the primary's in {', '.join(worse)}."
    return [("Months in which the candidate is worse", [text])]
