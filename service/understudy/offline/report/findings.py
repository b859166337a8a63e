"""Findings for the report: goals, costs, risks, decisions and steps. Pure."""

import math
from collections.abc import Callable, Sequence

from understudy.domain import JsonObject
from understudy.offline.report import offline
from understudy.offline.report.words import EVENTS, METRICS, PHASES, number, raw, sentence, share

DRIFT = "drift"
MET, MISSED, OPEN, UNMEASURED, UNHARMED = "met", "missed", "not decided", "not measured", "no harm found"
HOURS_PER_MONTH = 730.0
HEADROOM = 0.7
"""Share of the measured throughput that is planned per machine. The rest is for bursts and for the loss of a machine."""
COVERAGE_MIN = 0.95
LOST_MIN = 0.01


def verdict(state: JsonObject, events: Sequence[JsonObject]) -> JsonObject:
    """The head of the page: one sentence, its tone, and its reasons."""
    phase = state["phase"]
    moves = (e for e in reversed(events) if e["details"].get("to") == phase != e["details"].get("from"))
    decision = next(moves, None)
    kind = decision["kind"] if decision else ""
    tone = {"serving": "plain", "promoted": "good", "aborted": "bad"}.get(phase, "warn")
    ended = decision is not None and phase in {"promoted", "aborted", "paused"}
    reasons = [decision["reason"] if ended and decision else state["verdict"]["reason"]]
    if decision and kind in {"advance", "finish"} and ended:  # an advance depends on every metric
        reasons = [m["reason"] for m in decision["details"]["metrics"] if m["answer"] == "advance"]
    return {"sentence": state["headline"], "tone": tone, "reasons": reasons, "decision": decision if ended else None}


def goals(metrics: Sequence[JsonObject], policy: JsonObject, load: JsonObject | None) -> list[dict[str, str]]:
    """Every goal of the rollout file, what was measured, and whether it is met.

    Args:
        metrics: as they stood when it was decided, or as they stand: a later step asks for evidence of its own.
    """
    found = [_judged(metric, policy) for metric in metrics]
    stated = policy["goals"]
    measured = load["details"]["measured"] if load else None
    if wanted := stated.get("throughput_rps"):
        found.append(
            _loaded(
                "Throughput",
                f"at least {wanted:,.0f} requests a second",
                load,
                f"{measured['achieved_rps']:,.0f} a second" if measured else "",
                "throughput",
            )
        )
    if price := stated.get("cost"):
        cost_ = measured["cost_per_million"] if measured else None
        text = f"at most {price['max_per_million']:g} for a million predictions"
        item = _loaded("Cost", text, load, f"{cost_:.3g} a million" if cost_ is not None else "", "cost")
        found.append(item)
    return found


def _judged(metric: JsonObject, policy: JsonObject) -> dict[str, str]:
    name, line, n = metric["metric"], metric["line"], f"{metric['n']:,}"
    title = METRICS.get(name, name.replace("_", " "))
    band = f"{raw(metric['estimate'], line)}{_span(metric, lambda value: raw(value, line))}, {n} pairs"
    answer = {"advance": MET, "rollback": MISSED, "hold": OPEN}[metric["answer"]]
    if answer == OPEN and metric.get("log_e_advance") is None and metric.get("log_e_harm") is not None:
        answer = UNHARMED  # a guard: it never allows an advance, so nothing about it is undecided
    if name == "poc_target":
        answer = MET if metric["high"] <= line else MISSED if metric["low"] > line else OPEN
        text = f"the primary's own mean loss at most {line:,.10g}"
    elif name == "win_rate":
        text = f"the candidate farther from the truth on at most {share(line, 1)} more of the rows than nearer"
        band = f"{share(metric['estimate'], 2)}{_span(metric, _fine)}, {n} pairs"
    elif name == "latency":
        limit = policy["goals"]["latency"]["p99_ms"]
        text = f"at most {share(line, 0)} of the candidate's answers later than {limit:g} ms or missing"
        band = f"{share(metric['estimate'], 2)}{_span(metric, _fine)}, {n} requests"
    elif name == "errors":
        text = f"the candidate fails on at most {share(line, 2)} more requests than the primary"
        band = f"{share(metric['estimate'], 2)}{_span(metric, _fine)}, {n} pairs"
    elif name == "request_errors":
        text = f"the candidate fails on at most {share(line, 2)} more of all requests than the primary"
        band = f"{share(metric['estimate'], 2)}, {n} intervals of 10 s"
    elif name == "serving_errors":
        text, band = (
            f"failing at most {line:g} times as often as the primary",
            f"{share(metric['estimate'])} of {n} failures",
        )
    elif name.startswith("latency_"):
        text, band = (
            f"at most {line:g} times the primary's",
            f"{number(metric['estimate'], 2)} times, {n} answers of each",
        )
    else:
        text = f"the candidate at most {line:,.10g} worse than the primary (less is better)"
    return {"goal": title, "target": text, "measured": band, "answer": answer}


