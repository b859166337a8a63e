"""The dashboard in a real browser, against the real service with real flights."""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser.conftest import SCRIPTS, Look, barriers
from tests.support.service import Running, rollout_file, start

pytestmark = pytest.mark.acceptance

WIDTHS = (360, 768, 1440)


@pytest.fixture
def look(browser: Browser, served: Running) -> Iterator[Look]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    found = Look(context.new_page(), served.url)
    yield found
    context.close()
    assert found.wrong == []  # no console error, no violation of the Content-Security-Policy


def test_the_page_shows_where_the_rollout_stands(look: Look, served: Running) -> None:
    """The verdict in words, the steps, a band per metric, figures of both models; all of it from the service's answers."""
    page = look.open()
    state = served.rollout()

    expect(page.locator("#headline")).to_have_text("flight_candidate rehearses: waits for labels")
    expect(page.locator("#reason")).to_contain_text("labels that this step needs")
    assert page.locator("#steps li").count() == 5
    expect(page.locator("#steps li[aria-current=step]")).to_contain_text("Shadow")
    expect(page.locator("#evidence article")).to_have_count(len(state["metrics"]))
    for metric in state["metrics"]:
        card = page.locator(f"[data-metric={metric['metric']}]")
        if metric["low"] is not None:  # a metric that only harm is read from has no band
            expect(card.locator("svg path.area")).to_have_attribute("d", re.compile(r"^M[\d. LMZ-]+Z$"))
        if metric["n"]:  # the requests of an interval count when it is over, and here it may be the first
            expect(card.locator("svg")).to_have_attribute("aria-label", re.compile(r"after|target|intervals of"))
        else:
            expect(card.locator(".words")).to_contain_text("none is over yet")
        assert "NaN" not in card.inner_html()
    brier = page.locator("[data-metric=brier]")
    expect(brier.locator("[role=meter]")).to_have_count(2)
    brier.locator("summary").click()
    expect(brier.locator("tbody tr").last.locator("td").nth(1)).to_have_text(re.compile(r"^-?0\.\d{3}$"))
    figures = page.locator("#figures")
    expect(figures).to_contain_text(f"{state['variants']['primary']['brier']:.4f}")
    expect(figures).to_contain_text(f"{state['variants']['candidate']['brier']:.4f}")
    expect(figures).to_contain_text("of the predictions have a label")
    expect(page.locator("#log tr")).to_have_count(
        sum(event["kind"] != "drift" for event in served.http.get("/rollout/events").json()["events"])
    )


def test_what_the_models_differ_in_and_how_far_requests_are_from_training(look: Look, served: Running) -> None:
    """Another label on how many rows; each watched feature beside its line; the log without drift alarms unless asked for."""
    page = look.open()
    state = served.rollout()
    expect(page.locator("#figures")).to_contain_text(f"{state['comparison']['labels']['flips']:,} (")
    drift = served.http.get("/rollout/drift").json()
    expect(page.locator("#drift")).to_be_visible()
    for variant in ("primary", "candidate"):
        readings = [reading for reading in drift["features"] if reading["variant"] == variant]
        table = page.locator("#drift article", has_text=f"against the {variant}'s training")
        table.locator("summary").click()
        expect(table.locator("tbody tr")).to_have_count(len(readings))
        month = next(reading for reading in readings if reading["feature"] == "month")
        row = table.locator("tr", has=page.get_by_role("rowheader", name=re.compile("^month")))
        expect(row).to_contain_text(f"{month['psi']:.2f}")
    expect(page.locator("#log tr", has_text="drift")).to_have_count(0)


