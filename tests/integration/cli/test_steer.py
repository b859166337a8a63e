"""Commands that call a running service: what they send, what they print, and what they say when it refuses or does not answer."""

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from tests.support.commands import done, refused, understudy
from tests.support.http_stub import nowhere, serving
from understudy.cli import history
from understudy.errors import InvalidInput, NotAllowedNow

STATE: dict[str, Any] = {
    "model": "flight-delay",
    "phase": "canary",
    "step": 1,
    "weight": 12.5,
    "shadow_share": 100.0,
    "primary": {"name": "flight_poc", "version": "1.0.0", "digest": "sha256:" + "a" * 64, "up": True},
    "candidate": {"name": "flight_candidate", "version": "2.0.0", "digest": "sha256:" + "b" * 64, "up": False},
    "headline": "better answers 12.5 %: not decided yet",
    "verdict": {"answer": "hold", "reason": "weights are set by hand; [nothing] is judged yet"},
    "metrics": [],
    "variants": {
        "primary": {"requests": 12345, "latency_p50_ms": 1.25, "brier": 0.2},
        "candidate": {"requests": 0, "latency_p50_ms": None},
    },
    "labels": {"matched": 1234, "coverage": 0.5, "delay_p50_s": 7200.0},
    "shadow": {"sent": 4321, "compared": 4320, "dropped": 1, "failed": 0, "late": 0},
    "fallbacks": {},
    "revision": 7,
    "updated_at": 1e9,
    "drift": {
        "alarms": [
            {"variant": "primary", "feature": "temp", "since": 1_372_770_000.0, "reason": "[temp] is unlike training"}
        ]
    },
}


def test_an_audit_lists_what_waits_for_its_label_one_a_line_and_says_how_to_have_one() -> None:
    """The ids go to standard output, for a pipe; what is said of them goes beside it."""
    found = {"share": 10.0, "wait_s": 7200.0, "wanted": ["a-1", "b-2"]}
    with serving(GET_rollout_audit=(200, found)) as stub:
        assert done("audit", "--url", stub.url).splitlines()[:2] == ["a-1", "b-2"]
        assert json.loads(done("audit", "--json", "--url", stub.url)) == found
        stub.answers["GET /rollout/audit"] = (200, found | {"share": None})
        assert not done("audit", "--url", stub.url)


def test_status_shows_where_the_rollout_stands() -> None:
    """For people, with what is down said in words; brackets in a reason are no markup."""
    with serving(GET_rollout=(200, STATE)) as stub:
        shown = done("status", "--url", stub.url, COLUMNS="200")

    for words in (
        "flight-delay: canary, candidate at 12.5 %, revision 7",
        "flight_candidate 2.0.0  sha256:bbbbbbbbbbbb…  unavailable, and probed until it answers: it has not answered yet",
        "[nothing] is judged yet",
        "12,345",
        "1.2500",
        "1,234 matched, 50.0% of the rows, half of them within 2:00:00",
        "4,321 sent, 4,320 compared, 1 dropped",
        "drift      since 2013-07-02 13:00 UTC: [temp] is unlike training",
    ):
        assert words in shown
    assert re.search(r"latency p50 ms +1\.2500 +-", shown)


def test_status_of_a_rollout_that_has_hardly_begun() -> None:
    """No candidate, no labels: nothing is made up."""
    labels = {"matched": 0, "coverage": None, "delay_p50_s": None}
    state = STATE | {"candidate": None, "labels": labels, "variants": {"primary": {"requests": 0}}}
    with serving(GET_rollout=(200, state)) as stub:
        shown = done("status", "--url", stub.url)

    assert "candidate  " not in shown
    assert "labels     0 matched\n" in shown


def test_scripts_get_json() -> None:
    """The service's own, nothing added and nothing lost."""
    events = [{"id": 1, "at": 0.0, "kind": "started", "actor": "service", "reason": "", "revision": 1, "details": {}}]
    with serving(
        GET_rollout=(200, STATE), POST_rollout_weight=(200, STATE), GET_rollout_events=(200, {"events": events})
    ) as stub:
        assert json.loads(done("status", "--json", "--url", stub.url)) == STATE
        assert json.loads(done("set-weight", 5, "--json", "--url", stub.url)) == STATE
        assert json.loads(done("history", "--json", "--url", stub.url)) == events