def _span(metric: JsonObject, write: Callable[[float], str]) -> str:
    """The band in brackets, for a metric that has one."""
    low, high = metric["low"], metric["high"]
    return "" if low is None or high is None else f" ({write(low)} to {write(high)})"


def _fine(value: float) -> str:
    return share(value, 2)


def _loaded(goal: str, target: str, load: JsonObject | None, measured: str, finding: str) -> dict[str, str]:
    if load is None:
        return {"goal": goal, "target": target, "measured": "no load test has been recorded", "answer": UNMEASURED}
    if load["details"]["verdict"] == "invalid":
        return {"goal": goal, "target": target, "measured": "the load test was invalid", "answer": UNMEASURED}
    held = [f for f in load["details"].get("findings", []) if finding in f["goal"].lower()]
    passed = all(f["met"] for f in held) if held else load["details"]["verdict"] == "pass"
    return {"goal": goal, "target": target, "measured": measured or "-", "answer": MET if passed else MISSED}


def load_test(events: Sequence[JsonObject], state: JsonObject) -> JsonObject | None:
    """The newest load test of these models in the log, as its event; None where there is none."""
    digests = {variant: (state[variant] or {}).get("digest") for variant in ("primary", "candidate")}
    return next(
        (
            e
            for e in reversed(events)
            if e["kind"] == "loadtest"
            and "measured" in e["details"]
            and digests == {name: e["details"]["setup"].get(name) for name in digests}
        ),
        None,
    )


def cost(policy: JsonObject, load: JsonObject | None, traffic_rps: float | None) -> JsonObject | None:
    """What a million predictions and a month cost, by the proven throughput, or by the goal where nothing is proven.

    Only a load test that passed proves something. Everything here is in predictions (rows), where the goal and the load
    test are in requests: as many rows a request as the load test had, one where there is none.

    Args:
        traffic_rps: predictions a second over the month; the throughput goal, if left out.
    """
    stated, goal = policy["goals"].get("cost"), policy["goals"].get("throughput_rps")
    measured = load["details"]["measured"] if load else {}
    rows = measured.get("rows_per_request", 1.0)
    proven = load is not None and load["details"]["verdict"] == "pass"
    rate = (measured["achieved_rps"] if proven else goal or 0.0) * rows
    if not stated or not rate:
        return None
    hourly = stated["machine_per_hour"]
    traffic = traffic_rps or (goal * rows if goal else rate)
    machines = max(1, math.ceil(traffic / (rate * HEADROOM)))
    return {
        "proven": proven,
        "rate": rate,
        "hourly": hourly,
        "traffic": traffic,
        "headroom": HEADROOM,
        "per_million_full": hourly / (rate * 3600) * 1e6,
        "machines": machines,
        "limit": stated["max_per_million"],
        "per_month": machines * hourly * HOURS_PER_MONTH,
        "a_month": traffic * 3600 * HOURS_PER_MONTH,
        "per_million": machines * hourly / (traffic * 3600) * 1e6,
    }


def story(events: Sequence[JsonObject]) -> list[JsonObject]:
    """The log as a story: what happened, from where to where, who, and why. Drift alarms are not decisions: see `risks`."""
    found = []
    for event in events:
        if event["kind"] == DRIFT:
            continue
        details = event["details"]
        before, after = PHASES.get(details.get("from", "")), PHASES.get(details.get("to", ""))
        weight = details.get("weight")
        place = f" {weight:g} %" if isinstance(weight, int | float) and details.get("to") != "aborted" else ""
        found.append(
            {
                "at": event["at"],
                "what": EVENTS.get(event["kind"], event["kind"].replace("_", " ")),
                "who": event["actor"],
                "why": in_short(event["reason"]),
                "move": f"{before} → {after}{place}" if before and after else "",
                "tone": {
                    "advance": "good",
                    "finish": "good",
                    "promote": "good",
                    "promote_full": "good",
                    "rollback": "bad",
                    "abort": "bad",
                    "undo": "bad",
                }.get(event["kind"], "plain"),
            }
        )
    return found