def test_latency_and_failures_are_drawn_over_time(look: Look, served: Running) -> None:
    """What happened before the page was opened too; real requests, counted by two workers; in words and numbers as well."""
    row = {field["name"]: field["example"] for field in served.http.get("/rollout/policy").json()["fields"]}
    for _ in range(3):
        assert served.predict(row).status_code == 200
    told = served.http.get("/rollout/traffic").json()
    page = look.open()
    assert [each for each in told["points"] if "primary" in each]
    latency, failures, requests = (page.locator(f"[data-traffic={n}]") for n in ("latency", "failures", "requests"))
    for line in (
        latency.locator("path.line.primary.p50"),
        latency.locator("path.line.primary.p99"),
        failures.locator("path.line.candidate"),
        requests.locator("path.line.primary"),
    ):
        expect(line).to_have_attribute("d", re.compile(r"^M[\d. MLH]+$"))
    expect(latency.locator("path.line.candidate")).to_have_count(0)  # in shadow it answers nobody
    newest = served.http.get("/rollout/traffic").json()["points"][-1]["primary"]["p99_ms"]
    expect(latency).to_contain_text(f"p99 {newest:.2f}." if newest < 10 else f"p99 {newest:.0f}.")
    expect(latency.locator("svg")).to_have_attribute("aria-label", re.compile("over time: primary, median: "))
    expect(failures).to_contain_text("candidate without an answer 0.00 %. Highest: 0.00 % at")
    latency.locator("summary").click()
    assert latency.locator("tbody tr").count() >= 1
    before = latency.locator("path.line.primary.p99").get_attribute("d")
    served.predict(row)
    expect(latency.locator("path.line.primary.p99")).not_to_have_attribute("d", before or "")  # without a reload
    page.get_by_label("last 1.2 min").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("last 2.4 h")).to_be_checked()
    expect(page.locator("#traffic-note")).to_contain_text("A point is 36 s")


def test_where_nobody_asked_the_line_is_broken_and_the_worst_is_said(look: Look) -> None:
    """A gap is no zero; a spike that has passed is in the words."""
    now = time.time()

    def point(ago: float, failed: int, p99: float) -> dict[str, Any]:
        told = {"requests": 50, "asked": 100, "failed": failed, "p50_ms": 1.0, "p99_ms": p99}
        return {"from": now - ago, "to": now - ago + 5, "primary": told | {"failed": 0}, "candidate": told}

    points = [point(60, 0, 2.0), point(55, 31, 240.0), point(30, 0, 2.5)]
    body = {"span": "recent", "interval_s": 5.0, "points_max": 240, "points": points}
    look.page.route(
        "**/rollout/traffic*",
        lambda route: route.fulfill(json=body if "after=0" in route.request.url else {**body, "points": []}),
    )
    page = look.open()
    line = page.locator("[data-traffic=latency] path.line.candidate.p99")
    expect(line).to_have_attribute("d", re.compile(r"^M[^M]+L[^M]+M[^M]+$"))
    failures = page.locator("[data-traffic=failures]")
    expect(failures).to_contain_text(re.compile(r"candidate without an answer 0\.00 %\. Highest: 31\.00 % at"))
    label = re.compile(r"candidate, without an answer: 0\.00 % at .*, at most 31\.00 % at")
    expect(failures.locator("svg")).to_have_attribute("aria-label", label)
    expect(failures.locator("tbody tr").nth(1)).to_contain_text("31.00 %")
    expect(page.locator("[data-traffic=latency] line.margin")).to_have_count(1)


def test_nothing_is_sent_again_while_nothing_is_new(look: Look, served: Running) -> None:
    """The page asks with what it has; an idle service answers 304."""
    served.wait_for(lambda: served.rollout()["shadow"]["sent"] == served.rollout()["shadow"]["compared"])
    answers: list[tuple[str, int]] = []
    look.page.on("response", lambda response: answers.append((response.url.removeprefix(served.url), response.status)))
    page = look.open()
    page.wait_for_timeout(5000)
    for call in ("/rollout", "/rollout/evidence"):
        statuses = [status for url, status in answers if url == call]
        assert statuses.count(304) >= 1, answers
        assert statuses.count(200) <= 2, answers  # the first, and another worker's word of the candidate
    expect(page.locator("#live")).to_have_text("live")


def test_an_order_that_lacks_a_load_test_may_be_forced_and_says_so(look: Look) -> None:
    """Only when the service says that it may be; the first try is without."""
    page = look.open()
    asked: list[Any] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.post_data_json)
        detail = (
            "the step `canary 50` requires a load test: none is there; or force the order, with a reason for the log"
        )
        route.fulfill(status=409, content_type="application/problem+json", json={"status": 409, "detail": detail})

    page.route("**/rollout/promote", refuse)
    page.get_by_role("button", name="Promote one step").click()
    expect(page.get_by_label("Skip what the step requires")).to_be_hidden()
    page.get_by_label("Reason").fill("we know")
    page.locator("#order-yes").click()
    expect(page.locator("#order-problem")).to_contain_text("requires a load test")
    page.get_by_label("Skip what the step requires").check()
    page.locator("#order-yes").click()
    expect(page.locator("#order-yes")).to_be_enabled()
    assert asked == [{"reason": "we know"}, {"reason": "we know", "force": True}]
    look.wrong = [text for text in look.wrong if "409" not in text]