def test_a_weight_is_ordered_with_its_reason_revision_and_token() -> None:
    """And what it led to is one line."""
    with serving(POST_rollout_weight=(200, STATE)) as stub:
        said = done(
            "set-weight", "12.5", "--reason", "looks good", "--revision", "6", "--token", "t0ken", "--url", stub.url
        )
        done("set-weight", "0", "--url", stub.url, UNDERSTUDY_TOKEN="from-env")

    first, second = stub.asked
    assert said == "canary, candidate at 12.5 %, revision 7\n"
    assert json.loads(first.body) == {"weight": 12.5, "reason": "looks good"}
    assert (first.headers["if-match"], first.headers["authorization"]) == ('"6"', "Bearer t0ken")
    assert "if-match" not in second.headers
    assert second.headers["authorization"] == "Bearer from-env"


@pytest.mark.parametrize("order", ["promote", "pause", "resume", "abort", "retry", "undo"])
def test_each_order_goes_to_its_call_with_its_reason(order: str) -> None:
    """And the new state is one line; refused, it is the service's own."""
    name = f"POST_rollout_{order}"
    refusal = NotAllowedNow(f"{order} is not allowed while the rollout is serving")
    with serving(**{name: (200, STATE)}) as stub:
        said = done(order, "--reason", "hm", "--revision", "6", "--token", "t0ken", "--url", stub.url)
        stub.answers[f"POST /rollout/{order}"] = (409, refusal.problem())
        line = refused(order, "--url", stub.url)

    asked = stub.asked[0]
    assert said == "canary, candidate at 12.5 %, revision 7\n"
    assert json.loads(asked.body) == {"reason": "hm"}
    assert (asked.headers["if-match"], asked.headers["authorization"]) == ('"6"', "Bearer t0ken")
    assert line == f"understudy: POST /rollout/{order}: 409 {refusal.detail}\n"


def test_a_full_promotion_is_asked_for_by_name() -> None:
    """Never by default."""
    with serving(POST_rollout_promote=(200, STATE)) as stub:
        assert json.loads(done("promote", "--full", "--json", "--url", stub.url)) == STATE
        done("promote", "--url", stub.url)

    assert [json.loads(one.body).get("full", False) for one in stub.asked] == [True, False]


def test_explain_says_why_in_sentences() -> None:
    """The verdict, each metric, and the error budget; what the state lacks is left out."""
    verdict = {
        "answer": "rollback",
        "reason": "brier is worse [than] allowed",
        "error_budget": {"harm": 0.025, "advance": 0.0125},
    }
    metrics = [{"metric": "quality", "answer": "rollback", "reason": "after 900 pairs it is worse"}]
    with serving(GET_rollout=(200, STATE | {"verdict": verdict, "metrics": metrics})) as stub:
        said = done("explain", "--url", stub.url, COLUMNS="300")
        stub.answers["GET /rollout"] = (200, STATE)
        short = done("explain", "--url", stub.url, COLUMNS="300")

    first, headline, second, third, drift, last = said.splitlines()
    assert first == "flight-delay is in phase canary; the candidate answers 12.5 % of the requests."
    assert headline == "better answers 12.5 %: not decided yet."
    assert second == "The verdict is to roll back: brier is worse [than] allowed."
    assert third == "  quality: after 900 pairs it is worse."
    assert drift == "Drift since 2013-07-02 13:00 UTC: [temp] is unlike training."
    assert re.search(r"rollback .* below 2\.50%", last)
    assert re.search(r"advance .*below 1\.25%", last)
    assert len(short.splitlines()) == 4


def test_the_funnel_is_short_in_status_and_has_its_hints_in_explain() -> None:
    """Rows and labels by stage; what was lost, and why."""
    lost = {"reason": "request already counted", "count": 11_760, "hint": "A request counts once."}
    rows = [{"stage": "settled", "count": 12_000, "lost": [lost]}, {"stage": "counted", "count": 240, "lost": []}]
    labels = STATE["labels"] | {"funnel": [{"stage": "received", "count": 0, "lost": []}], "oldest_waiting_s": 90.0}
    with serving(GET_rollout=(200, STATE | {"funnel": rows, "labels": labels})) as stub:
        short, full = (done(name, "--url", stub.url, COLUMNS="200") for name in ("status", "explain"))

    assert "rows       12,000 settled → 240 counted" in short
    assert "not counted: 11,760 request already counted" in short
    assert "11,760   not counted: request already counted. A request counts once." in full
    assert "The oldest label that waits for its prediction was received 90 seconds ago." in full
    assert "Where the labels are" not in full


