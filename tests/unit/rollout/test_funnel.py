"""The funnel's page in the docs has every reason, with the hint that people read."""

from pathlib import Path

from service.rollout.funnel import HINTS

PAGE = Path(__file__).parents[3] / "docs" / "funnel.md"


def test_the_page_has_every_reason_with_its_hint() -> None:
    lines = PAGE.read_text().splitlines()
    assert [f"| {reason} | {hint} |" for reason, hint in HINTS.items() if f"| {reason} | {hint} |" not in lines] == []