def test_an_order_needs_a_reason_and_the_page_follows_without_a_reload(look: Look, served: Running) -> None:
    """Cancelled: nothing. Without a reason: nothing. With one: done, in the log, and the buttons are those of the new phase."""
    page = look.open()
    revision = served.rollout()["revision"]
    dialog = page.locator("#order")
    page.get_by_role("button", name="Pause").click()
    expect(dialog).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Pause").click()
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_be_visible()  # the reason is missing
    assert served.rollout()["revision"] == revision
    page.get_by_label("Reason").fill("lunch <b>break</b>")
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#headline")).to_have_text(re.compile("^Paused by .* with flight_candidate at 0 %"))
    expect(page.locator("#log tr").first).to_contain_text("Lunch <b>break</b>")
    assert served.http.get(f"/rollout/events?after={revision}").json()["events"][-1]["reason"] == "lunch <b>break</b>"
    served.http.post("/rollout/resume", json={"reason": "from elsewhere"})
    expect(page.locator("#headline")).to_contain_text("rehearses")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_an_order_on_a_stale_revision_is_refused(look: Look, served: Running) -> None:
    """Somebody else was faster while the dialog was open."""
    page = look.open()
    page.get_by_role("button", name="Set weight").click()
    page.get_by_label("share").fill("12.5")
    page.get_by_label("Reason").fill("try it")
    for name in ("pause", "resume"):
        served.http.post(f"/rollout/{name}", json={})
    page.wait_for_timeout(2500)  # longer than the page's own look at the state
    page.locator("#order").get_by_role("button", name="Set weight").click()
    expect(page.locator("#order-problem")).to_contain_text("look again")
    assert served.rollout()["weight"] == 0
    page.get_by_role("button", name="Cancel").click()
    look.wrong = [text for text in look.wrong if "409" not in text]  # Chromium's own line about the answer


