"""The report says what the documents say: goals, costs, risks, who decided; and it is one file that fetches nothing."""

import math
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from understudy.domain import Variant
from understudy.inference.cards import HeldOut
from understudy.inference.decoding import Field
from understudy.offline.report import Documents, findings, pictures, render
from understudy.rollout.policy import parse
from understudy.serving.policy_document import about
from understudy.testing import card

FILE = """
model: m
task: binary-classification
primary: a
candidate: b
goals:
  quality: {loss: brier, margin: 0.005, poc_target: 0.2}
  throughput_rps: 500
  cost: {machine_per_hour: 0.36, max_per_million: 1.0}
steps: [{shadow: 100, until: {labels: 500}}, {canary: 5, require: [loadtest]}, promote]
"""


def month(name: str, brier: float) -> HeldOut:
    return HeldOut(
        month=name, rows=100, base_rate=0.2, accuracy=0.8, auc=0.7, log_loss=0.5, brier=brier, mean_probability=0.2
    )


CARDS = {
    Variant.PRIMARY: card("poc", held_out=[month("2013-07", 0.26), month("2013-08", 0.13), month("2013-09", 0.1)]),
    Variant.CANDIDATE: card("better", digest="sha256:1", held_out=[month("2013-07", 0.18), month("2013-08", 0.14)]),
}
POLICY = msgspec.to_builtins(about(parse(FILE), [Field("x", "float32"), Field("s", "string")], [], CARDS))


def metric(name: str = "brier", answer: str = "advance", **changes: Any) -> dict[str, Any]:
    found = {
        "metric": name,
        "answer": answer,
        "estimate": -0.06,
        "low": -0.07,
        "high": -0.05,
        "n": 2000,
        "line": 0.005,
        "reason": f"after 2,000 pairs the {name} is <better>",
        "log_e_advance": 9.0,
        "log_e_harm": -3.0,
    }
    return found | changes


def event(kind: str, actor: str = "judge", number: int = 1, **details: Any) -> dict[str, Any]:
    return {
        "id": number,
        "at": 1_372_636_800.0 + number,
        "kind": kind,
        "actor": actor,
        "reason": "because",
        "revision": number,
        "details": details,
    }


def state(**changes: Any) -> dict[str, Any]:
    who = {"name": "poc", "version": "1", "digest": "sha256:0", "up": True}
    variant = {"requests": 10}
    found = {
        "model": "m",
        "phase": "canary",
        "step": 1,
        "weight": 5.0,
        "primary": who,
        "candidate": who | {"name": "better"},
        "headline": "better answers 5 %: waits for labels",
        "verdict": {"answer": "hold", "reason": "not yet", "error_budget": {"advance": 0.025, "harm": 0.025}},
        "metrics": [metric()],
        "variants": {"primary": variant, "candidate": variant},
        "labels": {"matched": 20, "coverage": 0.99, "delay_p50_s": 7200.0},
        "shadow": {"sent": 100, "compared": 100, "dropped": 0, "failed": 0, "late": 0},
        "fallbacks": {},
    }
    return found | changes


def load(
    verdict: str = "pass", rps: float = 1000.0, *, met: bool = True, candidate: str | None = "sha256:0"
) -> dict[str, Any]:
    measured = {
        "achieved_rps": rps,
        "offered_rps": 1000.0,
        "rows_per_request": 2.0,
        "error_rate": 0.0,
        "cost_per_million": 0.05,
        "latency": {"p99_ms": 12.0},
    }
    setup = {"machine": {"cpu": "a cpu", "cores": 2.0}, "device": "cpu", "primary": "sha256:0", "candidate": candidate}
    held = [
        {"goal": "throughput_rps", "met": met, "says": "1,000 requests/s were answered"},
        {"goal": "cost", "met": True, "says": "a million predictions cost 0.05"},
    ]
    return event("loadtest", "olga", 7, verdict=verdict, measured=measured, setup=setup, findings=held, reasons=[])


def bands(*points: tuple[float, ...]) -> dict[str, Any]:
    return {
        "bands": [
            {"at": 0.0, "revision": 1 + (i > 1), "metrics": [metric(n=n, estimate=e, low=low, high=high)]}
            for i, (n, e, low, high) in enumerate(points)
        ]
    }


EVIDENCE = bands((50, 0.01, -0.5, 0.5), (500, -0.05, -0.09, -0.01), (2000, -0.06, -0.07, -0.05))


def documents(**changes: Any) -> Documents:
    found = {
        "state": state(),
        "policy": POLICY,
        "evidence": EVIDENCE,
        "events": [event("started", "service")],
        "source": "a test",
    }
    return Documents(**(found | changes))


def text_of(page: str) -> str:
    class Texts(HTMLParser):
        said = ""
        silent = False

        def handle_starttag(self, tag: str, _attrs: Any) -> None:
            self.silent = tag == "style"

        def handle_endtag(self, _tag: str) -> None:
            self.silent = False

        def handle_data(self, data: str) -> None:
            self.said += "" if self.silent else data

    reader = Texts()
    reader.feed(page)
    return " ".join(reader.said.split())


