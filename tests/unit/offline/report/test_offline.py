"""The evaluation in the report: whatever `understudy evaluate --json` writes is shown, and nothing else is taken for it."""

import json
import math
import re
from typing import Any

import pytest

from tests.unit.offline.report.test_report import POLICY, documents, state, text_of
from understudy.offline.evaluate.figures import Bin, Interval
from understudy.offline.evaluate.judge import Answered, Evaluation, SamplePart
from understudy.offline.report import offline, render


def part(name: str, difference: tuple[float, float, float] | None, rows: int = 500) -> SamplePart:
    one = Interval(0.2, 0.18, 0.22, rows)
    two = None if difference is None else Interval(*difference, rows)
    losses = [one] if two is None else [one, Interval(0.2 + two.mean, 0.1, 0.3, rows)]
    return SamplePart(name, rows, losses, losses, [0.8] * len(losses), [0.1] * len(losses), two, 0.2)


def evaluation(*, alone: bool = False, **changes: Any) -> Evaluation:
    months = [
        part("2013-07", None if alone else (-0.09, -0.1, -0.08)),
        part("2013-10", None if alone else (0.006, 0.001, 0.01)),
    ]
    segments = {
        "carrier": [
            part(name, None if alone else (i / 100 - 0.02, i / 100 - 0.03, i / 100 - 0.01))
            for i, name in enumerate("ABCDEFGHIJKL")
        ]
    }
    models = [{"name": n, "version": "1", "digest": "sha256:0", "failed": f} for n, f in (("poc", 0), ("better", 3))]
    number = 1 if alone else 2
    fields: dict[str, Any] = {
        "source": "a <file>",
        "loss": "brier",
        "models": models[:number],
        "rows": 1000,
        "labelled": 990,
        "method": "by days",
        "everything": part("everything", None if alone else (-0.02, -0.03, -0.01)),
        "months": months,
        "segments": segments,
        "calibration": [[Bin(10, 0.1, 0.2)]] * number,
        "calibration_errors": [0.1, None][:number],
        "auc": [0.7, None][:number],
        "answers": [Answered("is it <better>?", "yes", "because")],
        "problems": [f"problem {i}" for i in range(9)],
        "drift": [],
        "skew": ["temp differs in 3 rows"],
        "skew_checked": True,
    }
    return Evaluation(**(fields | changes))


def test_what_was_written_is_read_again() -> None:
    """Through JSON that every parser takes: a mean of nothing is null, not NaN."""
    nothing = SamplePart("none", 0, [Interval(math.nan, None, None, 0)] * 2, [], [None], [None], None, None)
    found = evaluation(months=[nothing])
    text = json.dumps(found.as_dict(), allow_nan=False)
    again = Evaluation.from_dict(json.loads(text))

    assert math.isnan(again.months[0].loss[0].mean)
    assert again.as_dict() == found.as_dict()
    with pytest.raises(ValueError, match=r"months"):
        Evaluation.from_dict(json.loads(text) | {"months": 3})
    with pytest.raises(ValueError, match=r"missing"):
        Evaluation.from_dict({"source": "x"})


def test_it_must_be_of_the_models_that_the_report_is_about() -> None:
    """By digest, in the order that the difference is taken in."""
    found = evaluation().as_dict()
    assert offline.mismatch(found, state()) is None
    other = state(candidate=state()["candidate"] | {"digest": "sha256:1"})
    assert "its candidate is better (sha256:0…), the rollout's is better (sha256:1…)" in (
        offline.mismatch(found, other) or ""
    )
    assert "does not have the candidate better" in (offline.mismatch(evaluation(alone=True).as_dict(), state()) or "")
    assert offline.mismatch(evaluation(alone=True).as_dict(), state(candidate=None)) is None


def test_the_worst_segments_come_first_and_are_a_risk() -> None:
    """Certainly worse is what the whole interval says; what may be worse is said as that."""
    found = evaluation().as_dict()
    view = offline.view(found)
    risks = dict(offline.risks(POLICY, found))

    assert [segment["name"] for _, segment in view["segments"]] == list("LKJIHGFE")
    assert view["counted"] == {"worse": 8, "better": 1, "all": 12}
    certain, perhaps = risks["Segments in which the candidate is worse, by carrier"]
    assert certain.startswith("By carrier: certainly in L (+0.0900), K (+0.0800)")
    assert certain.endswith("and 2 more.")
    assert perhaps == "By carrier: perhaps in D (+0.0100); the interval holds zero."
    assert risks["Months in which the candidate is worse"][0].endswith("in 2013-10 (+0.0060).")
    assert risks["Problems in the held-out data"][-1] == "And 3 more."
    assert risks["Training and serving differ"] == ["temp differs in 3 rows"]


@pytest.mark.parametrize("alone", [True, False])
def test_the_page_has_it(alone: bool) -> None:
    """With its words as text; one model alone as well."""
    found = evaluation(alone=alone).as_dict()
    page = render(
        documents(evaluation=found, state=state(candidate=None, phase="serving") if alone else state()), now=0.0
    )
    text = text_of(page)

    assert "990 labelled rows of a <file>; By days." in text
    assert "Is it <better>?yesBecause." in text
    assert ("-0.0900 (-0.1000 to -0.0800)" in text) != alone
    assert "poc: expected calibration error 0.100, AUC 0.700." in text
    assert ("better gave no answer to 3 rows." in text) != alone
    assert page.count('class="line primary"') == 1
    assert not re.search(r"\b(nan|NaN|None)\b", text)