def test_one_row_to_both_models(look: Look, served: Running) -> None:
    """The form comes from the signature; both answers stand side by side; what does not fit is marked at its field."""
    page = look.open()
    before = served.rollout()["variants"]
    fields = page.locator("#try-form .field")
    assert fields.count() == len(served.http.get("/rollout/policy").json()["fields"]) + 1  # and the routing key
    page.get_by_role("button", name="Predict with both").click()
    answers = page.locator("#try-answers article")
    expect(answers).to_have_count(2)
    for variant in ("primary", "candidate"):
        expect(answers.filter(has_text=variant)).to_contain_text("P(1)")
    page.locator("#field-month").fill("")
    page.get_by_role("button", name="Predict with both").click()
    expect(page.locator("#field-month")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#field-month-note")).to_contain_text("missing")
    expect(page.locator("#field-month")).to_be_focused()
    page.get_by_role("button", name="Fill in an example").click()
    expect(page.locator("#field-month")).to_have_attribute("aria-invalid", "false")
    assert served.rollout()["variants"]["primary"]["requests"] == before["primary"]["requests"]  # pinned is no evidence
    look.wrong = [text for text in look.wrong if "422" not in text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(browser: Browser, served: Running, scheme: Any) -> None:
    """Nothing that axe-core finds; contrast AA in pictures too, names for every control, no sideways scrolling, at any width."""
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    look = Look(context.new_page(), served.url)
    page = look.open()
    page.get_by_role("button", name="Predict with both").click()
    expect(page.locator("#try-answers article")).to_have_count(2)
    page.evaluate("document.querySelectorAll('details').forEach((n) => { n.open = true; })")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(250)
        assert barriers(page) == "", f"{scheme} at {width}"
        assert page.evaluate((SCRIPTS / "contrast.js").read_text()) == [], f"{scheme} at {width}"
        assert page.evaluate((SCRIPTS / "names.js").read_text()) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Abort").click()
    assert barriers(page) == ""
    assert page.evaluate((SCRIPTS / "contrast.js").read_text()) == []
    assert page.evaluate((SCRIPTS / "names.js").read_text()) == []
    page.keyboard.press("Escape")
    expect(page.locator("#order")).to_be_hidden()
    expect(page.get_by_role("button", name="Abort")).to_be_focused()  # where one was
    context.close()
    assert look.wrong == []


def test_the_keyboard_reaches_everything_and_one_sees_where_one_is(look: Look) -> None:
    """Tab goes through every control in turn; each shows an outline."""
    page = look.open()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the verdict")).to_be_focused()
    for _ in range(200):
        outline, what = page.evaluate(
            """() => { const n = document.activeElement; n.dataset.seen = "";
                       return [getComputedStyle(n).outlineStyle, n.outerHTML]; }"""
        )
        if what.startswith("<body"):
            break
        assert outline != "none", what[:80]
        page.keyboard.press("Tab")
    missed = page.evaluate(
        """[...document.querySelectorAll("button, a[href], input:not([type=radio]:not(:checked)), textarea, summary, .scroll")]
           .filter((n) => n.checkVisibility() && !("seen" in n.dataset)).map((n) => n.outerHTML)"""
    )
    assert missed == []


def test_the_checks_of_contrast_and_names_would_see_something(look: Look) -> None:
    """A check that cannot fail is none."""
    page = look.open()
    assert barriers(page) == ""
    page.evaluate(
        """() => { document.querySelector("#reason p").style.color = "#999";
                   document.querySelector("#orders button").textContent = "";
                   document.querySelector("#try-title").remove(); }"""
    )
    assert any(".P" in line or " P." in line for line in page.evaluate((SCRIPTS / "contrast.js").read_text()))
    names = page.evaluate((SCRIPTS / "names.js").read_text())
    assert any("no name: <button" in line for line in names)
    assert any("names try-title, which is not there" in line for line in names)
    assert {"button-name", "color-contrast"} <= set(re.findall(r"[a-z]+-[a-z-]+", barriers(page)))


def test_a_service_that_goes_away_is_said_and_what_was_seen_stays(look: Look) -> None:
    """The page does not go blank; it says since when it knows nothing new, and recovers."""
    page = look.open()
    page.route("**/rollout*", lambda route: route.abort())
    expect(page.locator("#live")).to_contain_text("does not answer; this page shows the state of", timeout=8000)
    expect(page.locator("#headline")).to_contain_text("rehearses")
    page.unroute("**/rollout*")
    expect(page.locator("#live")).to_have_text("live", timeout=8000)
    look.wrong = [text for text in look.wrong if "ERR_FAILED" not in text]


def test_with_tokens_one_signs_in_and_sees_what_the_role_allows(browser: Browser, tmp_path: Path) -> None:
    """A viewer sees no buttons and no form; an operator does; the token stays in the tab and goes with signing out."""
    tokens = tmp_path / "tokens"
    lines = [
        f"{n} {role} {hashlib.sha256(n.encode()).hexdigest()}" for n, role in (("vic", "viewer"), ("olga", "operator"))
    ]
    tokens.write_text("\n".join(lines) + "\n")
    service = start(tmp_path / "state", rollout=rollout_file(tmp_path), tokens_file=str(tokens))
    context = browser.new_context()
    look = Look(context.new_page(), service.url)
    try:
        page = look.open()
        expect(page.locator("#page")).to_be_hidden()
        assert barriers(page) == ""
        for token, words in (("nobody", "unknown"), ("vic", None)):
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Sign in").click()
            if words:
                expect(page.locator("#sign-in [role=alert]")).to_contain_text(words)
        expect(page.locator("#who")).to_contain_text("vic, viewer")
        expect(page.locator("#headline")).to_contain_text("rehearses")
        assert not page.locator("#orders button").count()
        expect(page.locator("#try")).to_be_hidden()
        page.reload()
        expect(page.locator("#who")).to_contain_text("vic, viewer")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Token").fill("olga")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("button", name="Abort")).to_be_visible()
        expect(page.locator("#try")).to_be_visible()
        assert page.evaluate("localStorage.length") == 0
        assert context.cookies() == []
        assert "olga" not in page.url
    finally:
        context.close()
        service.stop()
    assert [text for text in look.wrong if "401" not in text] == []


def test_no_page_of_another_site_may_order(served: Running) -> None:
    """Without tokens everyone on loopback is operator; a page from elsewhere in their browser is not them."""
    revision = served.rollout()["revision"]
    for origin in ("http://evil.example", "null"):
        refused = served.http.post(
            "/rollout/abort", content=b"{}", headers={"Origin": origin, "Content-Type": "text/plain"}
        )
        assert refused.status_code == 403
    assert served.rollout()["revision"] == revision