@pytest.mark.parametrize("weight", ["101", "-1", "five"])
def test_a_weight_that_is_none_is_not_sent(weight: str) -> None:
    """Exit code 2: the command was wrong, not the service."""
    with serving(POST_rollout_weight=(200, STATE)) as stub:
        result = understudy("set-weight", "--url", stub.url, "--", weight)

    assert result.exit_code == 2
    assert not stub.asked


def test_history_says_who_did_what_when_and_why() -> None:
    """Oldest first, in UTC; at most as many as asked for."""
    events = [
        {
            "id": 1,
            "at": 1_372_636_800.0,
            "kind": "started",
            "actor": "service",
            "reason": "new",
            "revision": 1,
            "details": {"phase": "shadow", "policy": {"left": "out"}},
        },
        {
            "id": 2,
            "at": 1_372_640_461.0,
            "kind": "weight",
            "actor": "ada",
            "reason": "[looks] good",
            "revision": 2,
            "details": {"weight": 5, "from_weight": 0},
        },
    ]
    with serving(GET_rollout_events=(200, {"events": events})) as stub:
        shown = done("history", "--limit", "7", "--url", stub.url, COLUMNS="200")

    lines = shown.splitlines()
    assert stub.asked[0].path == "/rollout/events?limit=7"
    assert re.search(r"2013-07-01 00:00:00 +started +service +new +1 +phase shadow *$", lines[1])
    assert re.search(r"2013-07-01 01:01:01 +weight +ada .*good +2 +weight 5, from_weight 0", lines[2])


def test_history_shows_a_reason_as_it_was_given() -> None:
    """Brackets are not markup: an audit log that drops words is none."""
    event = {
        "id": 1,
        "at": 0.0,
        "kind": "weight",
        "actor": "ada",
        "reason": "[red]stop[/red] [OPS-17]",
        "revision": 2,
        "details": {},
    }
    with serving(GET_rollout_events=(200, {"events": [event]})) as stub:
        assert "[red]stop[/red] [OPS-17]" in done("history", "--url", stub.url, COLUMNS="200")


CALLS = [
    ["status"],
    ["explain"],
    ["history"],
    ["set-weight", "5"],
    ["abort"],
    ["replay", "--month", "7", "--limit", "1"],
]


@pytest.mark.usefixtures("two_flights")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_a_service_that_does_not_answer_is_one_line(call: list[str]) -> None:
    """With its address and the way to start it; exit code 1."""
    url = nowhere()

    line = refused(*call, "--url", url)
    assert url in line
    assert "`understudy serve` starts it" in line


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NotAllowedNow("revision 7 is in force, not 6"), "409 revision 7 is in force, not 6"),
        (
            InvalidInput([{"row": None, "field": "weight", "problem": "[b] takes a number"}]),
            "422 field 'weight': [b] takes a number",
        ),
    ],
)
def test_a_refusal_is_one_line_in_the_service_s_words(error: Any, says: str) -> None:
    """However narrow the terminal is."""
    with serving(POST_rollout_weight=(int(error.status), error.problem())) as stub:
        line = refused("set-weight", "5", "--url", stub.url, COLUMNS="30")

    assert line == f"understudy: POST /rollout/weight: {says}\n"


@pytest.fixture
def two_flights(monkeypatch: pytest.MonkeyPatch) -> None:
    flights = [SimpleNamespace(row={"x": i}, scheduled_at=1e9 + i, label=1, label_at=1e9 + 3600.0) for i in range(2)]
    source = SimpleNamespace(moments=lambda month, limit: flights[: limit or 2])
    monkeypatch.setattr("understudy.offline.sources.find", lambda name: source)


PREDICTED = {"variant": "primary", "fallback": False, "predictions": [{"prediction_id": "p-0"}]}


RECEIPT = {"matched": 2, "duplicate": 0, "conflict": 0, "pending": 0}