def test_the_page_is_one_file_that_fetches_nothing() -> None:
    """No script, no address, and a policy that would refuse both; text of others is text."""
    page = render(documents(), now=0.0)

    assert "default-src 'none'" in page
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", page)
    assert "the brier is &lt;better&gt;" in page
    assert "the brier is <better>" in text_of(page)
    assert "NaN" not in page
    assert "None" not in text_of(page)


def test_every_goal_is_met_missed_open_or_not_measured() -> None:
    """As the evidence and the load test say; a target of the proof of concept by its own band."""
    metrics = [
        metric(),
        metric("errors", "hold", line=0.002),
        metric("latency", "rollback", line=0.01),
        metric("poc_target", "hold", estimate=0.26, low=0.25, high=0.27, line=0.2),
        metric("latency_p99", "hold", estimate=None, low=None, high=None, line=1.2, n=0),
    ]
    found = {g["goal"]: g["answer"] for g in findings.goals(metrics, POLICY, None)}

    assert found == {
        "Brier score": "met",
        "Failures": "not decided",
        "Late or missing answers": "missed",
        "The POC's own target": "missed",
        "p99 latency, relative to the primary": "not decided",
        "Throughput": "not measured",
        "Cost": "not measured",
    }
    measured = {g["goal"]: g for g in findings.goals([metric()], POLICY, load(met=False))}
    assert (measured["Throughput"]["answer"], measured["Throughput"]["measured"]) == ("missed", "1,000 a second")
    assert measured["Cost"]["answer"] == "met"


def test_what_a_month_costs() -> None:
    """By the throughput that was proven, rows counted; by the goal, and said to be assumed, where nothing was."""
    proven = findings.cost(POLICY, load(), traffic_rps=3000.0)
    assert proven is not None
    assert (proven["proven"], proven["rate"], proven["machines"]) == (True, 2000.0, math.ceil(3000 / 1400))
    assert proven["per_million_full"] == pytest.approx(0.36 / (2000 * 3600) * 1e6)
    assert proven["per_month"] == pytest.approx(3 * 0.36 * 730)
    assert proven["per_million"] == pytest.approx(proven["per_month"] / (3000 * 3600 * 730) * 1e6)
    assumed = findings.cost(POLICY, None, None)
    assert assumed is not None
    assert (assumed["proven"], assumed["rate"], assumed["traffic"], assumed["machines"]) == (False, 500, 500, 2)
    assert "assumed (the goal, not measured)" in text_of(render(documents(), now=0.0))
    assert findings.cost(POLICY | {"goals": {}}, load(), 1.0) is None


def test_the_month_is_counted_in_predictions_where_the_goal_is_in_requests() -> None:
    """Two rows a request in the load test: a goal of 500 requests a second is a thousand predictions."""
    found = findings.cost(POLICY, load(), None)
    assert found is not None
    assert (found["traffic"], found["machines"]) == (1000.0, 1)
    assert found["a_month"] == pytest.approx(1000 * 730 * 3600)


@pytest.mark.parametrize("verdict", ["fail", "invalid"])
def test_a_load_test_that_did_not_pass_proves_no_throughput(verdict: str) -> None:
    """The costs are assumed then; what says nothing leaves its goals unmeasured, what failed has missed them."""
    found = findings.cost(POLICY, load(verdict, met=False), None)
    goals = {g["goal"]: g["answer"] for g in findings.goals([], POLICY, load(verdict, met=False))}

    assert found is not None
    assert (found["proven"], found["rate"]) == (False, 1000.0)
    assert goals["Throughput"] == ("missed" if verdict == "fail" else "not measured")


def test_a_load_test_of_other_models_is_not_shown() -> None:
    """The log takes any record; only those of what is reported about count."""
    ours = load()
    assert findings.load_test([ours, load(candidate="sha256:other")], state()) is ours
    assert findings.load_test([load(candidate=None)], state()) is None


def test_risks_are_those_that_were_seen() -> None:
    """Months where the candidate is worse, missing labels, lost rehearsals, fallbacks, other answers, drift."""
    bad = state(
        labels={"matched": 1, "coverage": 0.5, "delay_p50_s": 1.0},
        fallbacks={"timeout": 3},
        shadow={"sent": 100, "compared": 90, "dropped": 4, "failed": 3, "late": 3},
        comparison={"rows": 9, "labels": {"rows": 9, "flips": 3, "share": 1 / 3, "ways": []}},
    )
    alarm = {"variant": "primary", "feature": "temp", "reason": "temp is unlike the primary's training"}
    told = [
        event("drift", "drift", 2, alarm="on", variant="primary", feature="dewp"),
        event("drift", "drift", 3, alarm="on", variant="primary", feature="temp"),
    ]
    found = dict(findings.risks(bad, POLICY, {"alarms": [alarm]}, told))

    assert found["Months in which the candidate is worse"][0].endswith("in 2013-08 (+0.0100).")
    assert "50.0 %" in found["Labels are missing"][0]
    assert "10 of 100" in found["Rehearsals were lost"][0]
    assert "3 requests (3 timeout)" in found["The primary answered instead of the candidate"][0]
    assert "3 of 9" in found["Answers change for some callers"][0]
    assert found["Data drifts away from training"] == [
        "Temp is unlike the primary's training.",
        "Cleared since: dewp (primary).",
    ]
    calm = dict(findings.risks(state(), POLICY | {"models": {}}, {"alarms": []}, []))
    assert set(calm) == {"No drift alarm", "Days resemble each other"}