def in_short(reason: str) -> str:
    """A reason that names every metric, with the first of them: the others are in the log."""
    head, more, rest = reason.partition("), after ")
    conclusion = rest.rpartition("): ")[2]
    return f"{head}), …: {conclusion}" if more and conclusion else reason


def deciders(events: Sequence[JsonObject]) -> list[tuple[str, list[str]]]:
    """Who decided, and what: the judge by its rules, people by orders."""
    found: dict[str, list[str]] = {}
    for event in events:
        if event["details"].get("to"):
            found.setdefault(str(event["actor"]), []).append(EVENTS.get(str(event["kind"]), str(event["kind"])))
    return [
        (who, [f"{what}{f' ({n} times)' if (n := all_.count(what)) > 1 else ''}" for what in dict.fromkeys(all_)])
        for who, all_ in found.items()
    ]


def steps(state: JsonObject, policy: JsonObject) -> list[dict[str, str]]:
    """The steps of the rollout file, and where it stands in them."""
    found = []
    for i, step in enumerate(policy["steps"]):
        until = [f"at least {value:,} {name}" for name, value in step["until"].items() if name != "duration"]
        needs = [f"needs {'a load test' if need == 'loadtest' else 'an approval'}" for need in step["require"]]
        name = "promote" if step["kind"] == "promote" else f"{step['kind']} {step['share']:g} %"
        now = "stopped here" if state["phase"] == "aborted" else "now"
        done = state["phase"] == "promoted" or i < state["step"]
        place = "done" if done else now if i == state["step"] else "ahead"
        found.append({"name": name, "conditions": "; ".join([*until, *needs]), "place": place})
    return found


def risks(
    state: JsonObject,
    policy: JsonObject,
    drift: JsonObject | None,
    events: Sequence[JsonObject],
    evaluation: JsonObject | None = None,
) -> list[tuple[str, list[str]]]:
    """Risks that were seen: a title with its sentences."""
    seen = [(title, [text]) for title, text in _traffic(state)]
    return [
        *offline.risks(policy, evaluation),
        *seen,
        *_drifted(drift, events),
        *((t, [text]) for t, text in _always()),
    ]


def _traffic(state: JsonObject) -> list[tuple[str, str]]:
    found = []
    coverage = state["labels"]["coverage"]
    if coverage is not None and coverage < COVERAGE_MIN:
        found.append(("Labels are missing", f"Only {share(coverage)} of the predictions have a label."))
    shadow = state["shadow"]
    lost = shadow["dropped"] + shadow["failed"] + shadow["late"]
    if shadow["sent"] and lost > LOST_MIN * shadow["sent"]:
        text = f"{lost:,} of {shadow['sent']:,} rehearsals were lost; failed ones count against the candidate."
        found.append(("Rehearsals were lost", text))
    if fallbacks := sum(state["fallbacks"].values()):
        causes = ", ".join(f"{n:,} {cause}" for cause, n in state["fallbacks"].items())
        found.append(
            (
                "The primary answered instead of the candidate",
                f"{fallbacks:,} requests ({causes}); every caller got an answer.",
            )
        )
    flips = (state.get("comparison") or {}).get("labels")
    if flips and flips["rows"]:
        text = (
            f"The models give another label on {flips['flips']:,} of {flips['rows']:,} rows ({share(flips['share'])})."
        )
        found.append(("Answers change for some callers", text))
    return found


def _drifted(drift: JsonObject | None, events: Sequence[JsonObject]) -> list[tuple[str, list[str]]]:
    """The alarms that are on, and those that were."""
    if drift is None:
        return []
    changes = [e["details"] for e in events if e["kind"] == DRIFT]
    on = {(alarm["variant"], alarm["feature"]) for alarm in drift["alarms"]}
    was = {(d["variant"], d["feature"]) for d in changes if d["alarm"] == "on"} - on
    names = ", ".join(f"{feature.strip('()')} ({variant})" for variant, feature in sorted(was))
    over = f"Cleared since: {names}." if was else ""
    if not on:
        calm = "In the newest window the distance of every feature from training is below its threshold."
        return [("No drift alarm", [calm, *filter(None, [over])])]
    return [
        ("Data drifts away from training", [*(sentence(a["reason"]) for a in drift["alarms"]), *filter(None, [over])])
    ]


def _always() -> list[tuple[str, str]]:
    text = (
        "Requests of one day are correlated (weather, season). The evidence counts requests, so it is valid for the traffic "
        "that was seen; later traffic may differ."
    )
    return [("Days resemble each other", text)]