def replayed(*options: str, predict: tuple[int, Any] = (200, PREDICTED)) -> Result:
    with serving(
        GET_rollout=(200, STATE),
        GET_rollout_evidence=(200, {"counters": {}}),
        GET_metrics=(200, b""),
        POST_predict=predict,
        POST_feedback=(200, RECEIPT),
    ) as stub:
        return understudy("replay", "--month", "7", "--url", stub.url, *options)


@pytest.mark.usefixtures("two_flights")
def test_a_replay_tells_scripts_what_it_saw() -> None:
    """Sent, answered, labels, latencies, and that both sets of figures agree."""
    result = replayed("--json")
    told = json.loads(result.stdout)

    assert result.exit_code == 0, result.output
    assert (told["sent"], told["failed"], told["answered"], told["labels"]) == (2, 0, {"primary": 2}, RECEIPT)
    assert told["metrics_agree"] is True
    assert told["caller_latency_ms"]["p50"] > 0


@pytest.mark.usefixtures("two_flights")
def test_a_replay_tells_people_what_it_saw() -> None:
    """In a few lines."""
    result = replayed("--limit", "1")

    assert result.exit_code == 0, result.output
    assert "1 sent in" in result.stdout
    assert "the store and /metrics agree" in result.stdout


@pytest.mark.usefixtures("two_flights")
def test_a_replay_with_failures_or_differences_fails() -> None:
    """Exit code 1, and each reason is shown."""
    failed = replayed(predict=(503, {"detail": "not ready"}))
    assert failed.exit_code == 1
    assert "2 × 503: not ready" in failed.stdout


@pytest.mark.usefixtures("two_flights")
def test_a_replay_after_which_the_figures_differ_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has counted two rehearsals meanwhile, and the metrics have not."""
    with serving(
        GET_rollout=(200, STATE),
        GET_rollout_evidence=(200, {"counters": {"shadow/sent": 5}}),
        GET_metrics=(200, b""),
        POST_predict=(200, PREDICTED),
        POST_feedback=(200, RECEIPT),
    ) as stub:
        real = history._readings

        def readings(client: Any) -> Any:
            found = real(client)
            stub.answers["GET /rollout/evidence"] = (200, {"counters": {"shadow/sent": 7}})
            return found

        monkeypatch.setattr(history, "_readings", readings)
        result = understudy("replay", "--month", "7", "--url", stub.url)

    assert result.exit_code == 1
    assert "shadow/sent: the store says 2, /metrics says 0" in result.stdout


def test_drift_shows_the_features_nearest_to_their_line() -> None:
    """Beside it, with what rings since when; all of them when asked."""
    features = [
        {
            "variant": "primary",
            "feature": f"f{i}",
            "psi": i / 4,
            "line": 1.0,
            "missing": 0.25,
            "outside": 0.5,
            "since": None,
        }
        for i in range(8)
    ]
    features[7]["since"] = 1_372_770_000.0
    window = {"rows": 1234, "from": 1_372_683_600, "to": 1_372_770_000, "not_whole": None}
    alarms = [{"variant": "primary", "feature": "f7", "since": 1_372_770_000.0, "reason": "[f7] is unlike training"}]
    body = {
        "window": window,
        "features": features,
        "alarms": alarms,
        "notes": ["a note"],
        "estimates": {"primary": {"rows": 1234, "accuracy": 0.75, "brier": 0.125}},
    }
    with serving(GET_rollout_drift=(200, body)) as stub:
        few = done("drift", "--url", stub.url, COLUMNS="160")
        every = done("drift", "--all", "--url", stub.url, COLUMNS="160")
        assert json.loads(done("drift", "--json", "--url", stub.url)) == body
        stub.answers["GET /rollout/drift"] = (200, body | {"window": None, "features": []})
        nothing = done("drift", "--url", stub.url)

    for words in (
        "1,234 rows, 2013-07-01 13:00 to 2013-07-02 13:00 UTC",
        "accuracy 0.7500",
        "[f7] is unlike training",
        "a note",
    ):
        assert words in few
    assert re.search(r"f7 +1\.75 +1\.00 +█{20} +25\.0% +50\.0% +2013-07-02 13:00", few)
    assert "f2" not in few
    assert "f2" in every
    assert "no requests have been compared yet" in nothing
