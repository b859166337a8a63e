"""The report stands by itself, says the verdict first, and JUnit's readers count the goals."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.loadtests import record
from tests.unit.loadtest.test_gates import CALM, GOALS, seen
from understudy.loadtest.gates import measure, verdict
from understudy.loadtest.report import junit, page, write
from understudy.loadtest.run import LoadTestOutcome
from understudy.loadtest.watching import UsageSample
from understudy.rollout.loadtest import Record


def outcome(slow: int = 0, lag_ms: float = 0.1) -> LoadTestOutcome:
    tally = seen(slow=slow, lag_ms=lag_ms)
    measured = measure(tally, 30, shadow_loss=0.0, records_loss=0.0, machine_per_hour=0.1)
    answer, reasons, findings = verdict(GOALS, measured, tally, CALM)
    changes = {
        "verdict": answer,
        "reasons": reasons,
        "findings": findings,
        "measured": measured,
        "goals": GOALS,
        "method": {"url": "http://h", "rows": "<b>"},
    }
    samples = [UsageSample(float(i), {"understudy": 0.4}, {"understudy": 150.0 + i}) for i in range(5)]
    return LoadTestOutcome(record().model_copy(update=changes), tally, samples)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_page_needs_nothing_but_itself() -> None:
    """Five pictures, no script, no link, nothing of the caller's unescaped, and the verdict in words."""
    text = page(outcome(slow=300))
    reader = Reader()
    reader.feed(text)

    assert reader.tags.count("svg") == 5
    assert reader.links == []
    assert not {"script", "link", "img", "b"} & set(reader.tags)
    assert not re.search(r"https?://(?!h<)", text)
    assert "fail: 100 of 100 requests/s" in text
    assert "p99 is 80.0 ms, the goal is 50 ms" in text


@pytest.mark.parametrize(
    ("made", "failures", "errors", "tag"),
    [(outcome(), 0, 0, ""), (outcome(300), 2, 0, "failure"), (outcome(0, 9), 0, 8, "error")],
)
def test_junit_counts_goals(made: LoadTestOutcome, failures: int, errors: int, tag: str) -> None:
    """A missed goal is a failure; an invalid test is an error in every goal."""
    suite = ET.fromstring(junit(made.record).partition("\n")[2])  # noqa: S314 - our own

    assert (suite.get("failures"), suite.get("errors")) == (str(failures), str(errors))
    assert suite.get("tests") == str(len(suite.findall("testcase")))
    if tag:
        assert len(suite.findall(f".//{tag}")) == failures + errors


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """The record is the very record."""
    made = outcome()
    paths = write(made, tmp_path / "out")

    assert Record.model_validate_json(paths["record.json"].read_bytes()) == made.record
    assert json.loads(paths["counts.json"].read_text())["due"] == 3_000