def test_who_decided_what_and_why_it_ended() -> None:
    """The judge by the rules, people by orders; the head says who ended it, when and by what."""
    events = [
        event("started", "service"),
        event("advance", number=2, to="canary", weight=5.0, **{"from": "shadow"}),
        event("drift", "drift", 3, alarm="on", variant="primary", feature="x"),
        event("pause", "olga", 4, to="paused", weight=5.0, **{"from": "canary"}),
        event("abort", "olga", 5, to="aborted", weight=0.0, **{"from": "paused"}),
    ]
    aborted = state(phase="aborted", weight=0.0, headline="Aborted by olga: because")
    page = text_of(render(documents(state=aborted, events=events), now=0.0))

    assert findings.deciders(events) == [("judge", ["advanced"]), ("olga", ["paused", "aborted"])]
    assert "Aborted by olga: because" in page
    assert "Decided by olga, 1 Jul 2013, 00:00:05 UTC" in page
    assert "shadow → canary 5 %" in page
    assert [told["what"] for told in findings.story(events)] == ["started", "advanced", "paused", "aborted"]
    assert [step["place"] for step in findings.steps(state(phase="aborted"), POLICY)] == [
        "done",
        "stopped here",
        "ahead",
    ]


def test_after_a_promotion_the_goals_are_shown_as_they_stood_then() -> None:
    """What is folded afterwards asks for evidence of its own, and a launch is not undecided again."""
    finish = event("finish", to="promoted", metrics=[metric(n=1234)], **{"from": "canary"})
    page = text_of(
        render(documents(state=state(phase="promoted", metrics=[metric(answer="hold", n=9)]), events=[finish]), now=0.0)
    )

    assert "1,234 pairs" in page
    assert "As they stood when it was decided." in page


@pytest.mark.parametrize("phase", ["serving", "shadow", "canary", "waiting", "paused", "promoted", "aborted"])
@pytest.mark.parametrize("empty", [True, False])
def test_it_can_be_written_at_any_time(phase: str, empty: bool) -> None:
    """In every phase, before anything was judged and after; without a candidate and with a load test."""
    changes = {"metrics": [], "verdict": {"answer": "hold", "reason": "nothing yet"}} if empty else {}
    if phase == "serving":
        changes |= {"candidate": None}
    alone = {"candidate": None} if phase == "serving" else {}
    events = [] if empty else [event("finish", to=phase, metrics=[metric()]), load(**alone)]
    page = text_of(
        render(
            documents(state=state(phase=phase, **changes), evidence={} if empty else EVIDENCE, events=events), now=0.0
        )
    )

    assert ("Nothing has been judged yet" in page) == empty
    assert ("1,000 of 1,000 requests a second" in page) != empty
    assert ("A million predictions cost 0.05." in page) != empty
    assert "None" not in page


def test_a_band_is_drawn_inside_its_frame() -> None:
    """However wide it begins; the dashed line is the margin; a step is a dotted line; no band, no picture of one."""
    drawn = pictures.band(metric(), EVIDENCE["bands"], POLICY["goals"])
    numbers = [float(n) for d in re.findall(r' d="([^"]+)"', drawn) for n in re.findall(r"-?[\d.]+", d)]

    assert numbers
    assert all(0 <= n <= pictures.WIDTH for n in numbers)
    assert drawn.count('class="mark"') == 1
    assert "margin: 0.005 worse" in drawn
    assert 'aria-label="Brier score: after 2,000 pairs the brier is &lt;better&gt;"' in drawn
    assert pictures.band(metric("errors"), EVIDENCE["bands"], POLICY["goals"]) == ""
    assert pictures.band(metric(), bands((0, 0.0, -1.0, 1.0))["bands"], POLICY["goals"]) == ""
    assert "<path" in pictures.band(metric(), bands((1, 0.0, -1.0, 1.0))["bands"], POLICY["goals"])
    assert pictures.months([]) == ""


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        (
            "after 5 pairs a (x; y), after 6 pairs b (z): all are met (2 %)",
            "after 5 pairs a (x; y), …: all are met (2 %)",
        ),
        ("because", "because"),
        ("after 5 pairs a (x): worse than the harm line", "after 5 pairs a (x): worse than the harm line"),
    ],
)
def test_a_long_reason_keeps_its_first_metric_and_its_conclusion(reason: str, short: str) -> None:
    """The others are in the log."""
    assert findings.in_short(reason) == short
