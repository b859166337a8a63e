"""The funnel's page in the docs has every reason, with the hint that people read."""

from pathlib import Path

from understudy.rollout.funnel import HINTS, why_unused

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "funnel.md"


def test_the_page_has_every_reason_with_its_hint() -> None:
    lines = PAGE.read_text().splitlines()
    assert [f"| {reason} | {hint} |" for reason, hint in HINTS.items() if f"| {reason} | {hint} |" not in lines] == []


def test_labels_that_wait_for_an_earlier_one_are_among_those_of_the_step() -> None:
    labels = {"": 9, "waits for an earlier label": 353, "unit already counted": 31}
    assert why_unused(labels, 362) == (
        " (393 labels came; 31 of them on further requests of a unit that counts already)"
    )
